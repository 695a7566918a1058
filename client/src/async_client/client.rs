//! The client: a handle that is cheap to clone; the connection ends with the last of them.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use spile_protocol::id::Version;
use tokio_util::task::TaskTracker;

use super::Error;
use super::builder::{Builder, Prepared};
use super::driver;
use super::event::{Event, From, Kind, Receipt};
use super::inbox::Interest;
use super::pipe::Seen;
use super::publish::{Given, Pending, Producer, PublishAll};
use super::request::{Ask, Reply};
use super::serve::{Answer, Call, Handler, Serving};
use super::state::{Session, Shared};
use super::subscription::Subscription;
use super::upload::{Blob, Upload};

/// Keeps the connection; the last one to go closes it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// A connection to a Spile server, which comes back by itself when it breaks.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) handle: Arc<Handle>,
    tasks: TaskTracker,
}

impl Prepared {
    /// Connects and waits until the server has let us in.
    ///
    /// # Errors
    /// The server is not reached or not trusted, or it refuses.
    pub async fn connect(&self) -> Result<Client, Error> {
        let shared = Arc::new(Shared::new(self)?);
        let tasks = TaskTracker::new();
        shared.runs_on(&shared, &tasks);
        tasks.spawn(driver::run(Arc::clone(&shared), self.clone()));
        tasks.close();
        let client = Client { handle: Arc::new(Handle { shared }), tasks };
        poll_fn(|cx: &mut Context<'_>| client.handle.shared.poll_open(cx)).await?;
        Ok(client)
    }
}

impl Client {
    /// Begins to say where the server is and who we are.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Publishes one event and waits for its acknowledgement: it is on a disk then.
    ///
    /// # Errors
    /// It was refused, or the client ended before it was acknowledged.
    pub async fn publish(&self, event: Event) -> Result<Receipt, Error> {
        self.send(event).await.await
    }

    /// Publishes one event: done when there is credit for it; its acknowledgement is awaited apart.
    pub async fn send(&self, event: Event) -> Pending {
        Pending::send(&self.handle, event).await
    }

    /// Publishes events as they come, many under way at once, and yields their acknowledgements in the same order.
    pub fn publish_all<I>(&self, events: I) -> PublishAll<Given<I::IntoIter>>
    where
        I: IntoIterator<Item = Event>,
        I::IntoIter: Unpin,
    {
        self.publish_stream(Given(events.into_iter()))
    }

    /// The same of a stream, whose events may still have to come.
    pub fn publish_stream<S: Stream<Item = Event> + Unpin>(&self, events: S) -> PublishAll<S> {
        PublishAll::new(self.clone(), events)
    }

    /// Publishes many events about one topic under one key (`None`: our own) and counts what became of them.
    ///
    /// # Errors
    /// A name is not one, or there are too many keys or topics.
    pub fn producer(&self, key: Option<&str>, topic: &str, kind: Kind) -> Result<Producer, Error> {
        Producer::new(&self.handle, key, topic, &kind)
    }

    /// Receives what an interest describes; done when the server has agreed.
    ///
    /// # Errors
    /// It refused, or the client is closed.
    pub async fn subscribe(&self, interest: Interest) -> Result<Subscription, Error> {
        Subscription::open(&self.handle, interest).await
    }

    /// Receives every event whose topic falls under the filter.
    ///
    /// # Errors
    /// The server refused, or the client is closed.
    pub async fn subscribe_to(&self, filter: &str, from: From) -> Result<Subscription, Error> {
        self.subscribe(Interest::filter(filter).from(from)).await
    }

    /// Receives one key's events in order, from that version on.
    ///
    /// # Errors
    /// The server refused, or the client is closed.
    pub async fn stream(&self, key: &str, from: Version) -> Result<Subscription, Error> {
        self.subscribe(Interest::stream(key, from)).await
    }

    /// Asks a service, and waits for its answer at most that long.
    ///
    /// # Errors
    /// It refused, or nobody answered in time.
    pub async fn call(
        &self,
        service: &str,
        method: &str,
        payload: impl Into<Bytes>,
        wait: Duration,
    ) -> Result<Reply, Error> {
        let ask = self.ask(service, method).content_type("application/json");
        ask.payload(payload).within(wait).send().await
    }

    /// A call with more to say about it: [`Ask::send`] or [`Ask::parts`] makes it.
    pub fn ask(&self, service: &str, method: &str) -> Ask {
        Ask::new(&self.handle, service, method)
    }

    /// Serves: calls to the service come to the handler, at most `window` at once; done when the server has agreed. After a
    /// reconnect it is served again. As long as nothing is called no task runs for it.
    ///
    /// # Errors
    /// The server refused, or the client is closed.
    pub async fn serve<H, F>(
        &self,
        service: &str,
        window: u32,
        handler: H,
    ) -> Result<Serving, Error>
    where
        H: Fn(Call) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let handler = Handler(Arc::new(move |call| Box::pin(handler(call))));
        Serving::begin(&self.handle, service, window, handler).await
    }

    /// Sends a file and waits until it is sealed: then all of it is on the server's disk. It goes on by itself when the
    /// connection breaks; dropped, the server keeps what it has, and the same id goes on there.
    ///
    /// # Errors
    /// It can't be read, or it was refused: REPLACED where another session goes on with it, CONFLICT where its id is in use
    /// with another size, key or name, MISMATCH where what was stored before is of another file (it is forgotten then).
    pub async fn upload(&self, upload: Upload) -> Result<Blob, Error> {
        super::upload::run(&self.handle, upload).await
    }

    /// Has the server forget an upload that was not sealed, and all that was sent of it: the one that [`Client::upload`] would
    /// go on with, by the same id, key, name and size. Where another session goes on with it, that one hears REPLACED.
    /// An upload that is dropped instead is kept, and goes on with the same id.
    ///
    /// # Errors
    /// It was refused: CONFLICT where it is sealed already, or its id is in use with another size, key or name.
    pub async fn abort_upload(&self, upload: Upload) -> Result<(), Error> {
        super::upload::abort(&self.handle, upload).await
    }

    /// Why events wait to be sent again, where the server said so (its disk is full, say) and has acknowledged none
    /// since. They are sent again by themselves; this is for who loses patience and wants to say why.
    #[must_use]
    pub fn held_up(&self) -> Option<Error> {
        self.handle.shared.held_up()
    }

    /// Who we are to the server, as it said last.
    #[must_use]
    pub fn session(&self) -> Session {
        self.handle.shared.session()
    }

    /// What the last TLS handshake showed.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.handle.shared.seen()
    }

    /// Is there a session now? Where there is none it comes back by itself, unless it has ended for good.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.handle.shared.is_open()
    }

    /// Has it ended for good?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.shared.is_closed()
    }

    /// Says goodbye and waits until the connection is gone. What is not acknowledged yet fails.
    pub async fn close(&self) {
        self.handle.shared.close();
        self.tasks.wait().await;
    }
}

/// A stream's next item, for those who need no stream combinators.
pub(super) async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| std::pin::Pin::new(&mut *stream).poll_next(cx)).await
}
