//! Ctrl-C and SIGTERM: a person or the system wants this to end.

use tokio::signal::unix::{SignalKind, signal};

/// Comes when either is sent from now on: what is printed may be answered with one.
pub(crate) fn stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            // Without handlers the system ends us by itself.
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
