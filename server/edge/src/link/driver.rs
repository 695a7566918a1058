//! The task of a link: connects, greets, moves bytes, and begins again with backoff when the link is gone.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use spile_protocol::{
    code::Code,
    id::LinkSessionId,
    message::{Message, Registry},
    session::link::{Config, Edge as Machine, EdgeInput},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::port::{Inbox, detached};
use super::{Condition, Link, Registered, Shared, known};
use crate::buffers::Outlet;
use crate::clock::Clock;
use crate::inlet::{Got, Inlet};
use crate::limits::{LINK_BACKOFF, LINK_BACKOFF_MAX, LINK_CONNECT};
use crate::listener::Stream;
use crate::metrics::{Held, Metrics};

/// Goes to a worker, through mutual TLS.
pub trait Connector: Send + Sync {
    /// What comes out.
    type Stream: Stream;

    /// One attempt; the caller bounds its time.
    fn connect(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Keeps the link up until `stop`. `config` has the edge's name; `random` is new for each link, so that many edges do
/// not come back at the same moment.
pub async fn run<C: Connector>(
    link: Arc<Link>,
    connector: C,
    config: Config,
    (clock, metrics): (Clock, Arc<Metrics>),
    random: u64,
    stop: CancellationToken,
) {
    let backoff = Backoff { random: random | 1, failed: 0 };
    let keep = keep_up(&link, &connector, &config, (clock, metrics), backoff);
    if stop.run_until_cancelled(keep).await.is_none() {
        tracing::debug!(worker = link.name, "link ends");
    }
    link.wire.lock().lose();
}

/// Connects again and again, for ever.
async fn keep_up<C: Connector>(
    link: &Link,
    connector: &C,
    config: &Config,
    (clock, metrics): (Clock, Arc<Metrics>),
    mut backoff: Backoff,
) {
    loop {
        let why = match tokio::time::timeout(LINK_CONNECT, connector.connect()).await {
            Ok(Ok(stream)) => {
                let config = Config { slots: link.slots, ..config.clone() };
                let mut driver = Driver::new(link, stream, config, (clock, Arc::clone(&metrics)));
                let why = std::future::poll_fn(|cx| driver.turn(cx)).await;
                if driver.held.is_some() {
                    backoff.failed = 0;
                }
                why
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not connected within {LINK_CONNECT:?}"),
        };
        link.wire.lock().lose();
        let wait = backoff.next();
        tracing::warn!(worker = link.name, why, ?wait, "link is away; trying again");
        link.condition.send_replace(Condition::Away(why));
        tokio::time::sleep(wait).await;
    }
}

/// Doubling, with full jitter.
struct Backoff {
    random: u64,
    failed: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let longest = LINK_BACKOFF.saturating_mul(1 << self.failed.min(16)).min(LINK_BACKOFF_MAX);
        self.failed = self.failed.saturating_add(1);
        // xorshift: any odd start will do, what counts is that edges differ.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.random % micros)
    }
}

struct Driver<'l, S> {
    link: &'l Link,
    stream: S,
    inlet: Inlet,
    outlet: Outlet,
    clock: Clock,
    metrics: Arc<Metrics>,
    timer: std::pin::Pin<Box<tokio::time::Sleep>>,
    /// Counted while the link is up.
    held: Option<Held>,
}

impl<'l, S: Stream> Driver<'l, S> {
    fn new(
        link: &'l Link,
        stream: S,
        config: Config,
        (clock, metrics): (Clock, Arc<Metrics>),
    ) -> Self {
        let now = clock.now();
        let mut shared = link.wire.lock();
        shared.machine = Some(Machine::new(now, clock.wall(), config));
        drop(shared);
        let (inlet, outlet) = (Inlet::default(), Outlet::default());
        let timer = Box::pin(tokio::time::sleep_until(clock.runtime(now)));
        Self { link, stream, inlet, outlet, clock, metrics, timer, held: None }
    }

    /// Ready when the link is gone, and why.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let now = self.clock.now();
        self.link.wire.lock().driver = Some(cx.waker().clone());
        if let Err(why) = self.read(cx, now) {
            return Poll::Ready(why);
        }
        self.keep_time(cx, now);
        match self.write(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
            Poll::Ready(Ok(())) => {
                let closed = self.link.wire.lock().machine.as_ref().and_then(Machine::close_reason);
                if let Some(code) = closed {
                    return Poll::Ready(format!("closed: {code}"));
                }
            }
            Poll::Pending => {}
        }
        Poll::Pending
    }

    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), String> {
        for _ in 0..crate::limits::READS_A_TURN {
            let Self { link, stream, inlet, clock, held, metrics, .. } = self;
            let mut heard = Heard { link, clock: *clock, rung: Vec::new(), up: false };
            let got = inlet.read(stream, cx, |arrived| heard.work(now, &mut arrived.bytes));
            if heard.up {
                *held = Some(metrics.links.hold());
            }
            heard.rung.iter().for_each(|inbox| inbox.ring());
            match got {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(Got::Bytes(_))) => {}
                Poll::Ready(Ok(Got::End)) => {
                    return Err("the worker closed the connection".to_owned());
                }
                Poll::Ready(Err(error)) => return Err(error.to_string()),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { link, stream, outlet, .. } = self;
        let mut written = 0;
        outlet.write(stream, cx, &mut written, |_, turn| {
            let mut shared = link.wire.lock();
            let Shared { machine, out, bulk, .. } = &mut *shared;
            if let Some(machine) = machine {
                machine.poll_transmit(turn);
                // spec §6.4: bulk goes last, and little at once.
                bulk.say(machine, out);
                turn.take_all(out);
            }
        })
    }

    fn keep_time(&mut self, cx: &mut Context<'_>, now: Instant) {
        let next = |link: &Link| link.wire.lock().machine.as_ref().and_then(Machine::poll_timeout);
        while let Some(at) = next(self.link) {
            if at <= now {
                if let Some(machine) = &mut self.link.wire.lock().machine {
                    machine.handle_timeout(now);
                }
                if next(self.link) == Some(at) {
                    return;
                }
                continue;
            }
            self.timer.as_mut().reset(self.clock.runtime(at));
            if self.timer.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }
}

/// One read's worth of what the worker says.
struct Heard<'l> {
    link: &'l Link,
    clock: Clock,
    /// Whose tasks are woken when all is laid in, each once.
    rung: Vec<Arc<Inbox>>,
    up: bool,
}

impl Heard<'_> {
    fn work(&mut self, now: Instant, bytes: &mut &[u8]) {
        let mut shared = self.link.wire.lock();
        loop {
            let Some(machine) = &mut shared.machine else { return };
            match machine.handle_input(now, bytes) {
                Some(EdgeInput::Ready(peer)) if peer.name != self.link.name => {
                    machine.close(Code::CONFLICT, "another worker's name than its certificate's");
                }
                Some(EdgeInput::Ready(peer)) => {
                    tracing::info!(
                        worker = peer.name,
                        software = peer.software,
                        next = peer.next,
                        "link is up"
                    );
                    self.up = true;
                    self.link.forget();
                    // spec §10.5.2: before the first session is attached, so that a worker knows every group before it
                    // delivers.
                    if let Registered::Hears(copy) = &self.link.registered {
                        copy.tell_groups(|said| shared.say_registry(&self.link.name, said));
                    }
                    self.link.condition.send_replace(Condition::Up);
                }
                Some(EdgeInput::Message { session, message, payload_crc }) => {
                    self.lay(&mut shared, session, &message, payload_crc);
                }
                Some(EdgeInput::Detached { session, code }) => {
                    self.lay(&mut shared, session, &detached(session, code), 0);
                    shared.keep(session, None);
                    let Shared { machine: Some(machine), out, .. } = &mut *shared else { return };
                    if machine.detached(session, out).is_err() {
                        machine.close(Code::INTERNAL, "a growing buffer did not grow");
                    }
                }
                Some(EdgeInput::Registry(registry)) => self.learn(&mut shared, &registry),
                Some(EdgeInput::Changed(changed)) => self.link.changed(&changed),
                Some(EdgeInput::Leaving(code)) => {
                    tracing::info!(worker = self.link.name, %code, "worker goes away");
                }
                Some(EdgeInput::Closed(_)) | None => break,
            }
        }
        drop(shared);
        if let Registered::Feeds(registry) = &self.link.registered {
            registry.heard(self.clock.wall());
        }
    }

    fn lay(
        &mut self,
        shared: &mut Shared,
        session: LinkSessionId,
        message: &Message<'_>,
        payload_crc: u32,
    ) {
        let Some(inbox) = shared.inbox(session).map(Arc::clone) else { return };
        if !inbox.put(message, payload_crc) {
            tracing::warn!(
                worker = self.link.name,
                session = session.0,
                "inbox full; session ends"
            );
            inbox.close();
            shared.detach(session, Code::TOO_MANY);
        }
        if !self.rung.last().is_some_and(|last| Arc::ptr_eq(last, &inbox)) {
            self.rung.push(inbox);
        }
    }

    /// Takes what is registered, and says how far it is known here, unless somebody syncs it first.
    fn learn(&self, shared: &mut Shared, said: &Registry<'_>) {
        match &self.link.registered {
            Registered::Feeds(copy) => {
                if copy.apply(self.clock.wall(), said) && !copy.is_kept() {
                    shared.say_registry(&self.link.name, &known(said.upto));
                }
            }
            Registered::Hears(_) => {
                tracing::debug!(
                    worker = self.link.name,
                    upto = said.upto,
                    "groups are known there"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_a_cap_and_takes_a_random_part() {
        let mut backoff = Backoff { random: 7, failed: 0 };
        let waits: Vec<_> = (0..200).map(|_| backoff.next()).collect();
        let mut longest = LINK_BACKOFF;
        for wait in &waits {
            assert!(*wait < longest, "{wait:?} {longest:?}");
            longest = (longest * 2).min(LINK_BACKOFF_MAX);
        }
        assert!(waits.iter().any(|wait| *wait > LINK_BACKOFF_MAX / 2));
        assert!(waits.iter().skip(20).any(|wait| *wait < LINK_BACKOFF_MAX / 4));
    }
}
