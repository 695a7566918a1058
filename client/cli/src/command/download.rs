//! `spile download B`: into FILE.part, checked, and then under its name; the same command again goes on there.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use spile_client::{Client, Found, wall};
use spile_protocol::code::Code;
use tokio::io::AsyncWriteExt;

use crate::args::{Download, Everywhere};
use crate::command::blob::Told;
use crate::connect::{connect, within};
use crate::failure::{Exit, Failure};
use crate::local_code;
use crate::output::Output;
use crate::progress::Progress;
use crate::value::size;

/// How often the bar is drawn, in bytes: a look at the clock for each part would cost more than the part.
const DRAW_EVERY: u64 = 1 << 20;

/// A download that is done, as scripts read it.
#[derive(Serialize)]
struct Downloaded {
    #[serde(flatten)]
    about: Told,
    file: String,
    received: u64,
    resumed_at: u64,
}

pub(crate) async fn run(
    args: &Download,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    let client = connect(typed).await?;
    let outcome = fetch(&client, args, typed, output).await;
    client.close().await;
    outcome
}

async fn fetch(
    client: &Client,
    args: &Download,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    let what = format!("download {}", args.blob);
    let about = within(typed.timeout, &what, client.blob(&args.blob)).await?;
    let fetching = Fetching { client, what, about, timeout: typed.timeout };
    match args.output.as_deref() {
        Some(path) if path == Path::new("-") => fetching.to_stdout(output).await,
        Some(path) => fetching.to_file(path, output).await,
        None => fetching.to_file(&fetching.own_name()?, output).await,
    }
}

struct Fetching<'a> {
    client: &'a Client,
    what: String,
    about: Found,
    timeout: Duration,
}

impl Fetching<'_> {
    fn file(&self, path: &Path, why: impl std::fmt::Display) -> Failure {
        Failure::local(&local_code::FILE, &self.what, format!("{}: {why}", path.display()))
    }

    /// The last part of its name, which others chose: never a path, and never over what is there.
    fn own_name(&self) -> Result<PathBuf, Failure> {
        let last = self.about.name.rsplit(['/', '\\']).next().unwrap_or_default();
        let usable = !matches!(last, "" | "." | "..") && !last.chars().any(char::is_control);
        let path = PathBuf::from(if usable { last } else { &self.about.id });
        if path.exists() {
            return Err(self
                .file(&path, "it is there already")
                .remedy("say -o FILE to write over it"));
        }
        Ok(path)
    }

    async fn to_stdout(&self, output: &Output) -> Result<(), Failure> {
        let mut out = tokio::io::stdout();
        let mut progress = Progress::new("download", self.about.size, output);
        let received =
            self.receive(0, &mut progress, async |part: &[u8]| match out.write_all(part).await {
                // Who reads it has enough.
                Err(why) if why.kind() == io::ErrorKind::BrokenPipe => {
                    Err(Failure::Quiet(Exit::Done))
                }
                written => written.map_err(|why| self.file(Path::new("stdout"), why)),
            });
        received.await?;
        out.flush().await.map_err(|why| self.file(Path::new("stdout"), why))
    }

    async fn to_file(&self, path: &Path, output: &mut Output) -> Result<(), Failure> {
        let part = part_of(path);
        let mut progress = Progress::new("download", self.about.size, output);
        let mut resumed_at = 0;
        let mut begun = self.begin(&part).await?;
        if begun.at > 0 {
            resumed_at = begun.at;
            progress.update(begun.at, Duration::ZERO, "going on");
        }
        let mut outcome = self.fill(&part, &mut begun, &mut progress).await;
        if resumed_at > 0 && matches!(&outcome, Err(failure) if failure.exit() == Exit::Corrupt) {
            output.notice("what was there was of something else: all of it is fetched anew");
            self.forget(&part)?;
            resumed_at = 0;
            begun = self.begin(&part).await?;
            outcome = self.fill(&part, &mut begun, &mut progress).await;
        }
        progress.finish();
        if let Err(failure) = outcome {
            if failure.exit() == Exit::Corrupt {
                self.forget(&part)?;
            }
            return Err(failure);
        }
        std::fs::rename(&part, path).map_err(|why| self.file(path, why))?;
        self.print(path, begun.received, resumed_at, output)
    }

    fn forget(&self, part: &Path) -> Result<(), Failure> {
        std::fs::remove_file(part).map_err(|why| self.file(part, why))
    }

    /// What is there already, hashed.
    async fn begin(&self, part: &Path) -> Result<Begun, Failure> {
        let (path, size) = (part.to_owned(), self.about.size);
        let begun = tokio::task::spawn_blocking(move || Begun::open(&path, size)).await;
        let begun = begun.unwrap_or_else(|broken| Err(io::Error::other(broken)));
        begun.map_err(|why| self.file(part, why))
    }

    /// The rest of it, to the disk and checked.
    async fn fill(
        &self,
        part: &Path,
        begun: &mut Begun,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut file =
            tokio::fs::File::from_std(begun.file.try_clone().map_err(|why| self.file(part, why))?);
        let (hasher, received) = (&mut begun.hasher, &mut begun.received);
        self.receive(begun.at, progress, async |bytes: &[u8]| {
            hasher.update(bytes);
            *received += u64::try_from(bytes.len()).unwrap_or(0);
            file.write_all(bytes).await.map_err(|why| self.file(part, why))
        })
        .await?;
        file.flush().await.map_err(|why| self.file(part, why))?;
        file.sync_all().await.map_err(|why| self.file(part, why))?;
        let read = *begun.hasher.finalize().as_bytes();
        match self.about.blake3 {
            Some(sealed) if sealed != read => {
                let why = "what came has not the hash it was sealed with";
                Err(Failure::code(&self.what, Code::CORRUPT, why))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// All parts from there on, each within the time for an answer.
    async fn receive(
        &self,
        from: u64,
        progress: &mut Progress,
        mut write: impl AsyncFnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (begun, mut at, mut drawn) = (wall(), from, from);
        let download = self.client.download(&self.about.id, from..);
        let mut download = within(self.timeout, &self.what, download).await?;
        loop {
            let part = async { download.next().await.transpose() };
            let Some(part) = within(self.timeout, &self.what, part).await? else {
                return Ok(());
            };
            write(&part).await?;
            at += u64::try_from(part.len()).unwrap_or(0);
            if at >= drawn + DRAW_EVERY {
                drawn = at;
                let millis = wall().0.saturating_sub(begun.0);
                let per_s = (at - from).saturating_mul(1_000) / millis.max(1);
                let (done, whole) = (size::show(at), size::show(self.about.size));
                let told = format!("{done} of {whole}, {}/s", size::show(per_s));
                progress.update(at, Duration::from_millis(millis), &told);
            }
        }
    }

    fn print(
        &self,
        path: &Path,
        received: u64,
        resumed_at: u64,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let told = Downloaded {
            about: Told::of(self.about.clone()),
            file: path.display().to_string(),
            received,
            resumed_at,
        };
        output.went_well(&told, |told| {
            let resumed = match told.resumed_at {
                0 => String::new(),
                at => format!(", went on at {}", size::show(at)),
            };
            format!("{} ({}{resumed}; the hash is right)", told.file, size::show(self.about.size))
        })
    }
}

/// The file that holds what has come so far.
fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// A file that is being filled.
struct Begun {
    file: std::fs::File,
    hasher: blake3::Hasher,
    /// What was there when it was opened.
    at: u64,
    received: u64,
}

impl Begun {
    /// Opens it behind what is there; more than the whole is nothing of it.
    fn open(path: &Path, size: u64) -> io::Result<Self> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).truncate(false).read(true).write(true).open(path)?;
        if file.metadata()?.len() > size {
            file.set_len(0)?;
        }
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        let mut block = vec![0; 256 * 1024];
        loop {
            let count = file.read(&mut block)?;
            let Some(read) = block.get(..count).filter(|read| !read.is_empty()) else { break };
            hasher.update(read);
            at += u64::try_from(count).unwrap_or(0);
        }
        Ok(Self { file, hasher, at, received: 0 })
    }
}
