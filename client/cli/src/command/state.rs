//! `spile state`: the latest values of kept topics.

use std::time::Duration;

use serde::Serialize;
use spile_client::{Found, Fresh, Listing};
use spile_protocol::code::Code;
use spile_protocol::id::Version;

use crate::args::{Everywhere, StateCommand, StateGet, StateLs};
use crate::command::builtin::Whole;
use crate::command::follow::Payload;
use crate::connect::{connect, late, within};
use crate::failure::Failure;
use crate::output::Output;
use crate::value::{bytes, moment};

/// How long a version that was named is waited for, where nothing is said: it was just published.
const CATCH_UP: Duration = Duration::from_secs(5);

/// One value, as scripts read it.
#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    topic: &'a str,
    version: u64,
    position: Option<String>,
    time: String,
    content_type: Option<&'a str>,
    principal: Option<&'a str>,
    #[serde(flatten)]
    payload: Payload<'a>,
}

pub(crate) async fn run(
    state: &StateCommand,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    match state {
        StateCommand::Get(args) => get(args, typed, output).await,
        StateCommand::Ls(args) => ls(args, typed, output).await,
    }
}

async fn get(args: &StateGet, typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let StateGet { key, topic, at_least, newer_than, wait } = args;
    let what = format!("state get {key} {topic}");
    let default = if *at_least > 0 { CATCH_UP } else { Duration::ZERO };
    let wait = wait.unwrap_or(default);
    let (at_least, newer_than) = (Version(*at_least), Version(*newer_than));
    let client = connect(typed).await?;
    let asked = client.get_state(key, topic, Fresh { at_least, newer_than, wait });
    // The wait is the server's; the answer to it has its own time.
    let found = within(typed.timeout.saturating_add(wait), &what, asked).await;
    client.close().await;
    match found? {
        Some(found) => {
            show(&found, output)?;
            output.flush()
        }
        None if newer_than > Version(0) => {
            let why = format!("nothing newer than version {} is kept", newer_than.0);
            Err(Failure::code(&what, Code::NOT_FOUND, &why))
        }
        None => {
            let why = "no value is kept under this key and topic; none was published, or it expired or was removed";
            Err(Failure::code(&what, Code::NOT_FOUND, why))
        }
    }
}

async fn ls(args: &StateLs, typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let what = "state ls";
    let client = connect(typed).await?;
    let prefix = args.key.as_deref().unwrap_or(&args.prefix);
    let mut values = client.list(Listing::State, prefix);
    loop {
        let next = tokio::time::timeout(typed.timeout, values.next()).await;
        let next = next.map_err(|_| late(typed.timeout, what))?;
        let Some(found) = next else { break };
        let found = found.map_err(|error| Failure::client(what, &error))?;
        // A key's own values come first among those of keys that begin with it.
        if args.key.as_ref().is_some_and(|key| *key != found.key) {
            break;
        }
        show(&found, output)?;
    }
    let whole = if values.is_partial() { Whole::Part } else { Whole::All };
    client.close().await;
    output.flush()?;
    whole.tell(output);
    Ok(())
}

fn show(found: &Found, output: &mut Output) -> Result<(), Failure> {
    let shown = Shown {
        key: &found.key,
        topic: &found.name,
        version: found.version.0,
        position: found.position.as_ref().map(ToString::to_string),
        time: moment::show(found.time),
        content_type: Some(found.content_type.as_str()).filter(|text| !text.is_empty()),
        principal: Some(found.principal.as_str()).filter(|text| !text.is_empty()),
        payload: std::str::from_utf8(&found.payload)
            .map_or_else(|_| Payload::Bytes(bytes::base64(&found.payload)), Payload::Text),
    };
    output.result(&shown, |shown| {
        let Shown { key, topic, version, time, payload, .. } = shown;
        format!("{key} {topic} {version} {time} {}", payload.text())
    })
}
