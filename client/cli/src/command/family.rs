//! A command that a shell runs, and whatever it started: a process group of their own, which ends as one.
//!
//! Ctrl-C on a terminal is for `spile`, not for what it runs. Invariant: where a family is let go before its first process
//! has ended, none of it runs on; what a command that has ended left in the background is its own affair.

use std::ops::{Deref, DerefMut};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::failure::Failure;
use crate::local_code;

/// A shell's command under way.
pub(super) struct Family(Child);

/// A shell that will run the command.
pub(super) fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).process_group(0).kill_on_drop(true);
    shell
}

/// Is there what the command begins with? Asked before anything is taken, so that a typing error costs no event an attempt.
pub(super) async fn checked(flag: &str, command: &str) -> Result<(), Failure> {
    if command.trim().is_empty() {
        return Err(Failure::usage(format!("{flag} {command:?}"), "there is no command in it")
            .remedy("name the command that is to be run"));
    }
    let Some(word) = first_word(command) else { return Ok(()) };
    let failed = |why: &dyn std::fmt::Display| {
        Failure::local(&local_code::CHILD, format!("run {command:?}"), why)
    };
    let asked = Command::new("sh")
        .args(["-c", FINDS, "sh", word])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if asked.await.map_err(|why| failed(&why))?.success() {
        return Ok(());
    }
    Err(failed(&format!("the shell finds no {word:?} that it may run")))
}

/// `command -v` alone takes a path for found that may not be run.
const FINDS: &str = r#"command -v "$1" && case $1 in */*) test -x "$1" && ! test -d "$1";; esac"#;

/// The word a command begins with, where it is plainly the name of what is run; what a shell would read otherwise
/// (quotes, expansions, assignments, redirections, functions) is the shell's to judge.
fn first_word(command: &str) -> Option<&str> {
    let command = command.trim_start();
    let end = command.find(|c: char| c.is_whitespace() || ";|&".contains(c));
    let (word, rest) = command.split_at(end.unwrap_or(command.len()));
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/+-".contains(c);
    let name = word.chars().all(plain) && !word.starts_with(['-', '+']);
    (name && !word.is_empty() && !rest.trim_start().starts_with('(')).then_some(word)
}

impl Family {
    /// Starts what [`shell`] prepared.
    pub(super) fn start(command: &mut Command) -> std::io::Result<Self> {
        command.spawn().map(Self)
    }

    /// Ends all of it, unless its first process has ended already.
    pub(super) fn end(&self) {
        // One that was waited for has no number any more, and its number may be another's.
        let first = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = first
            && kill_process_group(group, Signal::KILL).is_err()
        {
            // Nothing of it is left.
        }
    }
}

impl Deref for Family {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Family {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn only_a_plain_first_word_is_judged() {
        for (command, want) in [
            ("./bill.sh", Some("./bill.sh")),
            ("  cat > file", Some("cat")),
            ("true; ./later", Some("true")),
            ("a|b", Some("a")),
            ("g++ x", Some("g++")),
            ("A=1 ./bill.sh", None),
            ("'./my bill.sh'", None),
            ("~/bill.sh", None),
            ("$BILL", None),
            ("(cd a; ./b)", None),
            ("2>&1 ./b", None),
            ("f() { ./b; }; f", None),
            ("f () { ./b; }; f", None),
            ("# why\n./b", None),
            ("; a", None),
        ] {
            assert_eq!(first_word(command), want, "{command:?}");
        }
    }

    #[tokio::test]
    async fn what_can_not_be_run_is_known_before_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let (file, folder) = (file.display().to_string(), folder.path().display().to_string());
        for (command, want) in [
            ("if true; then ./a; fi", None),
            ("exit 127", None),
            (". /nowhere", None),
            ("cat", None),
            ("A=1 no-such-program", None),
            ("no-such-program --x", Some(Exit::Failed)),
            ("./no-such-program", Some(Exit::Failed)),
            (&file, Some(Exit::Failed)),
            (&folder, Some(Exit::Failed)),
            ("", Some(Exit::Usage)),
            (" \n", Some(Exit::Usage)),
        ] {
            let told = checked("--exec", command).await.err();
            assert_eq!(told.as_ref().map(Failure::exit), want, "{command:?}: {told:?}");
        }
    }
}
