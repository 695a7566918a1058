//! `spile serve`: a shell runs the command once a call; how it ends says what is answered.
//!
//! Ctrl-C takes no more calls and lets those that run finish. Invariant: a call whose time is over has no child any more,
//! nor anything that one started.

use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use spile_client::{Answer, Call, Code, NotDone, Reply, wall};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::args::{Everywhere, ServeArgs};
use crate::command::family::{self, Family, shell};
use crate::connect::{connect, within};
use crate::failure::{Exit, Failure};
use crate::output::{Output, say};
use crate::signal;
use crate::value::bytes::hex;

/// A reply up to here is one frame; more goes in parts as it comes.
const PART: usize = 128 * 1024;
/// Of a line of stderr no more is kept: what a reply's detail takes.
const LINE: usize = 256;
/// Rows that wait to be printed; more wait with their calls.
const ROWS: usize = 64;

/// A call that is over, as scripts read it.
#[derive(Clone, Debug, Serialize)]
struct Row {
    service: String,
    method: String,
    caller: String,
    trace: String,
    /// `done`, or the code of the answer.
    outcome: &'static str,
    took_ms: u64,
}

pub(crate) async fn run(
    args: &ServeArgs,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    family::checked("--exec", &args.exec).await?;
    let client = connect(typed).await?;
    let what = format!("serve {}", args.service);
    let (rows, mut over) = mpsc::channel(ROWS);
    let command: Arc<str> = Arc::from(args.exec.as_str());
    let handler = move |call| work(Arc::clone(&command), rows.clone(), call);
    let serving = client.serve(&args.service, args.parallel, handler);
    let serving = match within(typed.timeout, &what, serving).await {
        Ok(serving) => serving,
        Err(failure) => {
            client.close().await;
            return Err(failure);
        }
    };
    // Asked for before anybody is told that it serves: what comes from then on is not missed.
    let stop = signal::stop();
    tokio::pin!(stop);
    let at_once = args.parallel;
    output.notice(&format!("serving {}, {at_once} at once; Ctrl-C ends it", args.service));
    let outcome = loop {
        tokio::select! {
            biased;
            () = &mut stop => break Ok(()),
            Some(row) = over.recv() => show(&row, output)?,
            why = serving.ended() => break Err(Failure::client(what.as_str(), &why)),
        }
    };
    if outcome.is_ok() {
        let again = signal::stop();
        tokio::pin!(again);
        let running = serving.running();
        let waiting = format!("waiting for {running} that run; Ctrl-C again does not wait");
        let mut told = running == 0;
        let stopped = serving.stop();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                biased;
                () = &mut again => return Err(Failure::Quiet(Exit::Failed)),
                () = &mut stopped => break,
                // Behind the stop, which begins when it is looked at: who reads this finds no call taken any more.
                () = std::future::ready(()), if !told => {
                    output.notice(&waiting);
                    told = true;
                }
                Some(row) = over.recv() => show(&row, output)?,
            }
        }
        while let Ok(row) = over.try_recv() {
            show(&row, output)?;
        }
    }
    client.close().await;
    outcome
}

fn show(row: &Row, output: &mut Output) -> Result<(), Failure> {
    let line = |row: &Row| {
        format!(
            "{} {} of {}: {} in {} ms",
            row.service, row.method, row.caller, row.outcome, row.took_ms
        )
    };
    if row.outcome == "done" {
        output.went_well(row, line)?;
    } else {
        output.result(row, line)?;
    }
    output.flush()
}

/// One call, from its payload to its answer.
async fn work(command: Arc<str>, rows: mpsc::Sender<Row>, call: Call) -> Answer {
    let mut running = Running::new(&call, rows);
    let answer = Child { command, call }.run().await;
    running.row.outcome = match &answer {
        Ok(_) => "done",
        Err(not) => not.code.entry().map_or("unknown", |entry| entry.name),
    };
    running.told().await;
    answer
}

/// A call under way: told also where its time is over and its work is dropped.
struct Running {
    row: Row,
    begun_ms: u64,
    rows: Option<mpsc::Sender<Row>>,
}

impl Running {
    fn new(call: &Call, rows: mpsc::Sender<Row>) -> Self {
        let row = Row {
            service: call.service.as_ref().to_owned(),
            method: call.method.clone(),
            caller: call.caller.clone(),
            trace: trace_of(call),
            outcome: "timed-out",
            took_ms: 0,
        };
        Self { row, begun_ms: wall().0, rows: Some(rows) }
    }

    fn take(&mut self) -> Option<(mpsc::Sender<Row>, Row)> {
        let took_ms = wall().0.saturating_sub(self.begun_ms);
        Some((self.rows.take()?, Row { took_ms, ..self.row.clone() }))
    }

    async fn told(&mut self) {
        if let Some((rows, row)) = self.take() {
            // Nobody prints any more: the command ends.
            rows.send(row).await.unwrap_or_default();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some((rows, row)) = self.take() {
            // Where many wait to be printed, this one is not.
            rows.try_send(row).unwrap_or_default();
        }
    }
}

fn trace_of(call: &Call) -> String {
    call.trace.map(|trace| hex(&trace.id)).unwrap_or_default()
}

struct Child {
    command: Arc<str>,
    call: Call,
}

impl Child {
    fn prepared(&self) -> Command {
        let Call { service, method, caller, remaining, .. } = &self.call;
        let mut command = shell(&self.command);
        command
            .env("SPILE_SERVICE", service.as_ref())
            .env("SPILE_METHOD", method)
            .env("SPILE_CALLER", caller)
            .env("SPILE_TRACE", trace_of(&self.call))
            .env("SPILE_REMAINING_MS", remaining.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    async fn run(self) -> Answer {
        let mut child = Family::start(&mut self.prepared())?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let payload = self.call.payload.clone();
        let feed = async {
            if let Some(mut stdin) = stdin
                && stdin.write_all(&payload).await.and(stdin.shutdown().await).is_err()
            {
                // It need not read what it is given.
            }
        };
        let ((), reply, last_line) = tokio::join!(feed, self.reply(stdout), last_line(stderr));
        let ended = child.wait().await?;
        let reply = reply?;
        if ended.success() {
            return Ok(Reply::from(reply));
        }
        let detail =
            if last_line.is_empty() { format!("it ended with {ended}") } else { last_line };
        Err(NotDone::new(code_of(ended.code()), detail))
    }

    /// What it says; what is more than one frame goes out while it comes.
    async fn reply(&self, stdout: Option<impl AsyncRead + Unpin>) -> Result<Bytes, NotDone> {
        let Some(mut stdout) = stdout else { return Ok(Bytes::new()) };
        let mut reply = Vec::new();
        loop {
            let mut next = (&mut stdout).take(u64::try_from(PART).unwrap_or(u64::MAX));
            let mut more = Vec::new();
            if next.read_to_end(&mut more).await? == 0 {
                return Ok(reply.into());
            }
            let before = std::mem::replace(&mut reply, more);
            if !before.is_empty() {
                self.call.part(before).await?;
            }
        }
    }
}

/// sysexits' codes, as far as they mean something to who asked.
const fn code_of(exit: Option<i32>) -> Code {
    match exit {
        Some(65) => Code::INVALID,
        Some(66) => Code::NOT_FOUND,
        Some(75) => Code::BUSY,
        Some(77) => Code::FORBIDDEN,
        Some(_) | None => Code::INTERNAL,
    }
}

/// Passes its stderr on, and keeps the last line that says something.
async fn last_line(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let mut last = String::new();
    let Some(stderr) = stderr else { return last };
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        say(&line);
        if !line.trim().is_empty() {
            last = line.trim().chars().take(LINE).collect();
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_callers_fault_is_not_the_services() {
        let class = |exit| code_of(exit).class();
        use spile_protocol::code::Class;
        for (exit, want) in [
            (Some(65), Class::YourRequest),
            (Some(66), Class::YourRequest),
            (Some(75), Class::YourPace),
            (Some(77), Class::YourRight),
            (Some(1), Class::OurSide),
            (Some(127), Class::OurSide),
            (None, Class::OurSide),
        ] {
            assert_eq!(class(exit), want, "{exit:?}");
        }
    }

    #[tokio::test]
    async fn the_last_line_that_says_something_is_kept() {
        for (said, want) in [("", ""), ("a\nb\n\n", "b"), ("a\n  c ", "c")] {
            assert_eq!(last_line(Some(said.as_bytes())).await, want);
        }
        let long = "x".repeat(1000);
        assert_eq!(last_line(Some(long.as_bytes())).await.len(), LINE);
    }
}
