//! Log lines: to stderr, text for people and JSON lines for machines, chosen once at the start.
//!
//! Nothing here decides what is logged; the filter does (`SPILED_LOG`, `log.filter`).

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{LogChoice, LogFormat};

/// Whether a filter can be read; the reason in one line when not.
///
/// # Errors
/// Why it can't.
pub fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::builder().parse(filter).map(drop).map_err(|why| format!("{filter:?}: {why}"))
}

/// Starts logging for the whole process. A second call in one process is refused.
///
/// # Errors
/// The filter is wrong, or logging has been started before.
pub fn start(choice: &LogChoice) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&choice.filter)?;
    let people = match choice.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Json => false,
        LogFormat::Text => true,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if people {
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        lines.with_ansi(colours).try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(false).try_init()
    };
    started.map_err(|why| anyhow::anyhow!("logs: start: {why}; start them once a process"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for good in ["info", "spile_edge=debug,info", "off"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        assert!(check_filter("info,=x=y").is_err());
    }
}
