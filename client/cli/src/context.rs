//! Contexts: where the server is and who we are, as files. What is said on the command line goes before what they say.
//!
//! Order: `--context`, `SPILE_CONTEXT`, the one chosen with `spile context use`, `./spile-data/dev/operator.toml`.
//! A context is a file by its path, or by its name one of those in the user's folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::local_code;

/// Where an all-in-one leaves the operator's.
const DEFAULT: &str = "./spile-data/dev/operator.toml";
/// In the user's folder: holds the chosen context's path.
const CURRENT: &str = "current";

/// What a context file says. Unknown fields are left for newer versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Context {
    /// Where the server is.
    pub(crate) url: Option<String>,
    /// The authority's certificate.
    pub(crate) ca: Option<PathBuf>,
    /// Our certificate.
    pub(crate) cert: Option<PathBuf>,
    /// Its key.
    pub(crate) client_key: Option<PathBuf>,
    /// A file with a device key in hexadecimal.
    pub(crate) device_key: Option<PathBuf>,
    /// A file with a token.
    pub(crate) token: Option<PathBuf>,
    /// The tenant.
    pub(crate) tenant: Option<String>,
    /// Who we are; with a device key it must be said.
    pub(crate) principal: Option<String>,
    /// The authority that signs devices' certificates, and its key: for `device add --cert`.
    pub(crate) device_ca: Option<PathBuf>,
    /// Its key.
    pub(crate) device_ca_key: Option<PathBuf>,
}

/// A context and the file it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The file; `None` where everything is said on the command line.
    pub(crate) path: Option<PathBuf>,
    /// What it says.
    pub(crate) context: Context,
}

/// Finds and reads the context that was named, or the one that counts where none was.
pub(crate) fn find(named: Option<&str>, required: bool) -> Result<Found, Failure> {
    let path = match named {
        Some(named) => by_name(named),
        None => chosen().unwrap_or_else(|| PathBuf::from(DEFAULT)),
    };
    if named.is_none() && !required && !path.exists() {
        return Ok(Found { path: None, context: Context::default() });
    }
    Ok(Found { context: read(&path)?, path: Some(path) })
}

/// Reads a context file; the paths in it are relative to its folder.
pub(crate) fn read(path: &Path) -> Result<Context, Failure> {
    let what = || format!("read context {}", path.display());
    let text = std::fs::read_to_string(path)
        .map_err(|why| Failure::local(&local_code::CONTEXT, what(), why))?;
    let mut context: Context = toml::from_str(&text).map_err(|why| {
        let at = why
            .span()
            .map_or(0, |span| text.get(..span.start).unwrap_or_default().lines().count().max(1));
        Failure::local(&local_code::CONTEXT, what(), format!("line {at}: {}", why.message()))
            .remedy("correct it; `spile context show` prints one that works")
    })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    for file in [
        &mut context.ca,
        &mut context.cert,
        &mut context.client_key,
        &mut context.device_key,
        &mut context.token,
        &mut context.device_ca,
        &mut context.device_ca_key,
    ] {
        *file = file.take().map(|file| folder.join(file));
    }
    Ok(context)
}

/// The user's folder of contexts.
pub(crate) fn folder() -> Option<PathBuf> {
    let home =
        || std::env::var_os("HOME").filter(set).map(|home| PathBuf::from(home).join(".config"));
    let config =
        std::env::var_os("XDG_CONFIG_HOME").filter(set).map(PathBuf::from).or_else(home)?;
    Some(config.join("spile"))
}

fn set(value: &OsString) -> bool {
    !value.is_empty()
}

/// A name of the user's folder, or a path.
pub(crate) fn by_name(named: &str) -> PathBuf {
    let plain = !named.contains(['/', '.']);
    let kept = folder().filter(|_| plain).map(|folder| folder.join(format!("{named}.toml")));
    kept.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(named))
}

/// The one that `spile context use` chose.
pub(crate) fn chosen() -> Option<PathBuf> {
    let text = std::fs::read_to_string(folder()?.join(CURRENT)).ok()?;
    Some(PathBuf::from(text.trim_end_matches('\n')))
}

/// Chooses one for the commands to come.
pub(crate) fn choose(path: &Path) -> Result<(), Failure> {
    let folder = folder().ok_or_else(|| {
        Failure::local(
            &local_code::FILE,
            "choose a context",
            "neither HOME nor XDG_CONFIG_HOME is set",
        )
    })?;
    let failed = |why| {
        Failure::local(&local_code::FILE, format!("write {}", folder.join(CURRENT).display()), why)
    };
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let whole = std::path::absolute(path).map_err(failed)?;
    std::fs::write(folder.join(CURRENT), format!("{}\n", whole.display())).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(
            &path,
            "url = \"spile://h\"\nca = \"ca.pem\"\ncert = \"/abs/c.pem\"\nnewer = 1\n",
        )
        .unwrap();
        let context = read(&path).unwrap();
        assert_eq!(context.ca, Some(folder.path().join("ca.pem")));
        assert_eq!(context.cert, Some(PathBuf::from("/abs/c.pem")));
        assert_eq!(context.url.as_deref(), Some("spile://h"));
    }

    #[test]
    fn a_broken_one_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "url = \"spile://h\"\nca = 5\n").unwrap();
        let failure = read(&path).unwrap_err();
        assert_eq!(failure.name(), Some("context"));
        let line = failure.line().unwrap();
        assert!(line.contains("c.toml: line 2:"), "{line}");
        assert_eq!(failure.exit().number(), 2);
    }

    #[test]
    fn a_missing_one_says_how_to_get_one() {
        let failure = read(Path::new("/nowhere/c.toml")).unwrap_err();
        let line = failure.line().unwrap();
        assert!(line.contains("start `spiled`"), "{line}");
    }
}
