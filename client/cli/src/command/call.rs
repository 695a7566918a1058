//! `spile call`: asks a service or a device, and prints its answer.

use std::io::Read;

use serde::Serialize;
use spile_client::{Error, Parts, Reply, wall};

use crate::args::{CallArgs, Everywhere};
use crate::connect::connect;
use crate::failure::Failure;
use crate::local_code;
use crate::output::Output;
use crate::value::bytes::base64;

/// An answer, as scripts read it.
#[derive(Serialize)]
struct Answered<'a> {
    service: &'a str,
    method: &'a str,
    /// `done`; `more` where another part follows.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    content_type: &'a str,
    took_ms: u64,
}

pub(crate) async fn run(
    args: &CallArgs,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    let payload = payload(args)?;
    let client = connect(typed).await?;
    let mut ask = client.ask(&args.service, &args.method).payload(payload).within(typed.timeout);
    ask = ask.content_type(&args.content_type).idempotent(args.idempotent);
    if let Some(trace) = args.trace {
        ask = ask.trace(trace);
    }
    let begun = wall();
    let told = |error: Error| failed(args, &error);
    let took = || wall().0.saturating_sub(begun.0);
    let outcome = if args.parts {
        match ask.parts() {
            Ok(parts) => tell_parts(parts, args, &took, output).await,
            Err(error) => Err(told(error)),
        }
    } else {
        let reply = ask.send().await.map_err(told);
        reply.and_then(|reply| tell(args, &reply, "done", took(), output))
    };
    client.close().await;
    outcome
}

fn payload(args: &CallArgs) -> Result<Vec<u8>, Failure> {
    let Some(file) = &args.file else {
        return Ok(args.data.clone().unwrap_or_default().into_bytes());
    };
    let mut payload = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut payload)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut payload))
    };
    let what = || format!("read {}", file.display());
    read.map(|_bytes| payload).map_err(|why| Failure::local(&local_code::FILE, what(), why))
}

/// Each part as it comes; that one is the last is known when nothing follows.
async fn tell_parts(
    mut parts: Parts,
    args: &CallArgs,
    took: &impl Fn() -> u64,
    output: &mut Output,
) -> Result<(), Failure> {
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| failed(args, &error))?;
        let status = if parts.is_whole() { "done" } else { "more" };
        tell(args, &part, status, took(), output)?;
        output.flush()?;
    }
    Ok(())
}

fn tell(
    args: &CallArgs,
    reply: &Reply,
    status: &'static str,
    took_ms: u64,
    output: &mut Output,
) -> Result<(), Failure> {
    let text = std::str::from_utf8(&reply.payload).ok();
    let answered = Answered {
        service: &args.service,
        method: &args.method,
        status,
        payload: text,
        payload_base64: text.is_none().then(|| base64(&reply.payload)),
        content_type: &reply.content_type,
        took_ms,
    };
    output.result(&answered, |answered| {
        let payload = answered.payload.map(|text| text.trim_end_matches('\n').to_owned());
        payload.or_else(|| answered.payload_base64.clone()).unwrap_or_default()
    })
}

fn failed(args: &CallArgs, error: &Error) -> Failure {
    let failure = Failure::client(format!("call {} {}", args.service, args.method), error);
    // Where it may have been done, the table's remedy is for events, whose numbers make a resend safe.
    let doubt = error.code().is_some_and(spile_client::Code::leaves_in_doubt);
    match (doubt, args.idempotent) {
        (true, false) => failure.remedy("find out whether it was done before you ask again"),
        (true, true) => failure.remedy("ask again"),
        (false, _) => failure,
    }
}
