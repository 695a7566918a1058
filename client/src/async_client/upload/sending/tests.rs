//! What is kept, sent and read again, by the answers a server may give.

use super::*;

const SIZE: u64 = 3 * BLOCK + 17;

fn what(size: u64) -> What {
    let (name, content_type, meta) = (String::new(), String::new(), Vec::new());
    What { id: [1; 16], size, key: None, name, content_type, meta }
}

fn opened(stored_offset: u64, blob: &str) -> Opened<'_> {
    Opened { upload: 0, stored_offset, epoch: 1, blob, revision: 3 }
}

fn next(sending: &mut Sending) -> Option<Next> {
    match sending.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(next) => Some(next),
        Poll::Pending => None,
    }
}

/// What the source holds at an offset.
fn bytes(at: u64, length: u64) -> Bytes {
    (at..at + length).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<_>>().into()
}

/// Reads as long as it is asked to: from where, each time.
fn feed(sending: &mut Sending) -> Vec<u64> {
    let mut asked = Vec::new();
    while let Some(next) = next(sending) {
        let Next::Read { at, .. } = next else { continue };
        let length = (sending.what.size - at).min(BLOCK);
        let hash = (at + length == sending.what.size).then_some([9; 32]);
        sending.offer(at, Read { bytes: bytes(at, length), hash });
        asked.push(at);
    }
    asked
}

/// Sends all there is, in chunks: the offset after it.
fn send(sending: &mut Sending, most: usize) -> u64 {
    while let Some(chunk) = sending.chunk(most) {
        assert_eq!(chunk, bytes(sending.next, length(&chunk)), "at {}", sending.next);
        assert!(sending.next >= sending.told.stored);
        sending.sent(length(&chunk));
    }
    sending.next
}

fn begun(at: u64) -> Sending {
    let mut sending = Sending::new(what(SIZE));
    sending.asked();
    assert_eq!(sending.opened(&opened(at, ""), &mut Vec::new()), 0, "nothing was in flight");
    sending
}

#[test]
fn what_is_read_waits_within_a_bound_and_goes_out_in_order() {
    let mut sending = begun(0);
    assert_eq!(feed(&mut sending), [0], "one block ahead");
    assert_eq!(send(&mut sending, 100_000), BLOCK);
    assert_eq!(feed(&mut sending), [BLOCK]);
    assert_eq!(sending.blocks.len(), 2, "what is not stored is kept");
    assert_eq!(
        sending.opened(&opened(BLOCK + 5, ""), &mut Vec::new()),
        BLOCK,
        "no more than was sent"
    );
    assert_eq!(sending.blocks.len(), 1);
    assert_eq!(sending.seals(), None);
}

#[test]
fn a_block_whose_bytes_are_stored_is_read_into_again() {
    let mut sending = begun(0);
    for block in [0, BLOCK] {
        assert_eq!(feed(&mut sending), [block]);
        send(&mut sending, 100_000);
    }
    assert_eq!(sending.spares.len(), 0, "they may have to be sent again");
    sending.opened(&opened(BLOCK, ""), &mut Vec::new());
    assert_eq!(sending.spares.len(), 1);
    while let Some(next) = next(&mut sending) {
        let Next::Read { at, spare } = next else { continue };
        assert_eq!((at, spare.map(|block| length(&block))), (2 * BLOCK, Some(BLOCK)));
        return;
    }
    panic!("there is more to be read");
}

#[test]
fn it_is_sealed_when_all_was_sent_and_hashed() {
    let mut sending = begun(0);
    while sending.seals().is_none() {
        feed(&mut sending);
        send(&mut sending, 1 << 18);
    }
    assert_eq!(sending.next, SIZE);
    sending.sealing();
    assert_eq!(
        sending.opened(&opened(SIZE, ""), &mut Vec::new()),
        SIZE,
        "the last chunks are stored"
    );
    sending.opened(&opened(SIZE, "00-1"), &mut Vec::new());
    let Some(Next::Over(Ok(Ended::Sealed(sealed)), told)) = next(&mut sending) else {
        panic!("not over")
    };
    assert_eq!((sealed.revision, told.sent, told.resumed_at), (3, SIZE, Some(0)));
}

#[test]
fn an_empty_one_is_sealed_at_once() {
    let mut sending = Sending::new(what(0));
    assert_eq!(sending.seals(), None, "OPEN comes first");
    sending.asked();
    sending.opened(&opened(0, ""), &mut Vec::new());
    assert_eq!(sending.seals(), Some(*blake3::hash(b"").as_bytes()));
}

#[test]
fn after_a_cut_it_goes_on_where_the_server_says() {
    for stored in [0, 5, BLOCK - 1, BLOCK, BLOCK + 7] {
        let mut sending = begun(0);
        feed(&mut sending);
        send(&mut sending, 1 << 18);
        feed(&mut sending);
        send(&mut sending, 1 << 18);
        sending.disconnected();
        assert!(sending.chunk(9).is_none() && sending.opens_at().is_some());
        sending.asked();
        assert_eq!(sending.opened(&opened(stored, ""), &mut Vec::new()), 0);
        let again = feed(&mut sending);
        assert!(again.iter().all(|at| *at >= 2 * BLOCK), "all of it is still here: {again:?}");
        assert_eq!(sending.next, stored);
        assert_eq!(send(&mut sending, 1 << 18), sending.read);
        assert_eq!(sending.told.sent, 2 * BLOCK + sending.read - stored);
        assert_eq!(sending.told.resumed_at, Some(0), "it began here at 0");
    }
}

#[test]
fn what_was_stored_before_is_read_for_its_hash_and_not_sent() {
    let mut sending = begun(BLOCK + 3);
    assert_eq!(feed(&mut sending), [0, BLOCK, 2 * BLOCK]);
    assert_eq!(sending.blocks.len(), 2, "what is stored is not kept");
    send(&mut sending, 1 << 18);
    feed(&mut sending);
    assert_eq!(send(&mut sending, 1 << 18), SIZE);
    assert_eq!(sending.told.sent, SIZE - BLOCK - 3);
    assert_eq!(sending.seals(), Some([9; 32]));
}

#[test]
fn what_the_server_has_forgotten_is_read_again() {
    let mut sending = begun(2 * BLOCK);
    feed(&mut sending);
    send(&mut sending, 1 << 18);
    sending.disconnected();
    sending.asked();
    sending.opened(&opened(0, ""), &mut Vec::new());
    assert_eq!(feed(&mut sending), [0]);
    assert_eq!(send(&mut sending, 1 << 18), BLOCK);
}

#[test]
fn a_fault_that_passes_is_waited_for_and_another_is_the_end() {
    let mut sending = begun(0);
    let busy = || Refusal::of(Code::BUSY).after_ms(true, 2_000);
    sending.failed(busy(), Instant(0), &mut Vec::new());
    assert_eq!(sending.opens_at(), Some(Instant(2_000_000)));
    let Some(Next::Told(told)) = next(&mut sending) else { panic!("nothing is told") };
    assert_eq!(told.waits.map(|why| why.code), Some(Code::BUSY));
    for code in [Code::MISMATCH, Code::CONFLICT, Code::REPLACED, Code::NOT_FOUND] {
        let mut sending = begun(0);
        sending.failed(Refusal::of(code), Instant(0), &mut Vec::new());
        let Some(Next::Over(Err(why), _)) = next(&mut sending) else { panic!("not over") };
        assert_eq!(why.code(), Some(code));
    }
}

#[test]
fn a_server_that_finds_every_offset_wrong_is_not_asked_for_ever() {
    let mut sending = begun(0);
    for _ in 0..=FAULTS {
        assert!(!sending.is_over());
        sending.failed(Refusal::of(Code::OUT_OF_ORDER), Instant(0), &mut Vec::new());
    }
    assert!(sending.is_over());
}
