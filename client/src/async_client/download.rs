//! Downloads: a blob's bytes piece by piece, the next pieces asked for while one is taken. spec §9.1
//!
//! Invariants: what is asked for and not taken is bounded; after a broken connection it goes on where it was; a blob that
//! was read from its beginning to its end has the hash it was sealed with, or the last item is an error.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use bytes::Bytes;
use spile_protocol::code::Code;

use super::error::Refusal;
use super::{Client, Error, Found, Values};

/// How much is asked for at once, and how often besides what is being taken.
const PIECE: u32 = 1 << 20;
const AHEAD: usize = 3;
/// The first pause before a failed look-up is tried again, doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A blob's bytes as they come.
#[derive(Debug)]
pub struct Download {
    client: Client,
    about: Found,
    /// The next byte that is handed out, and the end of what is wanted.
    at: u64,
    end: u64,
    /// The next byte that is asked for.
    asked: u64,
    pieces: VecDeque<(u64, Values)>,
    /// Of all bytes, where all are wanted.
    hasher: Option<Box<blake3::Hasher>>,
    pause: Duration,
    over: bool,
}

impl Client {
    /// What is known of a blob: key, name, revision, size, type, hash. Its payload is empty.
    ///
    /// # Errors
    /// There is no such blob (401 not-found), the server refused, or the client is closed.
    pub async fn blob(&self, blob: &str) -> Result<Found, Error> {
        let mut pause = PAUSE;
        loop {
            let asked = match self.get_blob(blob, 0, 1) {
                Ok(mut values) => values.next().await.unwrap_or_else(|| Err(empty())),
                Err(why) => Err(why),
            };
            match asked {
                Ok(found) => {
                    return Ok(Found { payload: Bytes::new(), id: blob.to_owned(), ..found });
                }
                Err(why) => wait(&mut pause, why).await?,
            }
        }
    }

    /// Reads a blob, or a part of it (`..` is all). Where all of it is read, its hash is checked at the end. When the
    /// connection breaks it goes on by itself.
    ///
    /// # Errors
    /// As [`Self::blob`], and INVALID where the range begins past the blob's end.
    pub async fn download(
        &self,
        blob: &str,
        range: impl RangeBounds<u64>,
    ) -> Result<Download, Error> {
        let begin = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(at) => at.saturating_add(1),
            Bound::Excluded(at) => *at,
            Bound::Unbounded => u64::MAX,
        };
        let about = self.blob(blob).await?;
        if begin > about.size {
            let told = format!("it has {} bytes, {begin} is past its end", about.size);
            return Err(Refusal::of(Code::INVALID).detail(&told).into());
        }
        let end = end.clamp(begin, about.size);
        let whole = begin == 0 && end == about.size;
        Ok(Download {
            client: self.clone(),
            about,
            at: begin,
            end,
            asked: begin,
            pieces: VecDeque::new(),
            hasher: whole.then(Box::default),
            pause: PAUSE,
            over: false,
        })
    }
}

impl Download {
    /// What is known of the blob.
    #[must_use]
    pub const fn about(&self) -> &Found {
        &self.about
    }

    /// The next bytes; `None` when that was all. It waits as long as the server is away.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        while !self.over && self.at < self.end {
            match self.part().await {
                Ok(Some(part)) => return Some(Ok(self.hand_out(part))),
                Ok(None) => {}
                Err(why) => {
                    // What was asked for is asked for again, from here.
                    (self.asked, self.pieces) = (self.at, VecDeque::new());
                    if let Err(why) = wait(&mut self.pause, why).await {
                        self.over = true;
                        return Some(Err(why));
                    }
                }
            }
        }
        self.over = true;
        let read = self.hasher.take()?.finalize();
        let sealed = self.about.blake3;
        sealed.is_some_and(|sealed| read != sealed).then(|| {
            let told =
                format!("what came of {} has not the hash it was sealed with", self.about.id);
            Err(Refusal::of(Code::CORRUPT).detail(&told).into())
        })
    }

    /// The next part of the piece that is being taken; `None`: on to the next.
    async fn part(&mut self) -> Result<Option<Bytes>, Error> {
        while self.pieces.len() < AHEAD && self.asked < self.end {
            let length = u32::try_from(self.end - self.asked).unwrap_or(PIECE).min(PIECE);
            let values = self.client.get_blob(&self.about.id, self.asked, length)?;
            self.asked += u64::from(length);
            self.pieces.push_back((self.asked, values));
        }
        let Some((end, values)) = self.pieces.front_mut() else { return Err(empty()) };
        let left = end.saturating_sub(self.at);
        match values.next().await {
            Some(Err(why)) => Err(why),
            Some(Ok(found)) if length(&found.payload) > left => Err(empty()),
            Some(Ok(found)) => Ok(Some(found.payload)),
            None if left > 0 => Err(empty()),
            None => {
                self.pieces.pop_front();
                Ok(None)
            }
        }
    }

    fn hand_out(&mut self, part: Bytes) -> Bytes {
        self.at += length(&part);
        self.pause = PAUSE;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&part);
        }
        part
    }
}

/// Waits before a look-up that failed for now is tried again; fails where it is no use.
async fn wait(pause: &mut Duration, why: Error) -> Result<(), Error> {
    match &why {
        Error::Refused(refusal) => {
            let Some(after) = refusal.retry_after else { return Err(why) };
            tokio::time::sleep(after.max(*pause)).await;
            *pause = pause.saturating_mul(2).min(PAUSE_MAX);
            Ok(())
        }
        Error::Setup { .. }
        | Error::Unreachable { .. }
        | Error::Untrusted { .. }
        | Error::OtherTenant { .. }
        | Error::File { .. }
        | Error::Closed => Err(why),
    }
}

/// The server answered with less than it should, or more.
fn empty() -> Error {
    let refusal = Refusal { retry_after: None, ..Refusal::of(Code::INTERNAL) };
    refusal.detail("the answer is not as long as what was asked for").into()
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
