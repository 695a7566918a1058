//! An uploader: sends files, tells how far it is, and goes on where it was when it is started again.
//!
//! What makes an upload go on in another process is its id. It is kept beside the file, in `FILE.upload`, from before the
//! first byte goes out until the whole is sealed. After a cut within one run the client goes on by itself.
//! `UPLOADER_KEY` names the key the files are kept under; without it they are kept under our own name.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use spile_client::{Blob, Client, Error, Upload};
use spile_protocol::code::Code;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    ensure!(!files.is_empty(), "say which files to upload");
    let client = spile_examples::builder()?.connect().await?;
    for file in &files {
        let blob = upload(&client, file).await.with_context(|| file.display().to_string())?;
        println!(
            "{} is {} revision {}: {} bytes, {} sent, went on at {}",
            file.display(),
            blob.blob,
            blob.revision,
            blob.size,
            blob.sent,
            blob.resumed_at
        );
    }
    client.close().await;
    Ok(())
}

async fn upload(client: &Client, file: &Path) -> Result<Blob> {
    let kept = Kept::beside(file)?;
    let told = file.display().to_string();
    let mut upload =
        Upload::path(file).id(kept.id).progress(move |progress| match progress.waits {
            None => eprintln!("{told}: {} of {} bytes", progress.stored, progress.size),
            Some(why) => eprintln!("{told}: waits: {why}"),
        });
    if let Ok(key) = std::env::var("UPLOADER_KEY") {
        upload = upload.key(key);
    }
    match client.upload(upload).await {
        Ok(blob) => {
            kept.forget()?;
            Ok(blob)
        }
        // The file changed since its first half was sent; the server has forgotten that half, and so do we.
        Err(why) if why.code() == Some(Code::MISMATCH) => {
            kept.forget()?;
            Err(Error::into(why))
        }
        Err(why) => Err(why.into()),
    }
}

/// An upload's id, in a file.
struct Kept {
    id: [u8; 16],
    path: PathBuf,
}

impl Kept {
    fn beside(file: &Path) -> Result<Self> {
        let mut name = file.file_name().context("it has no name")?.to_owned();
        name.push(".upload");
        let path = file.with_file_name(name);
        if let Ok(bytes) = std::fs::read(&path) {
            let id = bytes.try_into().ok().with_context(|| format!("{}: no id", path.display()))?;
            return Ok(Self { id, path });
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).context("no random numbers")?;
        std::fs::write(&path, id)?;
        Ok(Self { id, path })
    }

    fn forget(&self) -> Result<()> {
        Ok(std::fs::remove_file(&self.path)?)
    }
}
