//! A command that a shell runs, and whatever it started: a process group of their own, which ends as one.
//!
//! Ctrl-C on a terminal is for `spile`, not for what it runs. Invariant: where a family is let go before its first process
//! has ended, none of it runs on; what a command that has ended left in the background is its own affair.

use std::ops::{Deref, DerefMut};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// A shell's command under way.
pub(super) struct Family(Child);

/// A shell that will run the command.
pub(super) fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).process_group(0).kill_on_drop(true);
    shell
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
