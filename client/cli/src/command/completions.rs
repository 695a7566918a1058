//! `spile completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Typed;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn run(shell: Shell, output: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Typed::command(), "spile", &mut script);
    output.text(&String::from_utf8_lossy(&script))
}
