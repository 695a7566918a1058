//! `spile consume`: a group's deliveries, printed, given to a child each (`exec`), or to one child for all (`pipe`).
//!
//! Here: how much is taken, when it ends, and what is told of each event. Invariants: an event is settled only behind
//! what was asked for it; what is not settled when the command ends goes back to the group. spec §8.3.4

mod exec;
mod pipe;

use std::io::IsTerminal;
use std::time::Duration;

use serde::Serialize;
use spile_client::{
    Consume as Options, Consumer, Delivery, Error, GroupDelivery, Settled, Tally, wall,
};
use spile_protocol::time::Millis;

use crate::args::{Consume, Everywhere};
use crate::command::family;
use crate::command::follow::{self, Shown, silence};
use crate::connect::{connect, within};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::signal;

/// Events taken and not settled where they are only printed.
const PRINTED: u32 = 1_024;
/// Consecutive events of a key at once, where they are only printed.
const PRINTED_BATCH: u32 = 64;
/// Bytes taken and not settled.
const BYTES: u32 = 8 << 20;
/// The longest delivery.
const BATCH_BYTES: u32 = 1 << 20;

pub(crate) async fn run(
    args: &Consume,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    super::group::checked(&args.group)?;
    for (flag, command) in [("--exec", &args.exec), ("--pipe", &args.pipe)] {
        if let Some(command) = command {
            family::checked(flag, command).await?;
        }
    }
    if args.until.count == Some(0) {
        return Ok(());
    }
    let client = connect(typed).await?;
    let what = format!("consume {}", args.group);
    let joined = client.consume(&args.group, options(args));
    let outcome = match within(typed.timeout, &what, joined).await {
        Ok(consumer) => {
            let mut taking = Taking::new(what, args, consumer, output);
            let outcome = match (&args.exec, &args.pipe) {
                (Some(command), _) => exec::run(command, &mut taking, output).await,
                (None, Some(command)) => pipe::run(command, &mut taking, typed, output).await,
                (None, None) => print(&mut taking, output).await,
            };
            taking.end(typed.timeout, output).await;
            outcome
        }
        Err(refused) => Err(refused),
    };
    client.close().await;
    outcome.and_then(|()| output.flush())
}

/// No more is asked for than is worked on: what waits here would be others', and its time runs.
fn options(args: &Consume) -> Options {
    let printed = args.exec.is_none() && args.pipe.is_none();
    let most = args.until.count.map_or(u32::MAX, |count| u32::try_from(count).unwrap_or(u32::MAX));
    let batch = args.batch.unwrap_or(if printed { PRINTED_BATCH } else { 1 });
    let events = if printed { PRINTED } else { batch.saturating_mul(args.parallel) };
    Options::default()
        .batch(batch.min(most), BATCH_BYTES)
        .window(events.min(most), BYTES)
        // What is dropped here is dropped because the command ends: it goes back with the membership.
        .give_back(false)
}

/// What is taken of a group, and how much of it is still wanted.
struct Taking {
    what: String,
    group: String,
    parallel: usize,
    wait: Option<Duration>,
    consumer: Consumer,
    /// Events that may still be begun, and those that may still be finished.
    to_begin: u64,
    to_finish: u64,
    count: Option<u64>,
    progress: Option<Progress>,
    begun: Millis,
}

impl Taking {
    fn new(what: String, args: &Consume, consumer: Consumer, output: &Output) -> Self {
        let count = args.until.count;
        let most = count.unwrap_or(u64::MAX);
        // Where events are seen, they are the progress.
        let hidden = count.filter(|_| !std::io::stdout().is_terminal());
        Self {
            what,
            group: args.group.clone(),
            parallel: usize::try_from(args.parallel).unwrap_or(usize::MAX),
            wait: args.until.wait,
            consumer,
            to_begin: most,
            to_finish: most,
            count,
            progress: hidden.map(|count| Progress::new("events", count, output)),
            begun: wall(),
        }
    }

    /// The next delivery, and how many of its events are wanted; `None` when it is over. With nothing under way a silence
    /// ends it.
    async fn next(&mut self, idle: bool) -> Result<Option<(GroupDelivery, usize)>, Failure> {
        let wait = self.wait.filter(|_| idle);
        let Ok(Some(next)) = silence(wait, self.consumer.next()).await else { return Ok(None) };
        let delivery = next.map_err(|error| Failure::client(self.what.as_str(), &error))?;
        let all = u64::try_from(delivery.len()).unwrap_or(u64::MAX);
        let wanted = all.min(self.to_begin);
        self.to_begin -= wanted;
        Ok(Some((delivery, usize::try_from(wanted).unwrap_or(usize::MAX))))
    }

    /// An event's work is over: was it the last?
    fn finished(&mut self) -> bool {
        self.to_finish = self.to_finish.saturating_sub(1);
        if let (Some(progress), Some(count)) = (&mut self.progress, self.count) {
            let done = count - self.to_finish;
            let elapsed = Duration::from_millis(wall().0.saturating_sub(self.begun.0));
            progress.update(done, elapsed, &format!("{done} settled"));
        }
        self.to_finish == 0
    }

    /// Of a delivery some events were not worked on: others may be.
    fn gave_up(&mut self, events: usize) {
        self.to_begin = self.to_begin.saturating_add(u64::try_from(events).unwrap_or(u64::MAX));
    }

    /// Waits for what was settled, leaves the group, and says what did not count.
    async fn end(self, patience: Duration, output: &Output) {
        self.progress.iter().for_each(Progress::finish);
        let answered = tokio::time::timeout(patience, self.consumer.settled()).await.is_ok();
        let Tally { too_late, unknown, under_way, .. } = self.consumer.tally();
        if too_late > 0 {
            output
                .notice(&format!("{too_late} settlements came too late: these events come again"));
        }
        if unknown > 0 || !answered {
            let unknown = unknown + under_way;
            output.notice(&format!(
                "of {unknown} settlements it is not known whether they counted: these events may come again"
            ));
        }
    }
}

/// What became of one event, as scripts read it.
#[derive(Serialize)]
struct Row {
    group: String,
    position: String,
    key: String,
    version: u64,
    topic: String,
    attempt: u32,
    outcome: &'static str,
    /// Why, where it was not done.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl Row {
    fn new(group: &str, attempt: u32, event: &Delivery) -> Self {
        Self {
            group: group.to_owned(),
            position: event.position.to_string(),
            key: event.key.as_ref().to_owned(),
            version: event.version.0,
            topic: event.topic.as_ref().to_owned(),
            attempt,
            outcome: "",
            reason: String::new(),
        }
    }

    /// With what was asked, where that counted.
    fn settled(self, asked: &'static str, answer: &Result<Settled, Error>) -> Self {
        let outcome = match answer {
            Ok(Settled::Durable) => asked,
            Ok(Settled::TooLate) => "late",
            Err(_) => "unknown",
        };
        Self { outcome, ..self }
    }

    fn show(&self, output: &mut Output) -> Result<(), Failure> {
        let line = |row: &Self| {
            let reason = if row.reason.is_empty() { "" } else { ": " };
            format!(
                "{} {} {} {} attempt {} {}{reason}{}",
                row.position, row.key, row.version, row.topic, row.attempt, row.outcome, row.reason
            )
        };
        if self.outcome == "done" {
            output.went_well(self, line)?;
        } else {
            output.result(self, line)?;
        }
        output.flush()
    }
}

/// An event that was handed out, as it is printed and as a child reads it.
#[derive(Serialize)]
struct Handed<'a> {
    group: &'a str,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(flatten)]
    event: Shown<'a>,
}

impl<'a> Handed<'a> {
    fn new(group: &'a str, attempt: u32, event: &'a Delivery) -> Self {
        Self { group, attempt, outcome: None, event: follow::shown(event) }
    }
}

/// Prints and settles: an event is seen before it is done.
async fn print(taking: &mut Taking, output: &mut Output) -> Result<(), Failure> {
    let stop = signal::stop();
    tokio::pin!(stop);
    loop {
        let next = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            next = taking.next(true) => next?,
        };
        let Some((mut delivery, wanted)) = next else { return Ok(()) };
        for event in delivery.events().take(wanted) {
            let mut handed = Handed::new(&taking.group, delivery.attempt(), &event);
            handed.outcome = Some("done");
            output.result(&handed, |handed| {
                let Shown { position, key, version, topic, payload, .. } = &handed.event;
                let attempt = handed.attempt;
                format!("{position} {key} {version} {topic} attempt {attempt} {}", payload.text())
            })?;
        }
        output.flush()?;
        delivery.done_first(wanted);
        let last = (0..wanted).fold(false, |last, _| taking.finished() || last);
        if last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
