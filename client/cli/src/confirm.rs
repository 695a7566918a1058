//! Destroying asks: a person types yes, a script says `--yes`.

use std::io::{BufRead, IsTerminal};

use crate::failure::Failure;
use crate::output::say;

/// Asks a person; a script must say `--yes`.
pub(crate) fn confirm(yes: bool, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(what, "nobody is there to ask").remedy("say --yes"));
    }
    say(&format!("spile: {what}. Type yes to go on:"));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim() == "yes" {
        Ok(())
    } else {
        Err(Failure::usage(what, "it was not confirmed").remedy("type yes, or say --yes"))
    }
}
