//! `spile publish`: one event, or an event a line, pipelined; each acknowledgement as it comes, in order.

use std::collections::VecDeque;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use spile_client::{Client, Error, Event, Expect, Pending, Receipt, wall};
use spile_protocol::id::Version;
use spile_protocol::time::Millis;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Split};
use tokio::time::timeout;

use crate::args::{Everywhere, Expected, Publish};
use crate::connect::{connect, late_since};
use crate::failure::{Exit, Failure};
use crate::local_code;
use crate::output::Output;
use crate::progress::Progress;

/// Lines that are sent and not acknowledged, at most.
const IN_FLIGHT: usize = 4096;

/// One acknowledgement, as scripts read it.
#[derive(Serialize)]
struct Published<'a> {
    key: &'a str,
    topic: &'a str,
    number: u64,
    version: Option<u64>,
    position: Option<String>,
    durability: &'static str,
    /// Told only where it is so: the server had forgotten our run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    maybe_twice: bool,
}

type Source = Box<dyn AsyncRead + Unpin>;

/// Lines as they are read, and how far that is where the end is known.
struct Lines {
    lines: Split<BufReader<Source>>,
    progress: Option<Progress>,
    bytes: u64,
    count: u64,
    begun: Millis,
}

impl Lines {
    async fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let line = self.lines.next_segment().await?;
        if let (Some(line), Some(progress)) = (&line, &mut self.progress) {
            self.bytes += u64::try_from(line.len()).unwrap_or(0) + 1;
            self.count += 1;
            // Looking at the clock and drawing cost more than a line.
            if self.count.is_multiple_of(256) {
                let elapsed = Duration::from_millis(wall().0.saturating_sub(self.begun.0));
                progress.update(self.bytes, elapsed, &format!("{} lines", self.count));
            }
        }
        Ok(line)
    }
}

pub(crate) async fn run(
    args: &Publish,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    if args.lines {
        let (source, length) = open(args.file.as_deref()).await?;
        let client = connect(typed).await?;
        let mut lines = Lines {
            lines: BufReader::new(source).split(b'\n'),
            progress: length.map(|length| Progress::new("publish", length, output)),
            bytes: 0,
            count: 0,
            begun: wall(),
        };
        let outcome = pipeline(&client, args, &mut lines, typed, output).await;
        lines.progress.iter().for_each(Progress::finish);
        client.close().await;
        return outcome;
    }
    let event = event(args, payload(args)?);
    let client = connect(typed).await?;
    let what = format!("publish {}", args.topic);
    let outcome = match timeout(typed.timeout, client.publish(event)).await {
        Ok(outcome) => outcome.map_err(|error| Failure::client(&what, &error)),
        Err(_) => Err(late_since(typed.timeout, &what, client.held_up().as_ref())),
    };
    client.close().await;
    print(&outcome?, output)
}

fn print(receipt: &Receipt, output: &mut Output) -> Result<(), Failure> {
    let published = Published {
        key: &receipt.key,
        topic: &receipt.topic,
        number: receipt.number.0,
        version: receipt.version.map(|version| version.0),
        position: receipt.position.as_ref().map(ToString::to_string),
        durability: receipt.durability.name(),
        maybe_twice: receipt.maybe_twice,
    };
    if receipt.maybe_twice {
        output.notice("the server had forgotten our run: this event may be stored twice");
    }
    output.went_well(&published, |published| {
        let version =
            published.version.map_or_else(String::new, |version| format!(" version {version}"));
        let position =
            published.position.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
        format!("{} {} {}{version}{position}", published.durability, published.key, published.topic)
    })
}

fn event(args: &Publish, payload: Vec<u8>) -> Event {
    let mut event = Event::new(args.topic.as_str(), payload)
        .content_type(args.content_type.as_str())
        .schema(args.schema);
    if let Some(key) = &args.key {
        event = event.key(key.as_str());
    }
    if let Some(expect) = args.expect {
        event = event.expect(match expect {
            Expected::Version(version) => Expect::Version(Version(version)),
            Expected::New => Expect::Version(Version(0)),
            Expected::Exists => Expect::Exists,
        });
    }
    if let Some(time) = args.time {
        event = event.device_time(time.resolve(wall()));
    }
    if let Some(ttl) = args.ttl {
        event = event.ttl_ms(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    }
    args.header
        .iter()
        .fold(event, |event, (name, value)| event.header(name, value.clone().into_bytes()))
}

fn payload(args: &Publish) -> Result<Vec<u8>, Failure> {
    if let Some(data) = &args.data {
        return Ok(data.clone().into_bytes());
    }
    match args.file.as_deref().filter(|file| *file != Path::new("-")) {
        Some(file) => std::fs::read(file).map_err(|why| {
            Failure::local(&local_code::FILE, format!("read {}", file.display()), why)
        }),
        None => stdin(),
    }
}

fn stdin() -> Result<Vec<u8>, Failure> {
    if std::io::stdin().is_terminal() {
        return Err(Failure::usage("publish", "there is no payload")
            .remedy("write it behind the topic, name a --file, or pipe it in"));
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map(|_| bytes)
        .map_err(|why| Failure::local(&local_code::FILE, "read stdin", why))
}

/// Where lines come from, and how many bytes where that is known.
async fn open(file: Option<&Path>) -> Result<(Source, Option<u64>), Failure> {
    let Some(path) = file.filter(|file| *file != Path::new("-")) else {
        return Ok((Box::new(tokio::io::stdin()), None));
    };
    let failed = |why| Failure::local(&local_code::FILE, format!("read {}", path.display()), why);
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let length = file.metadata().await.map_err(failed)?.len();
    Ok((Box::new(file), Some(length)))
}

/// Lines go out as the credit allows; what comes back is printed in their order, an error in its line's place.
async fn pipeline(
    client: &Client,
    args: &Publish,
    lines: &mut Lines,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let (mut reading, mut failed, mut unseen) = (true, false, false);
    while reading || !pending.is_empty() {
        tokio::select! {
            biased;
            outcome = oldest(&mut pending, client, typed), if !pending.is_empty() => {
                pending.pop_front();
                failed |= told(outcome?, client, args, output)?;
                unseen = true;
            }
            line = lines.next(), if reading && pending.len() < IN_FLIGHT => {
                match line.map_err(|why| Failure::local(&local_code::FILE, "read lines", why))? {
                    Some(line) => {
                        let sent = within_credit(client, event(args, line), typed).await?;
                        pending.push_back(sent);
                    }
                    None => reading = false,
                }
            }
            // Nothing is at hand: what was printed is shown before waiting.
            () = tokio::task::yield_now(), if unseen => {
                output.flush()?;
                unseen = false;
            }
        }
    }
    output.flush()?;
    if failed { Err(Failure::Quiet(Exit::Failed)) } else { Ok(()) }
}

async fn within_credit(
    client: &Client,
    event: Event,
    typed: &Everywhere,
) -> Result<Pending, Failure> {
    let (what, why) = ("publish: wait for credit", || client.held_up());
    timeout(typed.timeout, client.send(event))
        .await
        .map_err(|_| late_since(typed.timeout, what, why().as_ref()))
}

/// The oldest event's outcome, or a failure of the whole when it takes too long.
async fn oldest(
    pending: &mut VecDeque<Pending>,
    client: &Client,
    typed: &Everywhere,
) -> Result<Result<Receipt, Error>, Failure> {
    let late = || late_since(typed.timeout, "publish", client.held_up().as_ref());
    let Some(oldest) = pending.front_mut() else { return Err(late()) };
    timeout(typed.timeout, oldest).await.map_err(|_| late())
}

/// Prints one outcome; says whether it was an error. An error after which nothing more can be sent ends all.
fn told(
    outcome: Result<Receipt, Error>,
    client: &Client,
    args: &Publish,
    output: &mut Output,
) -> Result<bool, Failure> {
    match outcome {
        Ok(receipt) => print(&receipt, output).map(|()| false),
        Err(error) => {
            let failure = Failure::client(format!("publish {}", args.topic), &error);
            if client.is_closed() {
                return Err(failure);
            }
            output.failure(&failure).map(|()| true)
        }
    }
}
