//! The `spiled` server: its command line and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    spiled::cli::run(std::env::args_os())
}
