//! What the examples share: from a context file, as `spiled` writes them, to a client.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use spile_client::{Builder, Client};

/// The parts of a context that the examples use; the `spile` command knows more.
#[derive(Debug, Deserialize)]
struct Context {
    url: String,
    ca: PathBuf,
    cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    device_key: Option<PathBuf>,
    principal: Option<String>,
}

/// A builder for the server and the credentials of the context file that `SPILE_CONTEXT` names; without it, those of an
/// all-in-one that was started in this folder.
///
/// # Errors
/// There is no such file, or it is not one.
pub fn builder() -> Result<Builder> {
    let named = std::env::var_os("SPILE_CONTEXT").filter(|named| !named.is_empty());
    let path = named.map_or_else(|| PathBuf::from("./spile-data/dev/operator.toml"), PathBuf::from);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no context {}; start `spiled` here first", path.display()))?;
    let context: Context =
        toml::from_str(&text).with_context(|| format!("context {}", path.display()))?;
    prepared(&context, path.parent().unwrap_or(Path::new(".")))
}

/// The files a context names are relative to its folder.
fn prepared(context: &Context, folder: &Path) -> Result<Builder> {
    let mut builder = Client::builder().url(&context.url).ca(folder.join(&context.ca));
    if let (Some(cert), Some(key)) = (&context.cert, &context.client_key) {
        builder = builder.cert(folder.join(cert)).client_key(folder.join(key));
    }
    if let (Some(file), Some(device)) = (&context.device_key, &context.principal) {
        builder = builder.device_key(device, device_key(&folder.join(file))?);
    }
    Ok(builder)
}

/// 32 bytes as 64 hexadecimal digits, as `spile device add --device-key` writes them.
fn device_key(path: &Path) -> Result<[u8; 32]> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let text = text.trim();
    ensure!(text.len() == 64 && text.is_ascii(), "{}: not 64 hexadecimal digits", path.display());
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        let digits = text.get(2 * at..2 * at + 2).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).with_context(|| path.display().to_string())?;
    }
    Ok(key)
}
