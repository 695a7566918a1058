//! `spile upload FILE…|ls|cancel`: files go up, several at once, and go on where the last try ended.

mod identity;
mod watch;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use spile_client::{Blob, Client, Error, Listing, wall};
use spile_protocol::code::Code;
use tempfile::NamedTempFile;
use tokio::task::JoinSet;

use crate::args::{Everywhere, Upload, UploadCommand, UploadSend};
use crate::command::answer::lines;
use crate::command::builtin::{Whole, ask};
use crate::confirm::confirm;
use crate::connect::{connect, within};
use crate::failure::{Exit, Failure};
use crate::local_code;
use crate::output::Output;
use crate::signal;
use crate::value::{bytes, duration, size};
use identity::Identity;
use watch::Watch;

pub(crate) async fn run(
    upload: &Upload,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    match &upload.command {
        None => send(&upload.send, typed, output).await,
        Some(UploadCommand::Ls) => ls(typed, output).await,
        Some(UploadCommand::Cancel { id, yes }) => cancel(id, *yes, typed, output).await,
    }
}

/// One upload, as scripts read it.
#[derive(Serialize)]
struct Uploaded<'a> {
    blob: &'a str,
    key: &'a str,
    name: &'a str,
    revision: u64,
    size: u64,
    blake3: String,
    sent: u64,
    resumed_at: u64,
    durability: &'static str,
}

fn print(blob: &Blob, output: &mut Output) -> Result<(), Failure> {
    let told = Uploaded {
        blob: &blob.blob,
        key: &blob.key,
        name: &blob.name,
        revision: blob.revision,
        size: blob.size,
        blake3: bytes::hex(&blob.blake3),
        sent: blob.sent,
        resumed_at: blob.resumed_at,
        durability: "stored",
    };
    output.went_well(&told, |told| {
        let Uploaded { blob, key, name, revision, .. } = told;
        let (whole, sent) = (size::show(told.size), size::show(told.sent));
        let resumed = match told.resumed_at {
            0 => String::new(),
            at if at == told.size => ", it was there already".to_owned(),
            at => format!(", went on at {}", size::show(at)),
        };
        format!("stored {key} {name} revision {revision} as {blob} ({whole}; sent {sent}{resumed})")
    })
}

/// A file that is to go up.
#[derive(Clone, Debug)]
struct Given {
    path: PathBuf,
    name: String,
    size: u64,
    identity: Identity,
    /// Stdin lies here until it is sent.
    _spooled: Option<Arc<NamedTempFile>>,
}

fn unreadable(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::local(&local_code::FILE, format!("upload {}", path.display()), why)
}

impl Given {
    fn new(path: &Path, send: &UploadSend) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Self::stdin(send);
        }
        let identity = Identity::of(path).map_err(|why| unreadable(path, why))?;
        let own = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = send.name.clone().or(own).unwrap_or_default();
        Ok(Self { path: path.to_owned(), name, size: identity.size(), identity, _spooled: None })
    }

    /// OPEN says how long the whole is, so all of stdin is read first.
    fn stdin(send: &UploadSend) -> Result<Self, Failure> {
        if std::io::stdin().is_terminal() {
            return Err(Failure::usage("upload -", "stdin is a terminal").remedy("pipe it in"));
        }
        let failed = |why: std::io::Error| {
            Failure::local(&local_code::FILE, "upload -", format!("stdin can't be kept: {why}"))
                .remedy("make room where TMPDIR says, or write it to a file and upload that")
        };
        let mut file = NamedTempFile::new().map_err(failed)?;
        let identity = Identity::spool(&mut std::io::stdin().lock(), &mut file).map_err(failed)?;
        let name = send.name.clone().unwrap_or_else(|| "stdin".to_owned());
        let (path, size) = (file.path().to_owned(), identity.size());
        Ok(Self { path, name, size, identity, _spooled: Some(Arc::new(file)) })
    }

    fn what(&self) -> String {
        format!("upload {}", self.name)
    }
}

async fn send(args: &UploadSend, typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    if args.files.len() > 1 && args.name.is_some() {
        return Err(Failure::usage("--name", "there are several files")
            .remedy("name one file, or leave their own names"));
    }
    if args.files.iter().filter(|file| *file == Path::new("-")).count() > 1 {
        return Err(Failure::usage("upload", "stdin can be sent once only"));
    }
    let given: Result<Vec<_>, _> = args.files.iter().map(|file| Given::new(file, args)).collect();
    let given = given?;
    let client = connect(typed).await?;
    let outcome = tokio::select! {
        outcome = all(&client, args, given, typed, output) => outcome,
        () = signal::stop() => {
            output.notice("stopped; the same command again goes on where this one ended");
            Err(Failure::Quiet(Exit::Failed))
        }
    };
    client.close().await;
    outcome
}

/// All files, so many at once; each result as it comes, a failure in its place.
async fn all(
    client: &Client,
    args: &UploadSend,
    given: Vec<Given>,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    let alone = given.len() == 1;
    let watch = Watch::new(&given, typed.timeout, wall());
    let mut progress = watch.progress(output);
    let (mut waiting, mut tasks) = (given.into_iter().enumerate(), JoinSet::new());
    let mut failed = None;
    let mut look = tokio::time::interval(watch::LOOK_EVERY);
    loop {
        while tasks.len() < usize::from(args.parallel)
            && let Some((number, given)) = waiting.next()
        {
            let sending = one(client.clone(), args, given, watch.clone(), number);
            tasks.spawn(watch.clone().within(number, client.clone(), sending));
        }
        let ended = tokio::select! {
            ended = tasks.join_next() => ended,
            _ = look.tick() => {
                watch.show(&mut progress, wall());
                continue;
            }
        };
        match ended {
            None => break,
            Some(Ok(Ok(blob))) => print(&blob, output)?,
            Some(Ok(Err(failure))) if alone => failed = Some(failure),
            Some(Ok(Err(failure))) => {
                output.failure(&failure)?;
                failed = Some(Failure::Quiet(failure.exit()));
            }
            Some(Err(broken)) => {
                failed = Some(Failure::local(&local_code::ANSWER, "upload", broken));
            }
        }
        output.flush()?;
    }
    progress.finish();
    failed.map_or(Ok(()), Err)
}

/// One file, sent to its end.
fn one(
    client: Client,
    args: &UploadSend,
    given: Given,
    watch: Watch,
    number: usize,
) -> impl Future<Output = Result<Blob, Failure>> + Send + use<> {
    let (key, content_type, meta) =
        (args.key.clone(), args.content_type.clone(), args.meta.clone());
    async move {
        let made = |id: Option<[u8; 16]>| {
            let watch = watch.clone();
            let upload = spile_client::Upload::path(&given.path)
                .name(given.name.as_str())
                .content_type(content_type.as_str())
                .progress(move |progress| watch.went_on(number, progress));
            let upload = meta
                .iter()
                .fold(upload, |upload, (name, value)| upload.meta(name.as_str(), value.as_str()));
            let upload = key.iter().fold(upload, |upload, key| upload.key(key.as_str()));
            id.into_iter().fold(upload, spile_client::Upload::id)
        };
        let session = client.session();
        let id =
            given.identity.id(&session.tenant, &session.principal, key.as_deref(), &given.name);
        let blob = client
            .upload(made(Some(id)))
            .await
            .map_err(|why| failure(&given, &why, &watch, number))?;
        if is_another(&client, &blob).await {
            // The file changed and kept its length and time, or that blob was removed.
            return client
                .upload(made(None))
                .await
                .map_err(|why| failure(&given, &why, &watch, number));
        }
        Ok(blob)
    }
}

/// Was this id sealed before, and that blob is not what was read here?
async fn is_another(client: &Client, blob: &Blob) -> bool {
    if blob.sent > 0 || blob.resumed_at < blob.size || blob.size == 0 {
        return false;
    }
    match client.blob(&blob.blob).await {
        Ok(found) => found.blake3.is_some_and(|hash| hash != blob.blake3),
        // Who may not read it can't tell.
        Err(why) => why.code() == Some(Code::NOT_FOUND),
    }
}

fn failure(given: &Given, why: &Error, watch: &Watch, number: usize) -> Failure {
    let failure = Failure::client(given.what(), why);
    let half = watch.resumed_at(number).filter(|at| *at > 0);
    match (why.code(), half) {
        (Some(Code::MISMATCH), Some(at)) => Failure::code(
            given.what(),
            Code::MISMATCH,
            format!(
                "the {} that were stored before are of another file; they were forgotten",
                size::show(at)
            ),
        )
        .remedy("the same command again sends all of it"),
        (Some(Code::REPLACED), _) => {
            failure.remedy("the same upload goes on elsewhere; wait for that")
        }
        (Some(Code::CONFLICT), _) => failure.remedy("cancel the other one: spile upload ls"),
        (_, _) => failure,
    }
}

/// What is under way, as scripts read it.
#[derive(Serialize)]
struct UnderWay {
    upload: String,
    key: String,
    name: String,
    size: u64,
    stored_offset: u64,
    device: String,
    /// How long ago it was begun, in seconds.
    age: u64,
}

async fn ls(typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let client = connect(typed).await?;
    let mut listed = client.list(Listing::Uploads, "");
    let outcome = loop {
        match within(typed.timeout, "upload ls", async { listed.next().await.transpose() }).await {
            Ok(Some(found)) => {
                let told = UnderWay {
                    device: found.principal,
                    upload: found.id,
                    key: found.key,
                    name: found.name,
                    size: found.size,
                    stored_offset: found.stored_offset,
                    age: wall().0.saturating_sub(found.time.0) / 1_000,
                };
                output.result(&told, UnderWay::line)?;
            }
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    if listed.is_partial() {
        Whole::Part.tell(output);
    }
    client.close().await;
    outcome
}

impl UnderWay {
    fn line(&self) -> String {
        let Self { upload, key, name, device, .. } = self;
        let (stored, whole) = (size::show(self.stored_offset), size::show(self.size));
        let age = duration::show(std::time::Duration::from_secs(self.age));
        format!("{upload} {stored:>10} of {whole:>10} {age:>6}  {device:<20} {key:<20} {name}")
    }
}

async fn cancel(
    id: &str,
    yes: bool,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let failure = Failure::usage(format!("upload {id:?}"), "an id is 32 hexadecimal digits");
        return Err(failure.remedy("spile upload ls tells it"));
    }
    confirm(yes, &format!("cancel upload {id}: what was sent of it is forgotten"))?;
    let client = connect(typed).await?;
    let outcome = ask(&client, typed, "$upload", "cancel", &json!({ "id": id })).await;
    client.close().await;
    output.result(&outcome?, lines)
}
