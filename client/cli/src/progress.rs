//! Progress on stderr: a bar where people look, a line every 5 s where they do not, nothing with `--quiet`.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{Output, say};

/// How often it is told where no terminal is.
pub(crate) const LINE_EVERY: Duration = Duration::from_secs(5);
/// A bar is drawn at most so often a second.
const DRAWS_A_SECOND: u8 = 10;

/// The progress of something that has an end.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    total: u64,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { last: Duration },
    Nothing,
}

impl Progress {
    /// Begins; `total` in whatever is counted.
    pub(crate) fn new(what: &'static str, total: u64, output: &Output) -> Self {
        let shown = if output.is_quiet() {
            Shown::Nothing
        } else if std::io::stderr().is_terminal() {
            Shown::Bar(bar(what, total))
        } else {
            Shown::Lines { last: Duration::ZERO }
        };
        Self { what, total, shown }
    }

    /// So much is done, so long after the beginning.
    pub(crate) fn update(&mut self, done: u64, elapsed: Duration, told: &str) {
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_message(told.to_owned());
                bar.set_position(done.min(self.total));
            }
            Shown::Lines { last } if elapsed.saturating_sub(*last) >= LINE_EVERY => {
                *last = elapsed;
                let percent = done.min(self.total).saturating_mul(100) / self.total.max(1);
                say(&format!(
                    "spile: {}: {percent} % after {} s; {told}",
                    self.what,
                    elapsed.as_secs()
                ));
            }
            Shown::Lines { .. } | Shown::Nothing => {}
        }
    }

    /// Ends, leaving nothing of a bar.
    pub(crate) fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND);
    let bar = ProgressBar::with_draw_target(Some(total), target).with_prefix(what);
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3} % {msg}");
    style.map_or(bar.clone(), |style| bar.with_style(style))
}
