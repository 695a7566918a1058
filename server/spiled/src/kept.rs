//! The edge's copy of the registry on disk, so that an edge that starts while the registry's worker is away lets in whom
//! it knew (spec/edge.md §1).
//!
//! What a copy is in bytes is the edge's; here it is read at the start, and written aside, synced and renamed with each
//! change. Invariants: what is not synced is not confirmed to the registry's worker; a damaged file is none, and said so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spile_edge::link::Link;
use spile_edge::registry::{Copy, Registry};
use spile_protocol::time::Millis;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::durable;
use crate::health::{Colour, Health};
use crate::start::Room;

/// The file in the data folder.
const FILE: &str = "registry";
/// Health's fact about it.
const FACT: &str = "registry-copy";
/// How old the time of the last word may be on disk: an edge that starts trusts its copy for so much less.
const REFRESH: Duration = Duration::from_secs(600);
/// When a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Reads what was kept; from then on only what is synced is confirmed.
pub fn restore(room: &Room, copy: &Copy) {
    copy.keep();
    let path = room.data.path().join(FILE);
    let restored = match durable::read(&path) {
        Ok(None) => return,
        Ok(Some(bytes)) => copy.restore(&bytes).map_err(|why| why.to_string()),
        Err(why) => Err(why.to_string()),
    };
    match restored {
        Ok(()) => {
            let heard = copy.heard_at().unwrap_or_default().0;
            tracing::info!(path = %path.display(), heard_ms = heard, "the registry's copy is back");
        }
        Err(why) => {
            tracing::error!(path = %path.display(), why, "the registry's copy is not used");
            room.health.set(FACT, Colour::Yellow, why);
        }
    }
}

/// Keeps the copy on disk until `served`: whatever changes is written, then confirmed on the link that feeds it.
pub fn start(room: &Room, copy: Arc<Copy>, link: Arc<Link>, served: CancellationToken) {
    let (path, health) = (room.data.path().join(FILE), room.health.clone());
    let changes = copy.changes();
    let keeper = Keeper { copy, link, path, health, changes, written: None };
    room.tasks.spawn(async move {
        served.run_until_cancelled(keeper.run()).await;
    });
}

struct Keeper {
    copy: Arc<Copy>,
    link: Arc<Link>,
    path: PathBuf,
    health: Health,
    changes: watch::Receiver<u64>,
    /// How far the file goes, and when there was word last by it.
    written: Option<(u64, Millis)>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let changed = self.changes.changed();
            let wait = match tokio::time::timeout(REFRESH, changed).await {
                Ok(Err(_)) => return,
                Ok(Ok(())) => true,
                Err(_) => self.is_old(),
            };
            if wait {
                self.write().await;
            }
        }
    }

    /// Was there word since, long enough after what the file says?
    fn is_old(&self) -> bool {
        let heard = self.copy.heard_at().unwrap_or_default();
        self.written.is_none_or(|(_, known)| {
            u128::from(heard.0.saturating_sub(known.0)) >= REFRESH.as_millis() / 2
        })
    }

    /// Writes the copy as it is now, until that is done. Changes that come meanwhile are written together.
    async fn write(&mut self) {
        loop {
            let Some((bytes, upto, heard)) = self.copy.image() else { return };
            let path = self.path.clone();
            let written =
                spawn_blocking(move || durable::write(&path, &bytes, durable::SECRET)).await;
            let why = match written {
                Ok(Ok(())) => {
                    self.written = Some((upto, heard));
                    self.health.set(FACT, Colour::Green, "synced");
                    return self.link.confirm(upto);
                }
                Ok(Err(why)) => why.to_string(),
                Err(why) => why.to_string(),
            };
            tracing::error!(why, "the registry's copy is not kept; its changes are not confirmed");
            self.health.set(FACT, Colour::Yellow, why);
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Passes the groups on to the other workers, as they change, until `served`.
pub fn pass_groups(room: &Room, copy: &Copy, links: Vec<Arc<Link>>, served: CancellationToken) {
    let mut changes = copy.changes();
    room.tasks.spawn(async move {
        while let Some(Ok(())) = served.run_until_cancelled(changes.changed()).await {
            links.iter().for_each(|link| link.pass_groups());
        }
    });
}
