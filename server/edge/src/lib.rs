//! The edge: who is it, may it, how fast, route it.
//!
//! A connection comes through [`listener`], becomes a [`session`] when [`auth`] lets it in, and its messages go where
//! [`policy`] allows and `route` says, to workers behind [`upstream`]. Invariants: nothing is decided twice, here or in a
//! worker; everything has its cap in [`limits`] or in the protocol's; whoever is cut is told first.

use std::sync::{Arc, PoisonError, RwLock};

pub mod auth;
mod buffers;
pub mod cache;
pub mod clock;
mod frames;
pub mod half_open;
mod inlet;
pub mod limits;
pub mod link;
pub mod listener;
pub mod metrics;
pub mod policy;
mod recent;
pub mod registry;
mod route;
pub mod session;
pub mod sessions;
pub mod signal;
pub mod trace;
pub mod upstream;
pub mod watch;

/// What all sessions of an edge share.
pub struct Edge {
    /// What each session's machine is told when it begins; its number and nonce are its own.
    pub session: spile_protocol::session::edge::Config,
    /// Tenants that exist.
    pub tenants: Vec<String>,
    /// The clock.
    pub clock: clock::Clock,
    /// What is counted.
    pub metrics: Arc<metrics::Metrics>,
    /// Who may come.
    pub registry: Arc<dyn registry::Registry>,
    /// Where events go.
    pub workers: upstream::Workers,
    /// Who is here.
    pub sessions: Arc<sessions::Sessions>,
    /// Values that were told already.
    pub cache: Arc<cache::Cache>,
    /// Trace ids.
    pub bases: trace::Bases,
    /// What operators hear of principals.
    pub watch: watch::Watch,
    policy: RwLock<Arc<policy::Policy>>,
    /// Calls of late.
    recent: recent::Recent,
}

impl core::fmt::Debug for Edge {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Edge").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// What an edge begins with.
pub struct Parts {
    /// What each session's machine is told when it begins.
    pub session: spile_protocol::session::edge::Config,
    /// Tenants that exist.
    pub tenants: Vec<String>,
    /// Live sessions there may be.
    pub sessions: usize,
    /// Who may come.
    pub registry: Arc<dyn registry::Registry>,
    /// Where events go.
    pub workers: upstream::Workers,
    /// How long a value that a worker told may be told again; zero: never.
    pub cache_max_age: std::time::Duration,
    /// New for each process.
    pub random: [u8; 8],
}

impl core::fmt::Debug for Parts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Parts").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl Edge {
    /// An edge nobody has come to yet, with the built-in policy.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let metrics = Arc::<metrics::Metrics>::default();
        let sessions = sessions::Sessions::new(parts.sessions, Arc::clone(&metrics.sessions));
        Arc::new(Self {
            session: parts.session,
            tenants: parts.tenants,
            clock: clock::Clock::start(),
            metrics,
            registry: parts.registry,
            workers: parts.workers,
            sessions,
            cache: cache::Cache::new(parts.cache_max_age),
            bases: trace::Bases::new(parts.random),
            watch: watch::Watch::default(),
            policy: RwLock::new(Arc::new(policy::Policy::built_in())),
            recent: recent::Recent::default(),
        })
    }

    /// What principals may do at the moment.
    #[must_use]
    pub fn policy(&self) -> Arc<policy::Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another policy, from the next message on.
    pub fn set_policy(&self, policy: policy::Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Cuts whoever the registry takes back, for as long as there is one.
    pub async fn follow_registry(&self) {
        sessions::follow(&self.sessions, &*self.registry, self.clock).await;
    }
}
