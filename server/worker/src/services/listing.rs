//! What is told of services: `$service ls` (admin §9), LIST of services, open breakers.

use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spile_protocol::{id::Version, message::request::List, time::Instant};

use super::{
    Services,
    member::{Member, Service},
};
use crate::{
    calls::{Not, asked, json},
    intake::Intake,
    limits::PAGE_SERVICES,
    said::Said,
    tables::scoped,
};

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

    /// Names of a tenant's services that begin so, behind a name, and how many serve each; at most so many.
    fn names(&self, tenant: &str, prefix: &str, after: &str, most: usize) -> Vec<(String, u64)> {
        let begin = scoped(tenant, prefix);
        let own = tenant.len() + 1;
        // A page begins behind `after`, and not before the first name that begins so.
        let behind = scoped(tenant, after).max(begin.clone());
        let range = (Bound::Included(behind.as_str()), Bound::Unbounded);
        let named = self.of.range::<str, _>(range).map_while(|(name, service)| {
            name.starts_with(begin.as_str()).then_some(())?;
            Some((name.get(own..)?.to_owned(), service.members.len()))
        });
        let counted = |(name, members)| (name, u64::try_from(members).unwrap_or(u64::MAX));
        let served = named.filter(|(name, members)| name != after && *members > 0);
        served.take(most).map(counted).collect()
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
    let member = |member: &Member| ListedMember {
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

/// What `$service ls` is asked. admin §9, §1.7
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AskedList {
    tenant: Option<String>,
    after: String,
    limit: Option<usize>,
}

/// Its answer.
#[derive(Serialize)]
struct Page {
    services: Vec<Listed>,
    /// What the next page begins after; absent where this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Intake<'_> {
    /// spec §9.3: LIST of services: names, and how many serve each.
    pub(crate) fn list_names(&mut self, list: &List<'_>) {
        let List { request, prefix, after, limit, .. } = *list;
        let limit = usize::try_from(limit).unwrap_or(PAGE_SERVICES).clamp(1, PAGE_SERVICES);
        let tenant = &self.desk.who.tenant;
        let mut names = self.worker.services().names(tenant, prefix, after, limit + 1);
        let beyond = names.len() > limit;
        names.truncate(limit);
        let Some((last, members)) = names.pop() else {
            let key = String::new();
            return self.desk.said(0, Said::Version { request, key, version: Version(0) });
        };
        for (name, members) in names {
            let cursor = String::new();
            self.desk.said(0, Said::Service { request, more: true, name, members, cursor });
        }
        let cursor = if beyond { last.clone() } else { String::new() };
        self.desk.said(0, Said::Service { request, more: false, name: last, members, cursor });
    }

    /// admin §9: who serves what, a page at a time.
    pub(crate) fn list_services(&mut self, payload: &Bytes) -> Result<Bytes, Not> {
        let asked: AskedList = asked(payload)?;
        let tenant = self.tenant_of(asked.tenant.as_deref())?;
        let limit = asked.limit.unwrap_or(100).clamp(1, PAGE_SERVICES);
        let now = self.worker.clock.now();
        let mut services = self.worker.services().page(now, &tenant, &asked.after, limit + 1);
        let mut more = services.len() > limit;
        services.truncate(limit);
        // The page must fit the client's frame: a service takes less than this, and each of its members.
        let mut room = self.desk.who.frame_max.saturating_sub(1024) / SERVICE_BYTES;
        let fits = services.iter().take_while(|one| {
            let takes = 1 + one.members.len();
            let fits = takes <= room;
            room = room.saturating_sub(takes);
            fits
        });
        let fitting = fits.count().max(1).min(services.len());
        more |= fitting < services.len();
        services.truncate(fitting);
        let next = services.last().filter(|_| more).map(|last| last.service.clone());
        json(&Page { services, next })
    }
}

/// The most a service, or a member of one, takes in a listing.
const SERVICE_BYTES: usize = 384;
