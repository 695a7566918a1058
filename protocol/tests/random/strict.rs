//! One value, one encoding: what is decoded is encoded again as it came.

use spile_protocol::{
    frame::Tag,
    message::{Message, Sender, Writer, kind},
};

/// Is the kind's layout by hand, so that nothing of it may be left out and nothing stands behind it?
fn exact(tag: Tag) -> bool {
    matches!(
        tag.kind(),
        kind::EVENT | kind::BATCH | kind::ACK | kind::DELIVER | kind::CHUNK | kind::ENVELOPE
    )
}

/// The fields alone: VALUE, CALL and REPLY have their length before them.
fn fields(tag: Tag, header: &[u8]) -> &[u8] {
    if !matches!(tag.kind(), kind::VALUE | kind::CALL | kind::REPLY) {
        return header;
    }
    let length = header.iter().take_while(|&&byte| byte & 0x80 != 0).count() + 1;
    &header[length.min(header.len())..]
}

/// Decodes a header; where that is taken, checks that it is encoded again as it came: exactly where the layout is by
/// hand, and otherwise as far as both know fields. Is it a message?
pub(crate) fn check(tag: Tag, header: &[u8], payload: &[u8], sender: Sender) -> bool {
    let Ok(message) = Message::decode_parts(tag, header, payload, sender) else { return false };
    if matches!(message, Message::Skipped(_)) {
        return false;
    }
    let mut room = vec![0; header.len() + 8192];
    let mut writer = Writer::new(&mut room);
    message.encode_header(&mut writer).unwrap();
    let length = writer.len();
    let again = &room[..length];
    assert_eq!(message.tag(), tag);
    assert_eq!(message.payload(), payload);
    if exact(tag) {
        assert_eq!(again, header, "{message:?}");
    } else {
        let (came, goes) = (fields(tag, header), fields(tag, again));
        assert!(came.starts_with(goes) || goes.starts_with(came), "{message:?}");
    }
    let once_more = Message::decode_parts(tag, again, payload, sender);
    assert_eq!(once_more.as_ref(), Ok(&message));
    true
}
