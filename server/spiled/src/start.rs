//! A server's life: from a configuration to ready, and from a signal to its end.
//!
//! The order is a promise. Folder locked, certificates and contexts synced, listeners bound, and only then `ready`.
//! On a signal: not ready any more, then the roles drain, then what is left is cut; the end comes within 10 s.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::anyhow;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::clock::unix_seconds;
use crate::config::{Config, LogFormat};
use crate::data::DataFolder;
use crate::health::{Colour, Health, Phase};
use crate::metrics::Metrics;
use crate::roles::{self, Prepared, Started};
use crate::signals::{self, Told};
use crate::{cli, logs};

/// After the drain, tasks that were cut have this long to let go before the process ends without them.
const CUT_GRACE: Duration = Duration::from_millis(300);

/// What every role is given.
#[derive(Debug, Clone)]
pub struct Room {
    /// The configuration.
    pub config: Arc<Config>,
    /// The data folder, held until the last clone is gone.
    pub data: Arc<DataFolder>,
    /// Where facts are set.
    pub health: Health,
    /// Where metrics are registered.
    pub metrics: Metrics,
    /// Shutdown, cut and reload.
    pub told: Told,
    /// Where tasks are spawned; the drain waits for them.
    pub tasks: TaskTracker,
    downfall: Downfall,
}

#[derive(Debug, Clone, Default)]
struct Downfall {
    why: Arc<OnceLock<String>>,
    came: CancellationToken,
}

impl Room {
    /// Ends the process with 1, at once and without a drain: it can't keep its promise any more (a failed sync). The
    /// first reason is the one that is told.
    pub fn fail(&self, part: &str, why: &str) {
        self.health.set(part, Colour::Red, why);
        tracing::error!(part, why, "ending");
        if self.downfall.why.set(format!("{part}: {why}")).is_err() {
            tracing::error!(part, "ending already");
        }
        self.downfall.came.cancel();
    }
}

/// Runs a server until it is told to end.
///
/// # Errors
/// It could not start, or had to end by itself.
pub fn run(config: Config) -> anyhow::Result<()> {
    logs::start(&config.log)?;
    let files = raise_open_files();
    let data = DataFolder::open(&config.data)?;
    let prepared = roles::prepare(&config, data.path(), unix_seconds())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| anyhow!("start: make the runtime: {why}; free memory or threads"))?;
    tracing::debug!(files, "open files allowed");
    let ended = runtime.block_on(serve(config, data, prepared));
    // A blocking call that hangs on a dead disk must not keep the process.
    runtime.shutdown_timeout(CUT_GRACE);
    ended
}

async fn serve(config: Config, data: DataFolder, prepared: Prepared) -> anyhow::Result<()> {
    let (told, listening) = signals::listen()
        .map_err(|why| anyhow!("start: listen for signals: {why}; report this"))?;
    let health = Health::default();
    let room = Room {
        metrics: Metrics::new(config.role.name().word(), &health),
        config: Arc::new(config),
        data: Arc::new(data),
        health,
        told,
        tasks: TaskTracker::new(),
        downfall: Downfall::default(),
    };
    let others = TaskTracker::new();
    others.spawn(listening);
    let admin = open_admin(&room, &others).await?;
    let started = roles::start(&room, prepared).await?;
    room.health.enter(Phase::Serving);
    say_ready(&room, &started, admin)?;
    let ended = wait(&room).await;
    room.told.cut.cancel();
    others.close();
    // Both are only waited for as long as they may hinder the end.
    if timeout(CUT_GRACE, others.wait()).await.is_err() {
        tracing::warn!("admin requests cut");
    }
    ended
}

/// The admin listener answers through the drain, so that a balancer sees it.
async fn open_admin(room: &Room, others: &TaskTracker) -> anyhow::Result<SocketAddr> {
    let address = room.config.admin.address;
    let (listener, bound) = bind("admin", address, "--admin").await?;
    let admin = Admin { health: room.health.clone(), metrics: room.metrics.clone() };
    others.spawn(admin.serve(listener, room.told.cut.clone()));
    Ok(bound)
}

/// Binds a listener and says where it is, or which flag takes it elsewhere.
///
/// # Errors
/// The address is taken or not ours.
pub async fn bind(
    what: &str,
    address: SocketAddr,
    flag: &str,
) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let taken = |why| anyhow!("{what}: listen on {address}: {why}; name another with {flag}");
    let listener = TcpListener::bind(address).await.map_err(taken)?;
    let bound = listener.local_addr().map_err(taken)?;
    Ok((listener, bound))
}

async fn wait(room: &Room) -> anyhow::Result<()> {
    tokio::select! {
        () = room.told.shutdown.cancelled() => {}
        () = room.downfall.came.cancelled() => {}
    }
    if let Some(why) = room.downfall.why.get() {
        anyhow::bail!("{why}");
    }
    room.health.enter(Phase::Draining);
    room.tasks.close();
    let drained = room.told.cut.run_until_cancelled(room.tasks.wait());
    match timeout(room.config.limits.drain, drained).await {
        Ok(Some(())) => tracing::info!("drained"),
        Ok(None) | Err(_) => tracing::warn!("drain cut; what was not acknowledged is sent again"),
    }
    match room.downfall.why.get() {
        Some(why) => anyhow::bail!("{why}"),
        None => Ok(()),
    }
}

fn say_ready(room: &Room, started: &Started, admin: SocketAddr) -> anyhow::Result<()> {
    let mut line = String::from("spiled ready");
    for (name, address) in &started.listening {
        line.push_str(&format!(" {name}={address}"));
    }
    let data = room.data.path().display();
    line.push_str(&format!(" admin={admin} data={data} version={}\n", env!("CARGO_PKG_VERSION")));
    cli::print(&line)?;
    if !started.hints.is_empty() && room.config.log.format != LogFormat::Json {
        eprint(&started.hints);
    }
    Ok(())
}

/// Help for people; when stderr is gone nobody reads it.
fn eprint(lines: &[String]) {
    use std::io::Write;
    let mut text = lines.join("\n");
    text.push('\n');
    std::io::stderr().write_all(text.as_bytes()).unwrap_or_default();
}

/// A session is a file; the usual soft limit of 1,024 is far below what an edge holds. Returns what is allowed now.
fn raise_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        return before;
    }
    limit.maximum
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tempfile::TempDir;
    use tokio::sync::{oneshot, watch};
    use tokio::time::sleep;

    use super::*;
    use crate::config::Overrides;

    fn room(folder: &TempDir) -> Room {
        let health = Health::default();
        health.enter(Phase::Serving);
        let (_, reload) = watch::channel(0);
        let told =
            Told { shutdown: CancellationToken::new(), cut: CancellationToken::new(), reload };
        Room {
            config: Arc::new(Config::load(None, &Overrides::default(), None).unwrap()),
            data: Arc::new(DataFolder::open(folder.path()).unwrap()),
            metrics: Metrics::new("all", &health),
            health,
            told,
            tasks: TaskTracker::new(),
            downfall: Downfall::default(),
        }
    }

    #[tokio::test]
    async fn a_part_that_fails_ends_the_process_with_the_first_reason() {
        let folder = TempDir::new().unwrap();
        let room = room(&folder);
        room.tasks.spawn(pending::<()>());
        room.fail("log", "sync of a segment failed; restart on a sound disk");
        room.fail("views", "closed");
        assert!(!room.health.is_ready());
        let why = wait(&room).await.unwrap_err().to_string();
        assert_eq!(why, "log: sync of a segment failed; restart on a sound disk");
    }

    #[tokio::test]
    async fn a_failure_in_the_drain_is_a_failure() {
        let folder = TempDir::new().unwrap();
        let room = room(&folder);
        let task = room.clone();
        room.tasks.spawn(async move {
            task.told.shutdown.cancelled().await;
            task.fail("log", "the last sync failed");
        });
        room.told.shutdown.cancel();
        assert_eq!(wait(&room).await.unwrap_err().to_string(), "log: the last sync failed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_its_tasks() {
        let folder = TempDir::new().unwrap();
        let room = room(&folder);
        let (done, mut is_done) = oneshot::channel();
        let (shutdown, health) = (room.told.shutdown.clone(), room.health.clone());
        room.tasks.spawn(async move {
            shutdown.cancelled().await;
            // Virtual time, far below the drain's limit.
            sleep(Duration::from_secs(5)).await;
            done.send(health.report().phase).unwrap();
        });
        room.told.shutdown.cancel();
        wait(&room).await.unwrap();
        assert_eq!(is_done.try_recv(), Ok(Phase::Draining));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_hangs_is_cut_within_ten_seconds_or_by_a_second_signal() {
        let folder = TempDir::new().unwrap();
        let room = room(&folder);
        room.tasks.spawn(pending::<()>());
        room.told.shutdown.cancel();
        timeout(Duration::from_secs(10), wait(&room)).await.unwrap().unwrap();
        room.told.cut.cancel();
        timeout(Duration::from_millis(1), wait(&room)).await.unwrap().unwrap();
    }
}
