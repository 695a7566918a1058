//! Vectors on their way into files: frames, named, in the order they were added.

use std::{collections::BTreeMap, fmt::Write as _};

use spile_protocol::{
    code::Code,
    crc,
    frame::{self, Tag},
    message::{Message, Sender, kind},
    varint,
};

/// The frame limit where a case does not say another.
pub(crate) const LIMIT: u32 = 4096;

/// What a later version might say behind what this one knows.
const TAIL: &[u8] = &[0xde, 0xad, 0xff];

pub(crate) struct Case {
    file: &'static str,
    name: String,
    from: Sender,
    limit: u32,
    frame: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Set {
    cases: Vec<Case>,
}

/// A frame around a header and a payload, whatever they hold: spec §2.1, §2.4.
pub(crate) fn framed(tag: u8, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut length = [0; varint::MAX_BYTES];
    let used = varint::encode((header.len() + payload.len()) as u64, &mut length).unwrap();
    let head = [&[tag], &length[..used], header].concat();
    let sum = crc::extend(crc::of(payload), &head).to_le_bytes();
    [&head[..], payload, &sum].concat()
}

pub(crate) fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut out = vec![0; message.payload().len() + 8192];
    let length = message.encode(&mut out).unwrap();
    out.truncate(length);
    out
}

impl Set {
    /// A message, as it is encoded.
    pub(crate) fn message(
        &mut self,
        file: &'static str,
        name: &str,
        from: Sender,
        message: &Message<'_>,
    ) {
        self.frame(file, name, from, LIMIT, encoded(message));
    }

    /// Any bytes.
    pub(crate) fn frame(
        &mut self,
        file: &'static str,
        name: &str,
        from: Sender,
        limit: u32,
        frame: Vec<u8>,
    ) {
        let name = name.to_owned();
        assert!(
            !self.cases.iter().any(|case| case.file == file && case.name == name),
            "{file} {name}"
        );
        self.cases.push(Case { file, name, from, limit, frame });
    }

    /// What the case of that name means; `None` where there is no such case.
    pub(crate) fn outcome_of(&self, file: &str, name: &str) -> Option<String> {
        let case = self.cases.iter().find(|case| case.file == file && case.name == name)?;
        Some(outcome(&case.frame, case.limit, case.from))
    }

    /// Cuts the header of each message named `full` at every byte.
    pub(crate) fn cut(&mut self) {
        let mut cuts = Vec::new();
        for case in self.cases.iter().filter(|case| case.name == "full") {
            let (whole, _) = frame::decode(&case.frame, LIMIT).unwrap().unwrap();
            for length in 0..whole.header.len() {
                let name = format!("header cut to {length} bytes");
                let frame = framed(whole.tag.0, &whole.header[..length], &[]);
                cuts.push(Case { name, frame, ..*case });
            }
        }
        self.cases.extend(cuts);
    }

    /// Puts fields that this version does not know behind each struct named `full`: spec §3.3.
    pub(crate) fn lengthen(&mut self) {
        let mut longer = Vec::new();
        for case in self.cases.iter().filter(|case| case.name == "full") {
            let (whole, _) = frame::decode(&case.frame, LIMIT).unwrap().unwrap();
            let header = match whole.tag.kind() {
                kind::EVENT | kind::BATCH | kind::ACK | kind::CHUNK | kind::DELIVER => continue,
                kind::ENVELOPE => continue,
                kind::VALUE | kind::CALL | kind::REPLY => {
                    let (fields, used) = varint::decode(whole.header).unwrap();
                    let mut length = [0; varint::MAX_BYTES];
                    let end = varint::encode(fields + 3, &mut length).unwrap();
                    [&length[..end], &whole.header[used..], TAIL].concat()
                }
                _ => [whole.header, TAIL].concat(),
            };
            let (name, frame) = (
                "full, and an unknown tail".to_owned(),
                framed(whole.tag.0, &header, whole.payload),
            );
            longer.push(Case { name, frame, ..*case });
        }
        self.cases.extend(longer);
    }

    /// The messages named `full`, in the form each fuzz target takes.
    pub(crate) fn seeds(&self) -> Vec<(String, Vec<u8>)> {
        let mut seeds = Vec::new();
        for case in self.cases.iter().filter(|case| case.name == "full") {
            let (whole, _) = frame::decode(&case.frame, LIMIT).unwrap().unwrap();
            let limit = u16::try_from(LIMIT).unwrap().to_le_bytes();
            seeds.push((format!("frame/{}", case.file), [&limit[..], &case.frame].concat()));
            let length = u16::try_from(whole.header.len()).unwrap().to_le_bytes();
            let front = [whole.tag.0, u8::from(case.from == Sender::Server), length[0], length[1]];
            let parts = [&front[..], whole.header, whole.payload].concat();
            seeds.push((format!("message/{}", case.file), parts));
        }
        let stream: Vec<u8> =
            seeds.iter().step_by(2).flat_map(|(_, frame)| frame[2..].to_vec()).collect();
        seeds.push(("codec/all".to_owned(), [&[3, 6][..], &stream].concat()));
        seeds
    }

    /// The files' names and texts.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for Case { file, name, from, limit, frame } in &self.cases {
            let text = files.entry(format!("{file}.json")).or_default();
            let from_name = if *from == Sender::Client { "client" } else { "server" };
            let line = format!(
                "{{\"name\":{name:?},\"from\":\"{from_name}\",\"frame_max\":{limit},\"hex\":\"{}\",{}}}",
                hex(frame),
                outcome(frame, *limit, *from)
            );
            write!(text, "{}{line}", if text.is_empty() { "{\"cases\":[\n" } else { ",\n" })
                .unwrap();
        }
        for text in files.values_mut() {
            text.push_str("\n]}\n");
        }
        files
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

pub(crate) fn sender(name: &str) -> Sender {
    match name {
        "client" => Sender::Client,
        "server" => Sender::Server,
        other => panic!("{other}"),
    }
}

fn error(code: Code, what: &str) -> String {
    format!("\"error\":{{\"code\":{},\"name\":\"{}\",\"what\":\"{what}\"}}", code.0, code.name())
}

/// What the frame means, as fields of a JSON object: `message`, and `again` where it is encoded in another way than it
/// came; or `error`; or `incomplete`.
pub(crate) fn outcome(bytes: &[u8], limit: u32, sender: Sender) -> String {
    let (frame, used) = match frame::decode(bytes, limit) {
        Ok(Some(found)) => found,
        Ok(None) => return "\"incomplete\":true".to_owned(),
        Err(failure) => return error(failure.code(), "frame"),
    };
    assert_eq!(used, bytes.len(), "a vector is one frame");
    let message = match Message::decode(&frame, sender) {
        Ok(message) => message,
        Err(failure) => return error(failure.code, failure.what),
    };
    let text = format!("\"message\":{}", serde_json::to_string(&message).unwrap());
    let skipped = matches!(message, Message::Skipped(_));
    let again = if skipped { bytes.to_vec() } else { encoded(&message) };
    check_encoding(&message, &again, frame.tag);
    if again == bytes { text } else { format!("{text},\"again\":\"{}\"", hex(&again)) }
}

/// What is encoded again is of the same kind and means the same.
fn check_encoding(message: &Message<'_>, again: &[u8], tag: Tag) {
    if matches!(message, Message::Skipped(_)) {
        return;
    }
    let (frame, _) = frame::decode(again, u32::MAX >> 8).unwrap().unwrap();
    assert_eq!(frame.tag, tag);
    let both = [Sender::Client, Sender::Server];
    assert!(both.into_iter().any(|sender| Message::decode(&frame, sender).as_ref() == Ok(message)));
}
