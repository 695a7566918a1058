//! `spile subscribe` and `spile stream`: events as they come, until a count, a silence, an end or Ctrl-C.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use spile_client::{Delivery, Happened, Interest, Subscription, wall};
use spile_protocol::id::Version;
use spile_protocol::time::Millis;

use crate::args::{Everywhere, Stream, Subscribe, Until};
use crate::connect::{connect, within};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::signal;
use crate::value::{bytes, moment};

/// One event, as scripts read it.
#[derive(Serialize)]
pub(crate) struct Shown<'a> {
    pub(crate) position: String,
    pub(crate) key: &'a str,
    pub(crate) version: u64,
    pub(crate) topic: &'a str,
    time: String,
    device_time: Option<String>,
    content_type: Option<&'a str>,
    schema: Option<u32>,
    headers: BTreeMap<&'a str, Value>,
    trace: Option<String>,
    #[serde(flatten)]
    pub(crate) payload: Payload<'a>,
}

/// A payload: text where it is text.
#[derive(Serialize)]
pub(crate) enum Payload<'a> {
    #[serde(rename = "payload")]
    Text(&'a str),
    #[serde(rename = "payload_base64")]
    Bytes(String),
}

impl Payload<'_> {
    /// For people.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => (*text).to_owned(),
            Self::Bytes(base64) => format!("base64:{base64}"),
        }
    }
}

pub(crate) async fn subscribe(
    args: &Subscribe,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    let what = format!("subscribe {}", args.filter);
    let interest = Interest::filter(args.filter.as_str()).from(args.from.clone().resolve(wall()));
    let interest = args.key.as_deref().map_or(interest.clone(), |key| interest.key(key));
    follow(&what, interest, args.until, typed, output).await
}

pub(crate) async fn stream(
    args: &Stream,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    let live = args.follow || args.until.count.is_some() || args.until.wait.is_some();
    let interest = Interest::stream(args.key.as_str(), Version(args.from.unwrap_or(0))).live(live);
    follow(&format!("stream {}", args.key), interest, args.until, typed, output).await
}

async fn follow(
    what: &str,
    interest: Interest,
    until: Until,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    if until.count == Some(0) {
        return Ok(());
    }
    let client = connect(typed).await?;
    let mut events = within(typed.timeout, what, client.subscribe(interest)).await?;
    let outcome = tokio::select! {
        outcome = print(what, &mut events, until, output) => outcome,
        // Ctrl-C is how a person ends this: what came is shown, and all is well.
        () = signal::stop() => Ok(()),
    };
    drop(events);
    client.close().await;
    outcome.and_then(|()| output.flush())
}

async fn print(
    what: &str,
    events: &mut Subscription,
    until: Until,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut left = until.count.unwrap_or(u64::MAX);
    // Where events are seen, they are the progress.
    let hidden = until.count.filter(|_| !std::io::stdout().is_terminal());
    let mut progress = hidden.map(|count| Progress::new("events", count, output));
    let begun = wall();
    loop {
        if !events.is_ready() {
            output.flush()?;
            if let (Some(progress), Some(count)) = (&mut progress, until.count) {
                let elapsed = Duration::from_millis(wall().0.saturating_sub(begun.0));
                progress.update(count - left, elapsed, &format!("{} received", count - left));
            }
        }
        let Ok(next) = silence(until.wait, events.next_block()).await else { return Ok(()) };
        let Some(block) = next else { return Ok(()) };
        let block = block.map_err(|error| Failure::client(what, &error))?;
        for delivery in block.deliveries() {
            show(&delivery, output)?;
            left -= 1;
            if left == 0 {
                progress.iter().for_each(Progress::finish);
                return Ok(());
            }
        }
    }
}

/// Waits for the next, at most so long.
pub(crate) async fn silence<T>(
    wait: Option<Duration>,
    next: impl Future<Output = T>,
) -> Result<T, tokio::time::error::Elapsed> {
    match wait {
        Some(wait) => tokio::time::timeout(wait, next).await,
        None => Ok(next.await),
    }
}

fn show(delivery: &Delivery, output: &mut Output) -> Result<(), Failure> {
    output.result(&shown(delivery), |shown| {
        let payload = shown.payload.text();
        format!(
            "{} {} {} {} {} {payload}",
            shown.position, shown.time, shown.key, shown.version, shown.topic
        )
    })
}

/// As scripts read it.
pub(crate) fn shown(delivery: &Delivery) -> Shown<'_> {
    let facts = delivery.facts.as_deref();
    let headers = facts.map(|facts| facts.headers.as_slice()).unwrap_or_default();
    Shown {
        position: delivery.position.to_string(),
        key: &delivery.key,
        version: delivery.version.0,
        topic: &delivery.topic,
        time: moment::show(delivery.time),
        device_time: facts
            .and_then(|facts| facts.happened)
            .map(|at| moment::show(happened(at, delivery.time))),
        content_type: said(&delivery.kind.content_type),
        schema: Some(delivery.kind.schema).filter(|schema| *schema != 0),
        headers: headers.iter().map(|(name, value)| (name.as_str(), header(value))).collect(),
        trace: delivery.trace.map(|trace| bytes::hex(&trace.id)),
        payload: std::str::from_utf8(&delivery.payload)
            .map_or_else(|_| Payload::Bytes(bytes::base64(&delivery.payload)), Payload::Text),
    }
}

fn said(text: &Arc<str>) -> Option<&str> {
    Some(&**text).filter(|text| !text.is_empty())
}

/// An age counts back from when the edge took the event.
fn happened(happened: Happened, accepted: Millis) -> Millis {
    match happened {
        Happened::At(time) => time,
        Happened::Ago(millis) => Millis(accepted.0.saturating_sub(millis)),
    }
}

/// A header's value: text where it is text.
fn header(value: &[u8]) -> Value {
    std::str::from_utf8(value)
        .map_or_else(|_| json!({ "base64": bytes::base64(value) }), Value::from)
}

#[cfg(test)]
mod tests {
    use spile_client::{Facts, Kind, Position, Trace};
    use spile_protocol::id;

    use super::*;

    fn delivery(payload: &'static [u8]) -> Delivery {
        Delivery {
            position: Position { worker: "a".into(), number: id::Position(5) },
            key: "k".into(),
            version: Version(2),
            topic: "t/x".into(),
            time: Millis(10_000),
            trace: Some(Trace { id: [0xab; 16], span: [1; 8], flags: 1 }),
            kind: Arc::new(Kind { content_type: "text/plain".into(), ..Kind::default() }),
            facts: Some(Arc::new(Facts {
                happened: Some(Happened::Ago(4_000)),
                headers: vec![("h".to_owned(), "v".into()), ("b".to_owned(), vec![0xff].into())],
                ..Facts::default()
            })),
            payload: payload.into(),
        }
    }

    #[test]
    fn an_event_has_the_fields_of_the_contract() {
        let value = serde_json::to_value(shown(&delivery(b"21.5"))).unwrap();
        assert_eq!(
            value,
            json!({
                "position": "a:5", "key": "k", "version": 2, "topic": "t/x",
                "time": "1970-01-01T00:00:10.000Z", "device_time": "1970-01-01T00:00:06.000Z",
                "content_type": "text/plain", "schema": null,
                "headers": { "h": "v", "b": { "base64": "/w==" } },
                "trace": "ab".repeat(16), "payload": "21.5",
            })
        );
    }

    #[test]
    fn a_payload_that_is_no_text_is_base64() {
        let value = serde_json::to_value(shown(&delivery(&[0xff, 0xfe, 0xfd]))).unwrap();
        assert_eq!(value["payload_base64"], "//79");
        assert_eq!(value.get("payload"), None);
    }
}
