//! Services against what was promised: by cases, and at random, with members that join, leave, are slow and fail.
//!
//! A random run prints its seed; `SPILE_SEED` repeats one, `SPILE_SEEDS` says how many.

use std::collections::{BTreeMap, BTreeSet};

use spile_protocol::id::RequestId;

use super::{mailbox::Mailbox, *};
use crate::{bell::Bell, limits::BREAKER_FAILURES};

const SECOND: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Instant {
    Instant(1_000_000 + ms * 1000)
}

fn name(service: &str) -> Arc<str> {
    crate::tables::scoped("main", service).into()
}

/// A session that may serve and ask.
struct Session {
    number: u64,
    mail: Arc<Mailbox>,
}

fn session(number: u64) -> Session {
    Session { number, mail: Arc::new(Mailbox::new(Arc::new(Bell::default()))) }
}

impl Session {
    fn serving(&self) -> Serving {
        Serving {
            session: self.number,
            principal: format!("service/{}", self.number).into(),
            edge: Arc::from("edge"),
            frame_max: 64 * 1024,
            mail: Arc::clone(&self.mail),
        }
    }

    fn asking(&self, request: u32, service: &str, idempotent: bool, wait: Duration) -> Asking {
        let head = Head {
            service: service.into(),
            method: "do".into(),
            content_type: "".into(),
            caller: "user/me".into(),
            trace: None,
            idempotent,
        };
        let mail = Arc::clone(&self.mail);
        let asker = Asker { session: self.number, request: RequestId(request), mail };
        let (head, payload) = (Arc::new(head), Bytes::from_static(b"ask"));
        Asking { scoped: name(service), head, payload, payload_crc: 7, wait, asker }
    }

    /// The calls that are handed to it now.
    fn takes(&self, services: &mut Services, now: Instant) -> Vec<u32> {
        let mut taken = Vec::new();
        while let Some(letter) = self.mail.take() {
            let Letter::Call(key) = letter else { panic!("{letter:?}") };
            taken.extend(services.take(now, self.number, key).map(|_handed| key));
        }
        taken
    }

    /// What it hears as an asker: request, code (0 for a reply), and whether it may be asked again.
    fn hears(&self) -> Vec<(u32, Code, bool)> {
        std::iter::from_fn(|| self.mail.take())
            .map(|letter| match letter {
                Letter::Reply(answer) => (answer.request.0, answer.code, answer.more),
                Letter::Fault { request, code, retry, .. } => (request.0, code, retry),
                Letter::Call(key) => panic!("call {key}"),
            })
            .collect()
    }
}

fn answer(code: Code, more: bool) -> Answer {
    Answer {
        request: RequestId(0),
        code,
        more,
        content_type: "".into(),
        detail: "".into(),
        payload: Bytes::from_static(b"answer"),
        payload_crc: 9,
    }
}

const OK: Code = Code(0);

/// Two members, `a` with a window of 1 and `b` with one of 3, and somebody who asks.
fn three() -> (Services, Session, Session, Session) {
    let (mut services, a, b, asker) = (Services::default(), session(1), session(2), session(9));
    services.serve(at(0), &name("s"), &a.serving(), 1).unwrap();
    services.serve(at(0), &name("s"), &b.serving(), 3).unwrap();
    (services, a, b, asker)
}

#[test]
fn a_call_goes_to_the_member_with_the_least_of_its_window_in_use() {
    let (mut services, a, b, asker) = three();
    let ask = |services: &mut Services, request| {
        services.call(at(0), asker.asking(request, "s", false, SECOND)).map_err(|why| why.code)
    };
    for request in 0..4 {
        assert!(ask(&mut services, request).is_ok());
    }
    assert_eq!(ask(&mut services, 4), Err(Code::BUSY), "all windows are full");
    let (of_a, of_b) = (a.takes(&mut services, at(0)), b.takes(&mut services, at(0)));
    assert_eq!((of_a.len(), of_b.len()), (1, 3));
    services.reply(at(1), b.number, of_b[1], answer(OK, false));
    assert!(ask(&mut services, 5).is_ok());
    assert_eq!(b.takes(&mut services, at(1)).len(), 1, "a is full, b has one place");
    // What another member says of it, and a second answer, are ignored.
    services.reply(at(1), b.number, of_a[0], answer(OK, false));
    services.reply(at(1), b.number, of_b[1], answer(OK, false));
    assert_eq!(asker.hears().len(), 1);
}

#[test]
fn a_member_that_stops_answers_what_it_has_and_gets_no_more() {
    let (mut services, a, b, asker) = three();
    services.leave(at(0), b.number, &[name("s")]);
    services.call(at(0), asker.asking(1, "s", false, SECOND)).unwrap();
    let taken = a.takes(&mut services, at(0));
    services.serve(at(0), &name("s"), &a.serving(), 0).unwrap();
    let refused = services.call(at(0), asker.asking(2, "s", false, SECOND)).unwrap_err();
    assert_eq!(refused.code, Code::NOT_FOUND);
    assert!(services.is_member(&name("s"), a.number));
    services.reply(at(1), a.number, taken[0], answer(OK, false));
    assert_eq!(asker.hears(), [(1, OK, false)]);
    assert!(
        !services.is_member(&name("s"), a.number) && services.of.is_empty() && services.bytes == 0
    );
}

#[test]
fn what_becomes_of_a_call_whose_member_goes() {
    // Idempotent, sent, a part answered → what the asker hears; `None`: another member has it.
    let unknown = Some((Code::UNKNOWN_OUTCOME, false));
    for (idempotent, sent, part, expected) in [
        (false, false, false, None),
        (true, false, false, None),
        (false, true, false, unknown),
        (true, true, false, None),
        (true, true, true, Some((Code::UNKNOWN_OUTCOME, true))),
        (false, true, true, unknown),
    ] {
        let case = format!("idempotent {idempotent}, sent {sent}, part {part}");
        let (mut services, a, b, asker) = three();
        // One is with `b`, so that `a` is chosen.
        services.call(at(0), asker.asking(1, "s", idempotent, SECOND)).unwrap();
        let key = if sent { a.takes(&mut services, at(0))[0] } else { 0 };
        if part {
            services.reply(at(0), a.number, key, answer(OK, true));
            assert_eq!(asker.hears(), [(1, OK, true)], "{case}");
        }
        services.leave(at(1), a.number, &[name("s")]);
        let measured = services.measured();
        assert_eq!(measured.retried, u64::from(expected.is_none()), "{case}");
        let heard: Vec<_> =
            asker.hears().into_iter().map(|(_, code, retry)| (code, retry)).collect();
        assert_eq!(heard, Vec::from_iter(expected), "{case}");
        let again = b.takes(&mut services, at(1));
        assert_eq!(again.len(), usize::from(expected.is_none()), "{case}");
        for key in again {
            services.reply(at(2), b.number, key, answer(OK, false));
            assert_eq!(asker.hears(), [(1, OK, false)], "{case}");
        }
        let measured = services.measured();
        assert_eq!(measured.steps.iter().sum::<u64>(), 1, "{case}");
        let failed = u64::from(expected.is_some());
        assert_eq!(measured.failed.iter().sum::<u64>(), failed, "{case}");
        assert!(services.open.is_empty() && services.bytes == 0, "{case}");
    }
}

#[test]
fn a_late_answer_is_ignored_and_frees_its_place() {
    let (mut services, a, b, asker) = three();
    services.leave(at(0), b.number, &[name("s")]);
    let key = services.call(at(0), asker.asking(1, "s", false, SECOND)).unwrap();
    assert_eq!(a.takes(&mut services, at(0)), [key]);
    assert!(services.timed_out(at(1000), asker.number, key), "it was open");
    assert!(!services.timed_out(at(1000), asker.number, key), "once");
    let busy = services.call(at(1000), asker.asking(2, "s", false, SECOND)).unwrap_err();
    assert_eq!(busy.code, Code::BUSY, "the member is at it still");
    services.reply(at(1500), a.number, key, answer(OK, false));
    assert_eq!(asker.hears(), []);
    let measured = services.measured();
    assert_eq!((measured.micros, measured.steps.iter().sum()), (1_000_000, 1), "the first word");
    assert!(services.call(at(1500), asker.asking(3, "s", false, SECOND)).is_ok());
    // What the member has not seen takes no place.
    let key = services.open.keys().copied().next().unwrap();
    assert!(services.timed_out(at(2500), asker.number, key));
    assert!(a.takes(&mut services, at(2500)).is_empty());
    assert!(services.call(at(2500), asker.asking(4, "s", false, SECOND)).is_ok());
}

#[test]
fn a_call_whose_asker_went_away_is_not_measured() {
    let (mut services, a, b, asker) = three();
    services.leave(at(0), b.number, &[name("s")]);
    let key = services.call(at(0), asker.asking(1, "s", false, SECOND)).unwrap();
    assert_eq!(a.takes(&mut services, at(0)), [key]);
    services.abandon(at(100), asker.number, key);
    services.reply(at(1500), a.number, key, answer(OK, false));
    assert_eq!(services.measured().steps.iter().sum::<u64>(), 0);
}

#[test]
fn only_what_is_the_services_fault_opens_its_breaker() {
    for (code, opens) in [
        (OK, false),
        (Code::NOT_FOUND, false),
        (Code::FORBIDDEN, false),
        (Code::BUSY, false),
        (Code::INTERNAL, true),
        (Code::UNAVAILABLE, true),
    ] {
        let (mut services, a, _b, asker) = three();
        services.leave(at(0), 2, &[name("s")]);
        for n in 0..BREAKER_FAILURES {
            services.call(at(n), asker.asking(1, "s", false, SECOND)).unwrap();
            let key = a.takes(&mut services, at(n))[0];
            services.reply(at(n), a.number, key, answer(code, false));
        }
        let next = services.call(at(10), asker.asking(2, "s", false, SECOND));
        assert_eq!(next.err().map(|why| why.code), opens.then_some(Code::BREAKER_OPEN), "{code}");
        assert_eq!(services.open_breakers(at(10), 9).len(), usize::from(opens), "{code}");
    }
}

#[test]
fn an_impatient_caller_does_not_open_the_breaker() {
    for (wait_ms, opens) in [(BREAKER_PATIENCE_MS - 1, false), (BREAKER_PATIENCE_MS, true)] {
        let (mut services, a, ..) = three();
        let asker = session(9);
        services.serve(at(0), &name("s"), &a.serving(), 100).unwrap();
        for n in 0..BREAKER_FAILURES * 2 {
            let wait = Duration::from_millis(wait_ms);
            if let Ok(key) = services.call(at(n), asker.asking(1, "s", false, wait)) {
                a.takes(&mut services, at(n));
                services.timed_out(at(n + wait_ms), asker.number, key);
            }
        }
        assert_eq!(!services.of[&name("s")].breaker.is_closed(), opens);
    }
}

#[test]
fn a_breaker_outlives_its_members_and_a_probe_closes_it() {
    let (mut services, a, b, asker) = three();
    services.serve(at(0), &name("s"), &b.serving(), 100).unwrap();
    for n in 0..BREAKER_FAILURES {
        services.call(at(0), asker.asking(u32::try_from(n).unwrap(), "s", false, SECOND)).unwrap();
    }
    a.takes(&mut services, at(0));
    b.takes(&mut services, at(0));
    services.leave(at(1), a.number, &[name("s")]);
    services.leave(at(1), b.number, &[name("s")]);
    assert_eq!(asker.hears().len(), usize::try_from(BREAKER_FAILURES).unwrap());
    let none = services.call(at(2), asker.asking(7, "s", true, SECOND)).unwrap_err();
    assert_eq!(none.code, Code::NOT_FOUND);
    let again = session(3);
    services.serve(at(2), &name("s"), &again.serving(), 4).unwrap();
    let held = services.call(at(2), asker.asking(7, "s", true, SECOND)).unwrap_err();
    assert_eq!((held.code, held.retry_after_ms), (Code::BREAKER_OPEN, 999));
    let key = services.call(at(1001), asker.asking(7, "s", true, SECOND)).unwrap();
    let held = services.call(at(1001), asker.asking(8, "s", true, SECOND)).unwrap_err();
    assert_eq!(held.code, Code::BREAKER_OPEN, "one probe");
    assert_eq!(again.takes(&mut services, at(1002)), [key]);
    services.reply(at(1003), again.number, key, answer(OK, false));
    assert!(services.call(at(1004), asker.asking(9, "s", true, SECOND)).is_ok());
    assert!(services.open_breakers(at(1004), 9).is_empty());
}

#[test]
fn a_member_whose_frames_are_too_short_is_passed_over() {
    let (mut services, asker) = (Services::default(), session(9));
    let (small, large) = (session(1), session(2));
    let serving = Serving { frame_max: 512, ..small.serving() };
    services.serve(at(0), &name("s"), &serving, 9).unwrap();
    let refused = services.call(at(0), asker.asking(1, "s", false, SECOND)).unwrap_err();
    assert_eq!(refused.code, Code::TOO_LARGE);
    services.serve(at(0), &name("s"), &large.serving(), 1).unwrap();
    assert!(services.call(at(0), asker.asking(1, "s", false, SECOND)).is_ok());
    assert_eq!(large.takes(&mut services, at(0)).len(), 1);
}

/// A small generator: the same seed, the same run.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A call as its asker knows it.
struct Asked {
    key: u32,
    deadline: Instant,
    idempotent: bool,
    /// Final answers it heard.
    finals: u32,
    /// Members that had it.
    had: Vec<u64>,
    gone: bool,
}

/// A member, its window of each service, and what it has of which.
type Member = (Session, BTreeMap<usize, u32>, Vec<(u32, usize)>);

struct World {
    services: Services,
    now: Instant,
    members: BTreeMap<u64, Member>,
    asker: Session,
    asked: BTreeMap<u32, Asked>,
    next: u64,
    draw: Draw,
    accepted: u64,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl World {
    fn step(&mut self) {
        match self.draw.below(12) {
            0 => self.join(),
            1 if self.draw.below(3) == 0 => self.leave(),
            2..=5 => self.ask(),
            6..=9 => self.serve(),
            10 => self.pass(self.draw.0 % 300),
            _ => self.asker_goes(),
        }
        self.hear();
        self.check();
    }

    fn join(&mut self) {
        let name = usize::try_from(self.draw.below(3)).unwrap();
        let window = u32::try_from(self.draw.below(5)).unwrap();
        let known = self.members.keys().copied().nth(usize::try_from(self.draw.below(8)).unwrap());
        let number = known.unwrap_or_else(|| {
            self.next += 1;
            self.members.insert(self.next, (session(self.next), BTreeMap::new(), Vec::new()));
            self.next
        });
        let (session, windows, open) = self.members.get_mut(&number).unwrap();
        self.services
            .serve(self.now, &super::tests::name(NAMES[name]), &session.serving(), window)
            .unwrap();
        // What is under way keeps its place when the window shrinks.
        let under_way = u32::try_from(open.iter().filter(|(_, of)| *of == name).count()).unwrap();
        windows.insert(name, window.max(under_way));
    }

    fn leave(&mut self) {
        let Some(number) = self.members.keys().copied().next() else { return };
        let _gone = self.members.remove(&number).unwrap();
        let all: Vec<Arc<str>> = NAMES.iter().map(|service| name(service)).collect();
        self.services.leave(self.now, number, &all);
    }

    fn ask(&mut self) {
        let name = NAMES[usize::try_from(self.draw.below(3)).unwrap()];
        let idempotent = self.draw.below(2) == 0;
        let wait = Duration::from_millis(1 + self.draw.below(2000));
        self.next += 1;
        let request = u32::try_from(self.next).unwrap();
        let asking = self.asker.asking(request, name, idempotent, wait);
        let Ok(key) = self.services.call(self.now, asking) else { return };
        self.accepted += 1;
        let (deadline, had) = (self.now.after(wait), Vec::new());
        let asked = Asked { key, deadline, idempotent, finals: 0, had, gone: false };
        self.asked.insert(request, asked);
    }

    /// A member takes what it is handed and answers some of what it has.
    fn serve(&mut self) {
        let count = u64::try_from(self.members.len()).unwrap();
        if count == 0 {
            return;
        }
        let at = usize::try_from(self.draw.below(count)).unwrap();
        let (&number, (session, windows, open)) = self.members.iter_mut().nth(at).unwrap();
        for key in session.takes(&mut self.services, self.now) {
            let service = &self.services.open[&key].head.service;
            let name = NAMES.iter().position(|name| **name == **service).unwrap();
            open.push((key, name));
            if let Some(asked) = self.asked.values_mut().find(|asked| asked.key == key) {
                asked.had.push(number);
            }
        }
        for (&name, &window) in &*windows {
            let under_way = open.iter().filter(|(_, of)| *of == name).count();
            assert!(under_way <= size(window), "the window of {} is kept", NAMES[name]);
        }
        if self.draw.below(2) == 0 && !open.is_empty() {
            let at = usize::try_from(self.draw.0 % 97).unwrap() % open.len();
            let (more, bad) = (self.draw.below(4) == 0, self.draw.below(4) == 0);
            let (key, _) = if more { open[at] } else { open.swap_remove(at) };
            let code = if bad { Code::INTERNAL } else { OK };
            self.services.reply(self.now, number, key, answer(code, more));
        }
    }

    /// Time goes on, from deadline to deadline: each asker's timer fires.
    fn pass(&mut self, ms: u64) {
        let until = self.now.after(Duration::from_millis(ms));
        self.hear();
        let mut due: Vec<_> =
            self.asked.iter().filter(|(_, asked)| asked.deadline <= until).collect();
        due.sort_by_key(|(_, asked)| asked.deadline);
        let due: Vec<_> =
            due.into_iter().map(|(&request, asked)| (request, asked.key, asked.deadline)).collect();
        for (request, key, deadline) in due {
            self.now = self.now.max(deadline);
            let asked = self.asked.get_mut(&request).unwrap();
            if asked.finals == 0 && !asked.gone {
                let told = self.services.timed_out(self.now, self.asker.number, key);
                assert!(told, "what was not answered is told at its deadline");
                asked.finals += 1;
            }
        }
        self.now = until;
    }

    fn asker_goes(&mut self) {
        let at = usize::try_from(self.draw.below(16)).unwrap();
        if let Some(asked) = self.asked.values_mut().nth(at).filter(|asked| asked.finals == 0) {
            self.services.abandon(self.now, self.asker.number, asked.key);
            asked.gone = true;
        }
    }

    fn hear(&mut self) {
        while let Some(letter) = self.asker.mail.take() {
            let (request, last) = match &letter {
                Letter::Reply(answer) => (answer.request.0, !answer.more),
                Letter::Fault { request, .. } => (request.0, true),
                Letter::Call(key) => panic!("call {key}"),
            };
            let asked = self.asked.get_mut(&request).unwrap();
            assert_eq!(asked.finals, 0, "nothing follows the final answer");
            asked.finals += u32::from(last);
        }
    }

    fn check(&mut self) {
        for asked in self.asked.values() {
            assert!(asked.had.len() <= 1 || asked.idempotent, "only an idempotent one goes twice");
            let distinct: BTreeSet<_> = asked.had.iter().collect();
            assert_eq!(distinct.len(), asked.had.len(), "never to the same member twice");
        }
        self.asked.retain(|_, asked| asked.finals == 0 && !asked.gone);
    }
}

fn run(seed: u64) -> u64 {
    let draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (services, asker) = (Services::default(), session(1_000_000));
    let (members, asked) = (BTreeMap::new(), BTreeMap::new());
    let now = at(0);
    let mut world = World { services, now, members, asker, asked, next: 0, draw, accepted: 0 };
    for _ in 0..400 {
        world.step();
    }
    world.pass(10_000);
    world.check();
    assert!(world.asked.is_empty(), "each call has its answer when its time is over");
    while !world.members.is_empty() {
        world.leave();
    }
    world.services.of.retain(|_, service| !service.members.is_empty());
    assert!(world.services.open.is_empty() && world.services.of.is_empty());
    assert_eq!(world.services.bytes, 0);
    world.accepted
}

#[test]
fn each_call_gets_one_final_answer_in_time_whatever_members_do() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("SPILE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SPILE_SEEDS").unwrap_or(300),
    };
    let mut accepted = 0;
    for seed in seeds.clone() {
        let result = std::panic::catch_unwind(|| run(seed));
        accepted += result.unwrap_or_else(|why| {
            eprintln!("repeat with SPILE_SEED={seed}");
            std::panic::resume_unwind(why)
        });
    }
    let runs = seeds.end - seeds.start;
    assert!(runs == 1 || accepted > runs * 20, "the runs call: {accepted} in {runs}");
}
