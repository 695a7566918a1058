//! `--exec`: a shell runs the command once an event; how it ends says what became of the event.
//!
//! Keys in parallel, the events of one key one after the other. Ending early kills the children that run, with all
//! they started: their events are not settled.

use std::process::{ExitStatus, Stdio};

use spile_client::{Delivery, GroupDelivery, Settled};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::{Row, Taking};
use crate::command::family::{Family, shell};
use crate::failure::Failure;
use crate::local_code;
use crate::output::Output;
use crate::signal;
use crate::value::bytes;

/// sysexits' EX_DATAERR: the event is wrong, and no retry mends that.
const REJECT: i32 = 65;
/// The shell's own: found and not runnable, not found. It may be meant of anything in the command, for this event alone.
const NOT_RUN: [i32; 2] = [126, 127];

/// How a reason ends, then.
const NOT_RUN_TOLD: &str = " (the shell could not run it, or something in it)";
/// Told once: each event's reason says it too.
const NOT_RUN_NOTICE: &str = "the shell could not run the command, or something in it, for an event (exit status 126 or 127), which counts as a \
     retry; stop this, mend the command and begin again where that holds for every event";

/// How many events of a delivery were not begun, and what became of the others; or why there is no child.
type Worked = Result<(usize, Vec<Row>), Failure>;

pub(super) async fn run(
    command: &str,
    taking: &mut Taking,
    output: &mut Output,
) -> Result<(), Failure> {
    let stop = signal::stop();
    tokio::pin!(stop);
    let mut children: JoinSet<Worked> = JoinSet::new();
    let mut warned = false;
    loop {
        let free = children.len() < taking.parallel && taking.to_begin > 0;
        let idle = children.is_empty();
        tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            Some(worked) = children.join_next() => {
                let (unbegun, rows) = worked.unwrap_or_else(|why| {
                    Err(Failure::local(&local_code::CHILD, "wait for the command", why))
                })?;
                taking.gave_up(unbegun);
                for row in rows {
                    if row.reason.ends_with(NOT_RUN_TOLD) && !std::mem::replace(&mut warned, true) {
                        output.notice(NOT_RUN_NOTICE);
                    }
                    row.show(output)?;
                    if taking.finished() {
                        return Ok(());
                    }
                }
            }
            next = taking.next(idle), if free => {
                let Some((delivery, wanted)) = next? else { return Ok(()) };
                let work = Work {
                    command: command.to_owned(),
                    group: taking.group.clone(),
                    json: output.is_json(),
                };
                children.spawn(work.all(delivery, wanted));
            }
        }
    }
}

/// What a child is given, beside its event.
struct Work {
    command: String,
    group: String,
    json: bool,
}

impl Work {
    /// One event after the other, until one must be tried again.
    async fn all(self, mut delivery: GroupDelivery, wanted: usize) -> Worked {
        let mut rows = Vec::new();
        let attempt = delivery.attempt();
        for begun in 1..=wanted {
            let Some(event) = delivery.first() else { break };
            let ended = self.one(&event, attempt).await?;
            let row = Row::new(&self.group, attempt, &event);
            let (asked, answer) = match ended.code() {
                Some(0) => ("done", delivery.done_first(1).await),
                Some(REJECT) => ("reject", delivery.reject_first(1, &self.reason(ended)).await),
                Some(_) | None => {
                    let reason = self.reason(ended);
                    let answer = delivery.retry(None, &reason).await;
                    rows.push(Row { reason, ..row }.settled("retry", &answer));
                    return Ok((wanted - begun, rows));
                }
            };
            let reason = if asked == "done" { String::new() } else { self.reason(ended) };
            let counted = answer == Ok(Settled::Durable);
            rows.push(Row { reason, ..row }.settled(asked, &answer));
            if !counted {
                // It is another's now, and so is the rest.
                return Ok((wanted - begun, rows));
            }
        }
        Ok((0, rows))
    }

    fn reason(&self, ended: ExitStatus) -> String {
        let not_run = ended.code().is_some_and(|code| NOT_RUN.contains(&code));
        format!("{}: {ended}{}", self.command, if not_run { NOT_RUN_TOLD } else { "" })
    }

    async fn one(&self, event: &Delivery, attempt: u32) -> Result<ExitStatus, Failure> {
        let failed = |why: std::io::Error| self.can_not_run(why);
        let mut child = Family::start(&mut self.prepared(event, attempt)).map_err(failed)?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin
                && stdin.write_all(&event.payload).await.and(stdin.shutdown().await).is_err()
            {
                // It need not read what it is given.
            }
        };
        let ((), ended) = tokio::join!(feed, child.wait());
        ended.map_err(failed)
    }

    fn prepared(&self, event: &Delivery, attempt: u32) -> Command {
        let trace = event.trace.map(|trace| bytes::hex(&trace.id)).unwrap_or_default();
        let mut command = shell(&self.command);
        command
            .env("SPILE_KEY", event.key.as_ref())
            .env("SPILE_TOPIC", event.topic.as_ref())
            .env("SPILE_VERSION", event.version.0.to_string())
            .env("SPILE_POSITION", event.position.to_string())
            .env("SPILE_ATTEMPT", attempt.to_string())
            .env("SPILE_TRACE", trace)
            .stdin(Stdio::piped());
        if self.json {
            // stdout has our objects and nothing else.
            command.stdout(std::io::stderr());
        }
        command
    }

    fn can_not_run(&self, why: impl std::fmt::Display) -> Failure {
        Failure::local(&local_code::CHILD, format!("run {:?}", self.command), why)
    }
}
