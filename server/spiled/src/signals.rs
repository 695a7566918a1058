//! SIGTERM and SIGINT end the process, SIGHUP reloads; everybody hears of both through values passed to them.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the process was told from outside; clones hear the same.
#[derive(Debug, Clone)]
pub struct Told {
    /// Cancelled when the process shall drain and end.
    pub shutdown: CancellationToken,
    /// Cancelled when it shall end now: a second signal, or the drain took too long.
    pub cut: CancellationToken,
    /// Counts up at each request to reload.
    pub reload: watch::Receiver<u64>,
}

/// Installs the handlers and returns what they tell, and the task that listens; it ends with `cut`.
///
/// # Errors
/// The system refused a handler.
pub fn listen() -> io::Result<(Told, impl Future<Output = ()>)> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (reload, heard) = watch::channel(0);
    let told =
        Told { shutdown: CancellationToken::new(), cut: CancellationToken::new(), reload: heard };
    let (shutdown, cut) = (told.shutdown.clone(), told.cut.clone());
    let listening = async move {
        loop {
            tokio::select! {
                Some(()) = term.recv() => end("SIGTERM", &shutdown, &cut),
                Some(()) = interrupt.recv() => end("SIGINT", &shutdown, &cut),
                Some(()) = hangup.recv() => {
                    tracing::info!("SIGHUP: reloading");
                    reload.send_modify(|times| *times = times.wrapping_add(1));
                }
                () = cut.cancelled() => return,
            }
        }
    };
    Ok((told, listening))
}

fn end(name: &str, shutdown: &CancellationToken, cut: &CancellationToken) {
    if shutdown.is_cancelled() {
        tracing::warn!("{name} again: ending now");
        cut.cancel();
    } else {
        tracing::info!("{name}: draining");
        shutdown.cancel();
    }
}
