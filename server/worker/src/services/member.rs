//! Who serves a service, and who of them is next.

use std::sync::{Arc, atomic::Ordering};

use spile_protocol::{code::Code, limits};

use super::{
    breaker::Breaker,
    call::Open,
    mailbox::{Letter, Mailbox},
    size,
};
use crate::limits::CALLS_OF_SERVICE;

/// Who serves, as it registers.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    pub(crate) session: u64,
    /// `ROLE/NAME`.
    pub(crate) principal: Arc<str>,
    pub(crate) edge: Arc<str>,
    pub(crate) frame_max: usize,
    pub(crate) mail: Arc<Mailbox>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) is: Serving,
    pub(super) window: u32,
    /// Calls it has not answered.
    pub(super) open: Vec<u32>,
    /// When it was chosen last: of equals, the one that waited longest is next.
    pub(super) turn: u64,
}

impl Member {
    pub(super) fn has_room(&self) -> bool {
        self.open.len() < size(self.window) && size(self.is.mail.serves()) < limits::CALLS
    }

    /// How much of its window is in use, to be compared.
    pub(super) fn load(&self) -> u64 {
        let open = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
        open.saturating_mul(1 << 32) / u64::from(self.window.max(1))
    }
}

#[derive(Debug, Default)]
pub(super) struct Service {
    pub(super) members: Vec<Member>,
    pub(super) breaker: Breaker,
    pub(super) calls: u64,
    pub(super) failed: u64,
}

/// The member with the least of its window in use; of equals, the one that waited longest.
pub(super) fn choose(service: &Service, but: Option<u64>, length: usize) -> Result<usize, Code> {
    if service.members.iter().map(|member| member.open.len()).sum::<usize>() >= CALLS_OF_SERVICE {
        return Err(Code::BUSY);
    }
    let serves = |member: &Member| {
        member.window > 0 && Some(member.is.session) != but && !member.is.mail.is_gone()
    };
    let mut why = Code::NOT_FOUND;
    let mut best: Option<(u64, u64, usize)> = None;
    for (at, member) in service.members.iter().enumerate().filter(|(_, member)| serves(member)) {
        if length.saturating_add(limits::BODY_FIELDS) > member.is.frame_max {
            why = if why == Code::NOT_FOUND { Code::TOO_LARGE } else { why };
        } else if !member.has_room() {
            why = Code::BUSY;
        } else {
            let this = (member.load(), member.turn, at);
            best = Some(best.map_or(this, |best| best.min(this)));
        }
    }
    best.map(|(_, _, at)| at).ok_or(why)
}

pub(super) fn hand(service: &mut Service, at: usize, key: u32, open: &mut Open, turn: u64) {
    let Some(member) = service.members.get_mut(at) else { return };
    member.open.push(key);
    member.turn = turn;
    open.member = member.is.session;
    open.attempts += 1;
    open.sent = false;
    let mail = &member.is.mail;
    mail.serving.fetch_add(1, Ordering::Relaxed);
    if mail.put(Letter::Call(key)).is_err() {
        tracing::error!("a call was not put into a mailbox");
    }
}
