//! The one task of a client: bytes in, bytes out, the next deadline; and coming back when the connection breaks.
//!
//! It decides nothing about events. Its buffers live here, outside every `select!`: whichever side is ready first, no
//! byte is lost. Reading never stops because writing blocks.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;

use super::backoff::Backoff;
use super::builder::Prepared;
use super::clock::random;
use super::pipe::{Pipe, explain};
use super::state::Shared;
use super::{Address, Error};

/// How much is gathered for one write: a few TLS records.
const OUT: usize = 128 * 1024;
/// What is read into at first; grows to what comes, and is given back when idle.
const IN: usize = 16 * 1024;
/// It grows to this where whole frames fit; a longer frame grows it further.
const IN_BUSY: usize = 512 * 1024;
/// Turns of reading and writing before other tasks get theirs.
const TURNS: usize = 32;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Connects, serves, comes back; until the client is closed or there is no use in coming back.
pub(super) async fn run(shared: Arc<Shared>, prepared: Prepared) {
    let mut backoff = Backoff::new(prepared.longest_pause);
    loop {
        let why = session(&shared, &prepared, &mut backoff).await;
        let Some(asked) = shared.comes_back(&why, prepared.reconnect) else { return };
        let spread = random().map_or(0, u64::from_le_bytes);
        tokio::select! {
            () = tokio::time::sleep(backoff.pause(asked, spread)) => {}
            () = shared.closed() => {}
        }
    }
}

/// One connection from its beginning to its end: why it ended.
async fn session(shared: &Shared, prepared: &Prepared, backoff: &mut Backoff) -> Error {
    let address = &prepared.address;
    let opened = tokio::time::timeout(
        prepared.connect_timeout,
        Pipe::open(address, prepared.tls.as_ref(), prepared.socket_buffer),
    );
    let opened = tokio::select! {
        opened = opened => opened,
        () = shared.closed() => return Error::Closed,
    };
    let pipe = match opened {
        Ok(Ok(pipe)) => pipe,
        Ok(Err(why)) => return why,
        Err(_) => return Error::unreachable(address, "no answer in time"),
    };
    if let Err(why) = shared.connected(pipe.channel(), pipe.seen()) {
        return why;
    }
    let mut connection = Connection::new(shared, pipe, address, prepared.connect_timeout);
    let why = std::future::poll_fn(|cx| connection.poll(cx)).await;
    connection.goodbye().await;
    match shared.disconnected() {
        Ok(true) => backoff.reset(),
        Ok(false) => {}
        Err(no_random) => return no_random,
    }
    why
}

/// A connection's buffers and its timer.
struct Connection<'a> {
    shared: &'a Shared,
    pipe: Pipe,
    address: &'a Address,
    out: Vec<u8>,
    written: usize,
    unflushed: bool,
    input: Vec<u8>,
    begin: usize,
    end: usize,
    timer: Pin<Box<Sleep>>,
    /// Until we are let in.
    greeting: Option<Pin<Box<Sleep>>>,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Shared, pipe: Pipe, address: &'a Address, greeting: Duration) -> Self {
        Self {
            shared,
            pipe,
            address,
            out: Vec::new(),
            written: 0,
            unflushed: false,
            input: vec![0; IN],
            begin: 0,
            end: 0,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            greeting: Some(Box::pin(tokio::time::sleep(greeting))),
        }
    }

    /// Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        for _ in 0..TURNS {
            if let Some(why) = self.shared.gather(cx, &mut self.out, OUT) {
                return Poll::Ready(why);
            }
            let wrote = self.write(cx);
            let read = self.read(cx);
            match (read, wrote) {
                (Err(why), _) | (Ok(_), Err(why)) => return Poll::Ready(self.explain(&why)),
                (Ok(false), Ok(false)) => return self.wait(cx),
                (Ok(true), Ok(_)) | (Ok(false), Ok(true)) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn explain(&self, why: &io::Error) -> Error {
        // What the server said last counts for more than how the connection ended.
        self.shared.last_word().unwrap_or_else(|| explain(self.address, why))
    }

    /// Was anything written?
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut any = false;
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.pipe).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.written += count,
                Poll::Ready(Err(why)) => return Err(why),
                Poll::Pending => return Ok(any),
            }
            (any, self.unflushed) = (true, true);
        }
        self.out.clear();
        self.written = 0;
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.pipe).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(any)
    }

    /// Was anything read?
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        self.make_room();
        let free = self.input.get_mut(self.end..).unwrap_or_default();
        let mut buffer = ReadBuf::new(free);
        match Pin::new(&mut self.pipe).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(why)) => Err(why),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Poll::Ready(Ok(())) => {
                self.end += buffer.filled().len();
                self.take();
                Ok(true)
            }
        }
    }

    /// Whole frames go to the session; the rest stays for the next read.
    fn take(&mut self) {
        let bytes = self.input.get(self.begin..self.end).unwrap_or_default();
        self.begin += self.shared.take(bytes);
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        }
    }

    fn make_room(&mut self) {
        if self.end < self.input.len() {
            return;
        }
        self.input.copy_within(self.begin..self.end, 0);
        self.end -= self.begin;
        self.begin = 0;
        // More came than fits, or one frame is longer than all of it.
        let wanted = if self.end * 2 > self.input.len() { self.input.len() * 2 } else { IN_BUSY };
        if wanted > self.input.len() {
            self.input.resize(wanted, 0);
        }
    }

    /// Nothing to do until something happens, or until the timer.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let (deadline, welcomed) = self.shared.deadline();
        if welcomed {
            self.greeting = None;
        }
        if let Some(greeting) = &mut self.greeting
            && greeting.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Error::unreachable(self.address, "it did not let us in in time"));
        }
        let Some(deadline) = deadline else { return Poll::Pending };
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            if self.shared.timed_out() && self.begin == self.end && self.input.len() > IN {
                // What a flood needed is given back.
                self.input = vec![0; IN];
                (self.begin, self.end) = (0, 0);
            }
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// What is left to say goes out, with TLS's own goodbye; for a while.
    async fn goodbye(mut self) {
        let last = async {
            if let Some(rest) = self.out.get(self.written..) {
                self.pipe.write_all(rest).await?;
            }
            self.pipe.shutdown().await
        };
        match tokio::time::timeout(GOODBYE, last).await {
            // The connection is over either way.
            Ok(Ok(()) | Err(_)) | Err(_) => {}
        }
    }
}
