//! `spile context ls|use|show`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use spile_protocol::code::Code;

use crate::args::{ContextCommand, Everywhere};
use crate::connect::named;
use crate::context::{self, Found};
use crate::failure::Failure;
use crate::output::Output;

/// Where an all-in-one leaves its contexts.
const LOCAL: &str = "./spile-data/dev";

#[derive(Serialize)]
struct Listed {
    context: String,
    path: PathBuf,
    url: Option<String>,
    principal: Option<String>,
    tenant: Option<String>,
    in_use: bool,
}

#[derive(Serialize)]
struct Shown {
    path: Option<PathBuf>,
    #[serde(flatten)]
    context: context::Context,
}

pub(crate) fn run(
    command: &ContextCommand,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        ContextCommand::Ls => list(typed, output),
        ContextCommand::Use { context } => {
            let path = context::by_name(context);
            if !path.exists() {
                let what = format!("use context {context}");
                let why = format!("there is no {}", path.display());
                let failure = Failure::code(what, Code::NOT_FOUND, why);
                return Err(failure.remedy("name a file, or one that `spile context ls` shows"));
            }
            // Read first: what can't be read is not chosen.
            context::read(&path)?;
            context::choose(&path)?;
            show(&Found { context: context::read(&path)?, path: Some(path) }, output)
        }
        ContextCommand::Show => show(&context::find(named(typed), true)?, output),
    }
}

fn show(found: &Found, output: &mut Output) -> Result<(), Failure> {
    let shown = Shown { path: found.path.clone(), context: found.context.clone() };
    output.result(&shown, |shown| {
        let text = toml::to_string(&shown.context).unwrap_or_default();
        let path = shown.path.as_ref().map(|path| format!("# {}\n", path.display()));
        format!("{}{}", path.unwrap_or_default(), text.trim_end())
    })
}

fn list(typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let in_use = context::find(named(typed), false)?.path;
    let in_use = in_use.and_then(|path| std::path::absolute(path).ok());
    let folders = [context::folder(), Some(PathBuf::from(LOCAL))];
    for path in folders.iter().flatten().flat_map(|folder| files(folder)) {
        // What is no context is passed over: the folder may hold other files.
        let Ok(found) = context::read(&path) else { continue };
        let in_use = in_use.is_some() && std::path::absolute(&path).ok() == in_use;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (url, principal, tenant) = (found.url, found.principal, found.tenant);
        output.result(&Listed { context: name, path, url, principal, tenant, in_use }, line)?;
    }
    Ok(())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

fn line(listed: &Listed) -> String {
    let mark = if listed.in_use { '*' } else { ' ' };
    let url = listed.url.as_deref().unwrap_or("-");
    format!("{mark} {:<12} {url:<28} {}", listed.context, listed.path.display())
}
