//! What is told of services: `$service ls` (admin §9), LIST of services, open breakers.

use std::ops::Bound;

use serde::Serialize;
use spile_protocol::time::Instant;

use super::{Service, Services};
use crate::tables::scoped;

/// A service, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Listed {
    pub(crate) service: String,
    pub(crate) members: Vec<ListedMember>,
    pub(crate) in_flight: usize,
    pub(crate) breaker: &'static str,
    pub(crate) calls: u64,
    pub(crate) failed: u64,
}

/// Who serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ListedMember {
    principal: String,
    edge: String,
    window: u32,
    in_flight: usize,
}

/// A breaker that is not closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenBreaker {
    /// In which tenant.
    pub tenant: String,
    /// Of which service.
    pub service: String,
    /// `open` or `half-open`.
    pub breaker: &'static str,
}

/// How calls go at a worker, as `$status` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CallsStatus {
    /// Services that somebody serves.
    pub services: usize,
    /// Calls to services since the start.
    pub calls: u64,
    /// Calls that were not answered yet.
    #[serde(rename = "calls_in_flight")]
    pub in_flight: usize,
    /// Calls whose service did not answer, or said that it is broken.
    #[serde(rename = "calls_failed")]
    pub failed: u64,
    /// Calls nobody answered in time.
    #[serde(rename = "calls_timed_out")]
    pub timed_out: u64,
    /// Calls that were handed to nobody: none served it, all were busy, or its breaker was open.
    #[serde(rename = "calls_refused")]
    pub refused: u64,
    /// Breakers that are not closed.
    pub breakers: Vec<OpenBreaker>,
}

impl Services {
    /// Services of a tenant behind a name, in the order of names; at most so many.
    pub(crate) fn page(&self, now: Instant, tenant: &str, after: &str, most: usize) -> Vec<Listed> {
        let (begin, behind) = (scoped(tenant, ""), scoped(tenant, after));
        let range = (Bound::Excluded(behind.as_str()), Bound::Unbounded);
        let own = |name: &str| name.strip_prefix(begin.as_str()).map(str::to_owned);
        let behind = self.of.range::<str, _>(range);
        let named = behind.map_while(|(name, service)| Some((own(name)?, service)));
        named.take(most).map(|(name, service)| listed(now, name, service)).collect()
    }

    /// Breakers that are not closed, of all tenants, at most so many.
    pub(crate) fn open_breakers(&self, now: Instant, most: usize) -> Vec<OpenBreaker> {
        let open = self.of.iter().filter(|(_, service)| !service.breaker.is_closed());
        open.take(most)
            .filter_map(|(name, service)| {
                let (tenant, service_name) = name.split_once('\0')?;
                let (tenant, service_name) = (tenant.to_owned(), service_name.to_owned());
                Some(OpenBreaker {
                    tenant,
                    service: service_name,
                    breaker: service.breaker.name(now),
                })
            })
            .collect()
    }
}

fn listed(now: Instant, service: String, of: &Service) -> Listed {
    let member = |member: &super::Member| ListedMember {
        principal: member.is.principal.to_string(),
        edge: member.is.edge.to_string(),
        window: member.window,
        in_flight: member.open.len(),
    };
    Listed {
        service,
        members: of.members.iter().map(member).collect(),
        in_flight: of.members.iter().map(|member| member.open.len()).sum(),
        breaker: of.breaker.name(now),
        calls: of.calls,
        failed: of.failed,
    }
}
