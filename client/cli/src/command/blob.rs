//! `spile blob ls|show|rm`: sealed uploads. spec §9.1, §9.3; admin §8

use serde::Serialize;
use serde_json::{Map, Value, json};
use spile_client::{Found, Listing};

use crate::args::{Blob, Everywhere};
use crate::command::answer::{lines, text};
use crate::command::builtin::{Whole, ask};
use crate::confirm::confirm;
use crate::connect::{connect, within};
use crate::failure::Failure;
use crate::output::Output;
use crate::value::{bytes, moment, size};

pub(crate) async fn run(
    blob: &Blob,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    match blob {
        Blob::Ls { prefix } => ls(prefix, typed, output).await,
        Blob::Show { blob } => show(blob, typed, output).await,
        Blob::Rm { blob, yes } => {
            confirm(*yes, &format!("remove blob {blob}: nobody can read it any more"))?;
            let client = connect(typed).await?;
            let outcome = ask(&client, typed, "$blob", "rm", &json!({ "blob": blob })).await;
            client.close().await;
            output.result(&outcome?, lines)
        }
    }
}

/// A blob, as scripts read it.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    blob: String,
    key: String,
    name: String,
    revision: u64,
    size: u64,
    blake3: Option<String>,
    r#type: String,
    meta: Map<String, Value>,
    /// Who sent it, `ROLE/NAME`.
    device: String,
    time: String,
}

impl Told {
    pub(super) fn of(found: Found) -> Self {
        Self {
            blob: found.id,
            key: found.key,
            name: found.name,
            revision: found.revision,
            size: found.size,
            blake3: found.blake3.map(|hash| bytes::hex(&hash)),
            r#type: found.content_type,
            meta: found.meta.into_iter().map(|(name, value)| (name, value.into())).collect(),
            device: found.principal,
            time: moment::show(found.time),
        }
    }

    fn line(&self) -> String {
        let size = size::show(self.size);
        let Self { blob, key, name, revision, time, .. } = self;
        format!("{blob:<16} {size:>10} {time}  {key:<20} {name} ({revision})")
    }
}

async fn ls(prefix: &str, typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let client = connect(typed).await?;
    let mut listed = client.list(Listing::Blobs, prefix);
    let outcome = loop {
        match within(typed.timeout, "blob ls", async { listed.next().await.transpose() }).await {
            Ok(Some(found)) => output.result(&Told::of(found), Told::line)?,
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

async fn show(blob: &str, typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let client = connect(typed).await?;
    let found = within(typed.timeout, &format!("blob {blob}"), client.blob(blob)).await;
    client.close().await;
    output.result(&Told::of(found?), |told| {
        let told = serde_json::to_value(told).unwrap_or_default();
        if told.is_object() { lines(&told) } else { text(&told) }
    })
}
