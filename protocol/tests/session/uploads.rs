//! Uploads: offsets, epochs, credit.

use spile_protocol::{
    code::Code,
    message::{Abort, Chunk, Fault, Message, Open, Opened, Scope, Seal},
    session::{
        device::Refusal,
        edge::{Config, Told},
    },
};

use crate::talk::{Talk, has};

fn open(upload: u32, size: u64) -> Open<'static> {
    Open {
        upload,
        id: [3; 16],
        size,
        key: None,
        name: "log.txt",
        content_type: "",
        meta: spile_protocol::message::List::default(),
    }
}

const fn opened(upload: u32, stored_offset: u64, epoch: u32, blob: &str) -> Message<'_> {
    Message::Opened(Opened { upload, stored_offset, epoch, blob, revision: 0 })
}

fn uploading(chunk_bytes: u32, size: u64, from: u64) -> Talk {
    let (mut talk, _) = Talk::open(Config { chunk_bytes, ..Config::default() });
    talk.verb(|device, out| device.open_upload(&open(1, size), out)).unwrap();
    assert!(has(&talk.up(), "Open"));
    assert_eq!(talk.tell(&opened(1, from, 1, "")), Told::Said);
    assert!(has(&talk.down(), "Stored"));
    talk
}

fn chunk(talk: &mut Talk, length: usize) -> Result<u64, Refusal> {
    let now = talk.now;
    let payload = vec![7; length];
    let sent = talk.verb(|device, out| device.chunk(now, 1, &payload, out));
    let heard = talk.up();
    assert_eq!(sent.is_ok(), has(&heard, "Chunk"), "{heard:?}");
    sent
}

#[test]
fn chunks_go_on_from_what_is_stored_within_their_own_credit() {
    let mut talk = uploading(1000, 5000, 2000);
    assert_eq!(talk.device.chunk_room(1), Ok((2000, 3000)), "one chunk goes whatever the credit");
    assert_eq!(chunk(&mut talk, 600), Ok(2600));
    assert_eq!(talk.device.chunk_room(1), Ok((2600, 400)));
    assert_eq!(chunk(&mut talk, 401), Err(Refusal::Busy));
    assert_eq!(chunk(&mut talk, 400), Ok(3000));
    assert_eq!(chunk(&mut talk, 1), Err(Refusal::Busy));
    // One answer covers many chunks, or a part of one.
    assert_eq!(talk.tell(&opened(1, 2700, 1, "")), Told::Said);
    talk.down();
    assert_eq!(talk.device.chunk_room(1), Ok((3000, 700)));
    assert_eq!(chunk(&mut talk, 700), Ok(3700));
    assert_eq!(talk.closed(), None);
}

#[test]
fn what_was_stored_before_gives_back_no_credit() {
    let mut talk = uploading(1000, 5000, 0);
    assert_eq!(chunk(&mut talk, 1000), Ok(1000));
    talk.verb(|device, out| device.open_upload(&open(2, 9000), out)).unwrap();
    talk.up();
    assert_eq!(talk.tell(&opened(2, 4000, 1, "")), Told::Said);
    talk.down();
    assert_eq!(talk.device.chunk_room(2), Ok((4000, 0)), "the other upload has all of it");
    assert_eq!(talk.tell(&opened(1, 1000, 1, "")), Told::Said);
    talk.down();
    assert_eq!(talk.device.chunk_room(2), Ok((4000, 5000)));
    assert_eq!(talk.closed(), None);
}

#[test]
fn bulk_takes_nothing_of_the_events_credit() {
    let mut talk = uploading(1000, 5000, 0);
    chunk(&mut talk, 1000).unwrap();
    assert_eq!(talk.edge.in_flight().bytes, 0);
}

#[test]
fn a_seal_waits_for_the_last_chunk_and_is_answered_with_the_blob() {
    let mut talk = uploading(1000, 500, 0);
    let seal = Seal { upload: 1, size: 500, blake3: [0; 32] };
    assert!(talk.verb(|device, out| device.seal(&seal, out)).is_err());
    chunk(&mut talk, 500).unwrap();
    talk.verb(|device, out| device.seal(&seal, out)).unwrap();
    assert!(has(&talk.up(), "Seal"));
    assert_eq!(talk.tell(&opened(1, 500, 1, "blob-1")), Told::Said);
    assert!(has(&talk.down(), "blob-1"));
    assert_eq!(talk.device.chunk_room(1), Err(Refusal::Unknown("the upload")));
}

#[test]
fn what_is_not_in_order_closes_the_upload_and_not_the_session() {
    for (sent, code) in [
        (Chunk { upload: 1, offset: 5, payload: b"x" }, Code::OUT_OF_ORDER),
        (Chunk { upload: 1, offset: 0, payload: b"" }, Code::INVALID),
        (Chunk { upload: 1, offset: 0, payload: &[7; 501] }, Code::INVALID),
    ] {
        let mut talk = uploading(1000, 500, 0);
        assert!(talk.say(&Message::Chunk(sent)).is_empty());
        let heard = talk.down();
        assert!(has(&heard, &format!("{code:?}")) && has(&heard, "expected: 0"), "{heard:?}");
        // What is on its way behind it is dropped; a new OPEN goes on.
        assert!(
            talk.say(&Message::Chunk(Chunk { upload: 1, offset: 0, payload: b"x" })).is_empty()
        );
        assert!(has(&talk.say(&Message::Open(open(1, 500))), "Open"));
        assert_eq!(talk.closed(), None);
    }
}

#[test]
fn a_new_upload_may_begin_at_0_at_once() {
    let (mut talk, _) = Talk::open(Config::default());
    talk.say(&Message::Open(open(1, 10)));
    assert!(has(
        &talk.say(&Message::Chunk(Chunk { upload: 1, offset: 0, payload: b"01234" })),
        "Chunk"
    ));
    assert_eq!(talk.tell(&opened(1, 0, 1, "")), Told::Said);
    assert!(has(
        &talk.say(&Message::Chunk(Chunk { upload: 1, offset: 5, payload: b"56789" })),
        "Chunk"
    ));
}

#[test]
fn too_many_bytes_of_chunks_end_the_session() {
    let mut talk = uploading(1000, 5000, 0);
    talk.say(&Message::Chunk(Chunk { upload: 1, offset: 0, payload: &[7; 900] }));
    talk.say(&Message::Chunk(Chunk { upload: 1, offset: 900, payload: &[7; 101] }));
    assert_eq!(talk.closed(), Some(Code::TOO_FAST));
}

#[test]
fn an_answer_of_an_earlier_epoch_is_not_an_answer() {
    let mut talk = uploading(1000, 5000, 0);
    let _told = talk.tell(&opened(1, 0, 7, ""));
    talk.down();
    chunk(&mut talk, 100).unwrap();
    let _told = talk.tell(&opened(1, 100, 6, ""));
    assert!(talk.down().is_empty());
    assert_eq!(talk.device.chunk_room(1), Ok((100, 900)));
}

#[test]
fn an_upload_taken_over_elsewhere_ends_here() {
    let mut talk = uploading(1000, 5000, 0);
    chunk(&mut talk, 100).unwrap();
    let scope = Scope::Upload { upload: 1, expected: 0 };
    let fault = Fault { code: Code::REPLACED, scope, retry: false, retry_after_ms: 0, detail: "" };
    assert_eq!(talk.tell(&Message::Fault(fault)), Told::Said);
    assert!(has(&talk.down(), "Failed"));
    assert_eq!(chunk(&mut talk, 100), Err(Refusal::Unknown("the upload")));
    assert!(talk.edge.is_idle());
}

#[test]
fn an_abort_is_answered_and_frees_the_credit() {
    let mut talk = uploading(1000, 5000, 0);
    chunk(&mut talk, 1000).unwrap();
    talk.verb(|device, out| device.abort(1, out)).unwrap();
    assert!(has(&talk.up(), "Abort"));
    assert_eq!(talk.tell(&opened(1, 1000, 1, "")), Told::Dropped);
    assert_eq!(talk.tell(&Message::Abort(Abort { upload: 1 })), Told::Said);
    assert!(has(&talk.down(), "Aborted"));
    assert!(talk.edge.is_idle());
    assert!(talk.say(&Message::Abort(Abort { upload: 1 })).is_empty());
    assert!(has(&talk.down(), "Failed") || talk.closed().is_none());
}
