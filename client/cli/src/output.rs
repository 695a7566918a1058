//! Where results, notices and errors go: results to stdout, everything else to stderr.
//!
//! With `--json` stdout holds one object a line and nothing else. A reader that goes away ends the command quietly.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::local_code;

/// Where a command's words go.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    out: BufWriter<Stdout>,
}

/// Results are gathered up to here while more are at hand.
const BUFFER: usize = 64 * 1024;

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, out: BufWriter::with_capacity(BUFFER, io::stdout()) }
    }

    /// Is stdout for scripts?
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Are notices and progress unwanted?
    pub(crate) const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// One result: an object for scripts, or a line for people. It is seen after [`Self::flush`] at the latest.
    pub(crate) fn result<T: Serialize>(
        &mut self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            serde_json::to_writer(&mut self.out, value).map_err(io::Error::from).map_err(gone)?;
        } else {
            self.out.write_all(human(value).as_bytes()).map_err(gone)?;
        }
        self.out.write_all(b"\n").map_err(gone)
    }

    /// One of many things that went well. Who wants quiet wants to hear of what failed only; a script reads its objects all
    /// the same.
    pub(crate) fn went_well<T: Serialize>(
        &mut self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.quiet && !self.json { Ok(()) } else { self.result(value, human) }
    }

    /// Text for people and scripts alike: help, completions.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes()).map_err(gone)
    }

    /// Shows what was gathered.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(gone)
    }

    /// A remark on stderr.
    pub(crate) fn notice(&self, text: &str) {
        if !self.quiet {
            say(&format!("spile: {text}"));
        }
    }

    /// A failure, in its place.
    pub(crate) fn failure(&mut self, failure: &Failure) -> Result<(), Failure> {
        let (Some(line), Some(object)) = (failure.line(), failure.json()) else { return Ok(()) };
        if self.json {
            self.result(&object, |_| String::new())?;
        }
        self.flush()?;
        say(&line);
        Ok(())
    }
}

/// Writes a line to stderr; that nobody reads it is no reason to fail.
pub(crate) fn say(line: &str) {
    let mut stderr = io::stderr().lock();
    if writeln!(stderr, "{line}").and_then(|()| stderr.flush()).is_err() {
        // stderr is closed: there is nobody left to tell.
    }
}

/// May colours be used there?
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !forbidden
}

fn gone(why: io::Error) -> Failure {
    if why.kind() == io::ErrorKind::BrokenPipe {
        return Failure::Quiet(Exit::Done);
    }
    Failure::local(&local_code::FILE, "write to stdout", why)
}
