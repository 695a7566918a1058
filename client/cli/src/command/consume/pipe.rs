//! `--pipe`: one child for all events; a line of JSON to it for each, a line from it that says what became of it.
//!
//! It holds at most one event of a key, and of so many keys as --parallel says. When it ends before its time, or says
//! what was not agreed, what it held is given back for a retry and the command fails.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use spile_client::{Delivery, Error, GroupDelivery, Settled, Settling};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::task::JoinSet;

use super::{Handed, Row, Taking};
use crate::args::Everywhere;
use crate::command::family::{Family, shell};
use crate::failure::Failure;
use crate::local_code;
use crate::output::Output;
use crate::signal;

/// How long a child that closed its stdout has to end, so that it can be told how.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a child says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    Retry,
    Reject,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Reject => "reject",
        }
    }
}

/// `done|retry|reject KEY VERSION`; a key may have spaces.
fn parse(line: &str) -> Option<(Verdict, &str, u64)> {
    let (word, rest) = line.split_once(' ')?;
    let (key, version) = rest.rsplit_once(' ')?;
    let verdict = [Verdict::Done, Verdict::Retry, Verdict::Reject]
        .into_iter()
        .find(|verdict| verdict.name() == word)?;
    Some((verdict, key, version.parse().ok()?))
}

/// What the child holds of one key: its first event, and the delivery with those behind it.
struct Held {
    delivery: GroupDelivery,
    event: Delivery,
    /// Events of the delivery that are wanted, this one with them.
    wanted: usize,
}

pub(super) async fn run(
    command: &str,
    taking: &mut Taking,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    // Asked for before the child starts: ended by the system, this would leave it behind.
    let stop = signal::stop();
    tokio::pin!(stop);
    let mut piped = Piped::start(command)?;
    let outcome = tokio::select! {
        biased;
        () = stop => Ok(()),
        outcome = piped.serve(taking, output) => outcome,
    };
    match outcome {
        Ok(()) => {
            piped.goodbye(typed, output).await;
            Ok(())
        }
        Err(failure) => {
            piped.give_back(typed).await;
            Err(failure)
        }
    }
}

struct Piped {
    command: String,
    child: Family,
    stdin: Option<ChildStdin>,
    /// Written as the child reads; bounded by what it may hold.
    unwritten: Vec<u8>,
    lines: Lines<BufReader<ChildStdout>>,
    held: HashMap<String, Held>,
    answers: JoinSet<(Row, &'static str, Result<Settled, Error>)>,
}

impl Piped {
    fn start(command: &str) -> Result<Self, Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::local(&local_code::CHILD, format!("run {command:?}"), why)
        };
        let mut prepared = shell(command);
        prepared.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Family::start(&mut prepared).map_err(|why| failed(&why))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = stdout.ok_or_else(|| failed(&"it has no stdout"))?;
        Ok(Self {
            command: command.to_owned(),
            child,
            stdin,
            unwritten: Vec::new(),
            lines: BufReader::new(stdout).lines(),
            held: HashMap::new(),
            answers: JoinSet::new(),
        })
    }

    /// Until it is over, or the child fails.
    async fn serve(&mut self, taking: &mut Taking, output: &mut Output) -> Result<(), Failure> {
        loop {
            let free = self.held.len() < taking.parallel && taking.to_begin > 0;
            let idle = self.held.is_empty() && self.answers.is_empty();
            tokio::select! {
                biased;
                Some(answered) = self.answers.join_next() => {
                    let Ok((row, asked, answer)) = answered else { continue };
                    row.settled(asked, &answer).show(output)?;
                    if taking.finished() {
                        return Ok(());
                    }
                }
                line = self.lines.next_line() => match line {
                    Ok(Some(line)) => self.said(&line, taking)?,
                    Ok(None) => return Err(self.ended().await),
                    Err(why) => return Err(self.failure(&why)),
                },
                written = write(&mut self.stdin, &self.unwritten), if !self.unwritten.is_empty() => {
                    match written {
                        Ok(count) => drop(self.unwritten.drain(..count)),
                        // It reads no more: its stdout says how it ended.
                        Err(_) => (self.stdin, self.unwritten) = (None, Vec::new()),
                    }
                }
                next = taking.next(idle), if free => {
                    let Some((delivery, wanted)) = next? else { return Ok(()) };
                    self.hand(delivery, wanted, taking)?;
                }
            }
        }
    }

    /// Gives the child a delivery's first event.
    fn hand(
        &mut self,
        delivery: GroupDelivery,
        wanted: usize,
        taking: &Taking,
    ) -> Result<(), Failure> {
        let Some(event) = delivery.first() else { return Ok(()) };
        let handed = Handed::new(&taking.group, delivery.attempt(), &event);
        serde_json::to_writer(&mut self.unwritten, &handed).map_err(|why| self.failure(&why))?;
        self.unwritten.push(b'\n');
        self.held.insert(event.key.as_ref().to_owned(), Held { delivery, event, wanted });
        Ok(())
    }

    /// The child answered.
    fn said(&mut self, line: &str, taking: &mut Taking) -> Result<(), Failure> {
        let Some((verdict, key, version)) = parse(line) else {
            let told = format!("it said {line:?}, which is no done, retry or reject KEY VERSION");
            return Err(self.failure(&told));
        };
        let held = self.held.remove(key);
        let Some(held) = held.filter(|held| held.event.version.0 == version) else {
            let told = format!("it said {line:?}, and was given no such event");
            return Err(self.failure(&told));
        };
        let Held { mut delivery, event, wanted } = held;
        let row = Row::new(&taking.group, delivery.attempt(), &event);
        let settling = match verdict {
            Verdict::Done => delivery.done_first(1),
            Verdict::Reject => delivery.reject_first(1, &format!("{}: reject", self.command)),
            Verdict::Retry => {
                taking.gave_up(wanted - 1);
                let settling = delivery.retry(None, &format!("{}: retry", self.command));
                self.await_answer(row, verdict, settling);
                return Ok(());
            }
        };
        self.await_answer(row, verdict, settling);
        if wanted > 1 {
            self.hand(delivery, wanted - 1, taking)?;
        }
        Ok(())
    }

    fn await_answer(&mut self, row: Row, verdict: Verdict, settling: Settling) {
        self.answers.spawn(async move { (row, verdict.name(), settling.await) });
    }

    fn failure(&self, why: &dyn std::fmt::Display) -> Failure {
        let held = self.held.len();
        let left = match held {
            0 => String::new(),
            1 => "; the event it held goes back".to_owned(),
            held => format!("; the {held} events it held go back"),
        };
        Failure::local(
            &local_code::CHILD,
            format!("run {:?}", self.command),
            format!("{why}{left}"),
        )
    }

    /// Its stdout is closed: it can't answer any more, whether it runs on or not.
    async fn ended(&mut self) -> Failure {
        let how = match tokio::time::timeout(LAST_WORDS, self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(why)) => why.to_string(),
            Err(_) => "it runs, and its stdout is closed".to_owned(),
        };
        self.failure(&format!("it ended before its stdin did ({how})"))
    }

    /// The child has failed: what it held is tried again.
    async fn give_back(mut self, typed: &Everywhere) {
        self.child.end();
        let reason = format!("{}: it ended", self.command);
        let held = std::mem::take(&mut self.held);
        let settling: Vec<_> =
            held.into_values().map(|held| held.delivery.retry(None, &reason)).collect();
        for settling in settling {
            if tokio::time::timeout(typed.timeout, settling).await.is_err() {
                return;
            }
        }
    }

    /// Nothing more is given to the child: it may end by itself, for a while.
    async fn goodbye(mut self, typed: &Everywhere, output: &Output) {
        self.stdin = None;
        if tokio::time::timeout(typed.timeout, self.child.wait()).await.is_err() {
            output.notice(&format!("{:?} did not end with its stdin, and is ended", self.command));
        }
    }
}

async fn write(stdin: &mut Option<ChildStdin>, bytes: &[u8]) -> std::io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write(bytes).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_a_word_a_key_and_a_version() {
        for (line, want) in [
            ("done k 5", Some((Verdict::Done, "k", 5))),
            ("retry line 7 oven 12", Some((Verdict::Retry, "line 7 oven", 12))),
            ("reject k 1", Some((Verdict::Reject, "k", 1))),
            ("done k", None),
            ("done k x", None),
            ("later k 5", None),
            ("done  5", Some((Verdict::Done, "", 5))),
            ("", None),
        ] {
            assert_eq!(parse(line), want, "{line:?}");
        }
    }
}
