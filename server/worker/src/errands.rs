//! What a worker asks other edges about a principal whose sessions they have: a CALL in a session's envelope that is for
//! the edge itself (spec §10.3.4, admin §3.8).
//!
//! Invariant: an edge is asked once, through its newest session of the principal; what it has not answered by the asker's
//! end is missing from the answer, and a late answer is nobody's.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use spile_protocol::{
    code::Code,
    crc,
    id::RequestId,
    message::{Body, Call, Message},
};

use crate::{
    answers::Sink,
    bell::Bell,
    calls::{JSON, Not},
    intake::Intake,
    limits::ERRANDS,
    presence::{About, live},
};

/// The numbers of such calls: from here on. A service's call has none of them.
pub(crate) const FIRST: u32 = u32::MAX - 0xffff;

/// One question to all other edges that have sessions of a principal.
#[derive(Debug)]
pub(crate) struct Errand {
    /// Who waits for the answers.
    asker: Arc<Bell>,
    method: &'static str,
    payload: Bytes,
    edges: Mutex<Vec<Asked>>,
}

#[derive(Debug)]
struct Asked {
    edge: String,
    /// It has said something, be it that it can't.
    done: bool,
    answer: Option<Map<String, Value>>,
}

impl Errand {
    fn edges(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, at: usize, answer: Option<Map<String, Value>>) {
        if let Some(asked) = self.edges().get_mut(at) {
            (asked.done, asked.answer) = (true, answer);
        }
        self.asker.ring();
    }

    /// What each edge answered, with its name; `null` for one that has not. Nothing before all have, or it is `late`.
    pub(crate) fn answers(&self, late: bool) -> Option<Vec<Value>> {
        let edges = self.edges();
        let whole = late || edges.iter().all(|asked| asked.done);
        let told = |asked: &Asked| json!({ "edge": asked.edge, "answer": asked.answer });
        whole.then(|| edges.iter().map(told).collect())
    }
}

/// One session's part in it.
#[derive(Debug)]
struct Part {
    request: RequestId,
    /// Its asker has it: with that it is gone.
    errand: Weak<Errand>,
    at: usize,
    said: bool,
}

/// What one session's edge is asked.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    parts: Mutex<Vec<Part>>,
    next: AtomicU32,
    /// There is something to say: looked at each time the session speaks.
    unsaid: AtomicBool,
}

impl Errands {
    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its edge is to be asked; false where too many are asked already.
    fn ask(&self, errand: &Arc<Errand>, at: usize) -> bool {
        let mut parts = self.parts();
        // Whose asker does not wait any more.
        parts.retain(|part| part.errand.strong_count() > 0);
        if parts.len() >= ERRANDS {
            return false;
        }
        let request = RequestId(FIRST + self.next.fetch_add(1, Ordering::Relaxed) % 0xffff);
        parts.push(Part { request, errand: Arc::downgrade(errand), at, said: false });
        self.unsaid.store(true, Ordering::Release);
        true
    }

    /// Says what the edge was not asked yet.
    pub(crate) fn say(&self, sink: &mut Sink<'_>) {
        if !self.unsaid.load(Ordering::Acquire) {
            return;
        }
        let mut parts = self.parts();
        self.unsaid.store(false, Ordering::Release);
        for part in parts.iter_mut().filter(|part| !part.said) {
            part.said = true;
            let Some(errand) = part.errand.upgrade() else { continue };
            let fields = Call {
                request: part.request,
                service: "$device",
                method: errand.method,
                remaining_ms: 0,
                idempotent: true,
                content_type: JSON,
                caller: "",
                trace: None,
            };
            let payload = &*errand.payload;
            sink(&Message::Call(Body { fields, payload }), crc::of(payload));
        }
    }

    /// Its edge has answered.
    pub(crate) fn heard(&self, request: RequestId, code: Code, payload: &[u8]) {
        let mut parts = self.parts();
        let Some(at) = parts.iter().position(|part| part.request == request) else { return };
        let part = parts.swap_remove(at);
        drop(parts);
        // One that can't do it has not done it.
        let answer = serde_json::from_slice(payload).ok().filter(|_| code == Code(0));
        if let Some(errand) = part.errand.upgrade() {
            errand.answered(part.at, answer);
        }
    }
}

impl Intake<'_> {
    /// Asks the other edges that have sessions of whoever has that name; `None` where there are none.
    pub(crate) fn ask_edges(
        &self,
        (tenant, name): (&str, &str),
        method: &'static str,
        payload: &Value,
    ) -> Result<Option<Arc<Errand>>, Not> {
        let own = &self.desk.who.edge;
        let mut newest = BTreeMap::new();
        for (_, _, _, attached) in live(&self.core.sessions, tenant, name) {
            let about: &Arc<About> = &attached.about;
            if about.edge() != &**own {
                let known = newest.entry(about.edge().to_owned()).or_insert(attached);
                if known.about.since() < about.since() {
                    *known = attached;
                }
            }
        }
        if newest.is_empty() {
            return Ok(None);
        }
        let payload = crate::calls::json(payload)?;
        let edges =
            newest.keys().map(|edge| Asked { edge: edge.clone(), done: false, answer: None });
        let edges = Mutex::new(edges.collect());
        let asker = self.desk.bell.clone();
        let errand = Arc::new(Errand { asker, method, payload, edges });
        for (at, attached) in newest.values().enumerate() {
            if attached.about.errands.ask(&errand, at) {
                attached.bell.ring();
            }
        }
        Ok(Some(errand))
    }
}

/// How long other edges have: less than the edge that asks waits for.
pub(crate) fn wait(remaining_ms: u32, most_ms: u64) -> Duration {
    Duration::from_millis((u64::from(remaining_ms) * 9 / 10).min(most_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errand(edges: &[&str]) -> Arc<Errand> {
        let asked = |edge: &&str| Asked { edge: (*edge).to_owned(), done: false, answer: None };
        let edges = Mutex::new(edges.iter().map(asked).collect());
        let (asker, payload) = (Arc::default(), Bytes::from_static(b"{}"));
        Arc::new(Errand { asker, method: "told", payload, edges })
    }

    fn said(errands: &Errands) -> Vec<RequestId> {
        let mut said = Vec::new();
        errands.say(&mut |message, _| {
            let Message::Call(call) = message else { panic!("{message:?}") };
            said.push(call.fields.request);
        });
        said
    }

    #[test]
    fn each_edge_is_asked_once_and_answers_once() {
        let (errand, errands) = (errand(&["e1", "e2"]), Errands::default());
        assert!(errands.ask(&errand, 1));
        let asked = said(&errands);
        assert_eq!((asked.len(), said(&errands).len()), (1, 0));
        assert!(asked[0].0 >= FIRST);
        errands.heard(RequestId(FIRST + 7), Code(0), b"{}");
        assert_eq!(errand.answers(false), None, "it was not asked under that number");
        errands.heard(asked[0], Code(0), br#"{"a":1}"#);
        errands.heard(asked[0], Code(0), br#"{"a":2}"#);
        assert_eq!(errand.answers(false), None, "e1 has not answered");
        let want = [
            json!({ "edge": "e1", "answer": null }),
            json!({ "edge": "e2", "answer": { "a": 1 } }),
        ];
        assert_eq!(errand.answers(true).unwrap(), want);
    }

    #[test]
    fn one_that_refuses_has_not_answered_and_what_nobody_waits_for_is_forgotten() {
        let errands = Errands::default();
        let refused = errand(&["e1"]);
        assert!(errands.ask(&refused, 0));
        errands.heard(said(&errands)[0], Code::NOT_FOUND, b"");
        assert_eq!(refused.answers(false).unwrap()[0]["answer"], Value::Null, "all have spoken");
        // Each asks a second edge too, which does not answer either.
        let (waiting, other): (Vec<_>, _) =
            ((0..ERRANDS).map(|_| errand(&["e1", "e2"])).collect(), Errands::default());
        assert!(waiting.iter().all(|one| other.ask(one, 1)));
        assert!(waiting.iter().all(|one| errands.ask(one, 0)));
        assert!(!errands.ask(&refused, 0), "as many as may be");
        drop(waiting);
        assert!(errands.ask(&refused, 0));
    }
}
