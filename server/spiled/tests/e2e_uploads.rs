//! Uploads with the real binaries: whole after every cut and kill, in order, sealed once; and downloads of them.
//!
//! `SPILE_KILLS` says how often the server is killed while one upload goes on (10).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and shows what it did not expect"
)]

mod e2e;
mod observed;
#[path = "commands/spile.rs"]
mod spile;
mod uploads;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use e2e::port::Port;
use e2e::{Raw, Server, tls};
use observed::Observer;
use rustix::process::Signal;
use serde_json::Value;
use spile::{Ran, ran, run};
use spile_protocol::{limits, message::Message};
use tempfile::TempDir;
use uploads::{Told, chunk, content, open, seal, send_all, told};

/// A folder with a server that always listens at the same place, and its data in `spile-data`.
struct Place {
    folder: TempDir,
    port: Port,
}

impl Place {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), port: Port::kept() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn data(&self) -> PathBuf {
        self.path().join("spile-data")
    }

    fn start(&self) -> Server {
        Server::start(&mut self.port.all_in_one(&self.data()), &self.path().join("log"))
    }

    fn raw(&self, run: u8) -> Raw {
        let operator = tls(&self.data().join("dev"), Some("operator"));
        Raw::hello(self.port.address(), &operator, [run; 8]).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path().join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }

    /// Runs a command that must be done: its one object.
    fn json(&self, words: &[&str]) -> Value {
        let ran = run(self.path(), &[&["--json"], words].concat());
        assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
        serde_json::from_str(ran.out.trim()).unwrap_or_else(|_| panic!("{words:?}: {}", ran.out))
    }

    fn all(&self, words: &[&str]) -> Vec<Value> {
        let ran = run(self.path(), &[&["--json"], words].concat());
        assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Begins an upload in the background.
    fn upload(&self, words: &[&str]) -> Child {
        let mut command = spile::spile(self.path());
        command.args(["--json", "--timeout", "60s", "upload"]).args(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits until so much of the one upload under way is stored: how much is.
    fn stored(&self, least: u64, child: &mut Child) -> u64 {
        loop {
            let under_way = self.all(&["upload", "ls"]);
            let stored = under_way.first().map(|one| number(one, "stored_offset"));
            if let Some(stored) = stored.filter(|stored| *stored >= least) {
                return stored;
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        }
    }
}

fn number(value: &Value, field: &str) -> u64 {
    value.get(field).and_then(Value::as_u64).unwrap_or_else(|| panic!("{field} in {value}"))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_else(|| panic!("{field} in {value}"))
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[test]
fn files_of_every_length_go_up_and_come_back_whole() {
    let place = Place::new();
    let _server = place.start();
    for (n, size) in [0, 1, (256 << 10) - 1, 256 << 10, 512 << 10, 1 << 20, (1 << 20) + 1]
        .into_iter()
        .enumerate()
    {
        let bytes = content(size, n);
        place.write("file.bin", &bytes);
        let up =
            place.json(&["upload", "file.bin", "--key", "k", "--type", "a/b", "--meta", "x=y"]);
        assert_eq!((number(&up, "size"), number(&up, "sent")), (size as u64, size as u64));
        assert_eq!((number(&up, "revision"), number(&up, "resumed_at")), (n as u64 + 1, 0));
        assert_eq!((text(&up, "blake3"), text(&up, "durability")), (&*hash(&bytes), "stored"));
        assert_eq!((text(&up, "key"), text(&up, "name")), ("k", "file.bin"));
        let blob = text(&up, "blob");
        let down = place.json(&["download", blob, "-o", "copy.bin"]);
        assert_eq!(number(&down, "received"), size as u64);
        assert_eq!(place.read("copy.bin"), bytes);
        assert!(!place.path().join("copy.bin.part").exists());
        let shown = place.json(&["blob", "show", blob]);
        assert_eq!((text(&shown, "type"), text(&shown, "blake3")), ("a/b", &*hash(&bytes)));
        assert_eq!(shown.pointer("/meta/x").unwrap(), "y");
        for (field, value) in shown.as_object().unwrap() {
            assert_eq!(down.get(field), Some(value), "{field} in {down}");
        }
        assert_eq!(number(&shown, "size"), size as u64);
        // spec §7.3.1: the seal is the event of the stream.
        let stream = place.all(&["stream", "k", "--from", &(n + 1).to_string()]);
        assert_eq!(stream.len(), 1, "{stream:?}");
        assert_eq!(text(&stream[0], "topic"), "file.uploaded");
        assert!(text(&stream[0], "payload").contains(blob));
    }
    assert_eq!(place.all(&["blob", "ls"]).len(), 7);
    assert_eq!(place.all(&["blob", "ls", "other"]).len(), 0);
    assert_eq!(place.all(&["upload", "ls"]).len(), 0);
}

#[test]
fn the_same_command_again_sends_nothing_and_a_removed_blob_is_sent_again() {
    let place = Place::new();
    let _server = place.start();
    let bytes = content(300_000, 1);
    place.write("f", &bytes);
    let first = place.json(&["upload", "f"]);
    let again = place.json(&["upload", "f"]);
    assert_eq!((number(&again, "sent"), number(&again, "resumed_at")), (0, 300_000));
    assert_eq!(text(&again, "blob"), text(&first, "blob"));
    let blob = text(&first, "blob");
    let asks = run(place.path(), &["blob", "rm", blob]);
    assert_eq!(asks.code, 2, "a script says --yes: {}", asks.err);
    place.json(&["blob", "rm", blob, "--yes"]);
    for words in [&["download", blob][..], &["blob", "show", blob], &["blob", "rm", blob, "--yes"]]
    {
        let gone = run(place.path(), words);
        assert_eq!(gone.code, 4, "{words:?}: {}{}", gone.out, gone.err);
        assert!(gone.err.contains("not-found"), "{}", gone.err);
    }
    let anew = place.json(&["upload", "f"]);
    assert_eq!(number(&anew, "sent"), 300_000);
    assert_ne!(text(&anew, "blob"), blob);
    let back = spile::spile(place.path())
        .args(["download", text(&anew, "blob"), "-o", "-"])
        .output()
        .unwrap();
    assert!(back.status.success() && back.stdout == bytes);
}

#[test]
fn many_files_and_stdin_go_up_and_what_can_not_is_told() {
    let place = Place::new();
    let _server = place.start();
    let names: Vec<String> = (0..9).map(|n| format!("f{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        place.write(name, &content(50_000 + n, n));
    }
    place.write("ls", b"a file of that name");
    let mut words = vec!["upload", "--parallel", "3", "./ls"];
    words.extend(names.iter().map(String::as_str));
    let up = place.all(&words);
    assert_eq!(up.len(), 10);
    for blob in &up {
        let name = text(blob, "name");
        place.json(&["download", text(blob, "blob"), "-o", "back"]);
        assert_eq!(place.read("back"), place.read(name), "{name}");
    }
    let mut piped = spile::spile(place.path());
    piped.args(["--json", "upload", "-", "--name", "piped"]).stdin(Stdio::piped());
    let mut child = piped.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&content(700_000, 5)).unwrap();
    let piped = ran(child.wait_with_output().unwrap());
    assert_eq!(piped.code, 0, "{}", piped.err);
    let piped: Value = serde_json::from_str(piped.out.trim()).unwrap();
    assert_eq!(
        (text(&piped, "name"), text(&piped, "blake3")),
        ("piped", &*hash(&content(700_000, 5)))
    );
    for (words, code) in [
        (&["upload", "f1", "f2", "--name", "n"][..], 2),
        (&["upload", "nowhere"][..], 1),
        (&["upload", "."][..], 1),
        (&["upload"][..], 2),
        (&["upload", "cancel", "xyz", "--yes"][..], 2),
        (&["upload", "cancel", "00112233445566778899aabbccddeeff", "--yes"][..], 4),
        (&["download", "05-77777"][..], 4),
    ] {
        let failed = run(place.path(), words);
        assert_eq!(failed.code, code, "{words:?}: {}{}", failed.out, failed.err);
    }
}

#[test]
fn a_chunk_out_of_order_is_refused_with_what_was_expected_and_others_go_on() {
    let place = Place::new();
    let _server = place.start();
    let mut raw = place.raw(1);
    let bytes = content(3_000, 0);
    raw.send(&[open(1, 7, 3_000), open(2, 8, 3_000)]).unwrap();
    assert_eq!(told(&mut raw), Told::Opened { upload: 1, stored: 0, blob: String::new() });
    assert_eq!(told(&mut raw), Told::Opened { upload: 2, stored: 0, blob: String::new() });
    raw.send(&[chunk(1, 0, &bytes[..1_000])]).unwrap();
    assert_eq!(told(&mut raw), Told::Opened { upload: 1, stored: 1_000, blob: String::new() });
    for wrong in [0, 999, 1_001, 2_000] {
        raw.send(&[chunk(1, wrong, &bytes[..1_000])]).unwrap();
        let want = Told::Fault { upload: 1, code: "out-of-order", expected: 1_000 };
        assert_eq!(told(&mut raw), want, "{wrong}");
        raw.send(&[open(1, 7, 3_000)]).unwrap();
        assert_eq!(told(&mut raw), Told::Opened { upload: 1, stored: 1_000, blob: String::new() });
    }
    // The other upload never heard of it, nor did the session.
    for upload in [2, 1] {
        let blob = send_all(&mut raw, upload, &bytes, if upload == 1 { 1_000 } else { 0 });
        assert!(!blob.is_empty());
    }
}

#[test]
fn a_wrong_hash_is_told_and_the_upload_begins_anew() {
    let place = Place::new();
    let _server = place.start();
    let mut raw = place.raw(1);
    let bytes = content(5_000, 0);
    raw.send(&[open(1, 7, 5_000), chunk(1, 0, &bytes), seal(1, 5_000, [9; 32])]).unwrap();
    loop {
        match told(&mut raw) {
            Told::Opened { blob, .. } => assert!(blob.is_empty(), "sealed with a wrong hash"),
            Told::Fault { upload: 1, code: "mismatch", .. } => break,
            other => panic!("{other:?}"),
        }
    }
    raw.send(&[open(1, 7, 5_000)]).unwrap();
    assert_eq!(told(&mut raw), Told::Opened { upload: 1, stored: 0, blob: String::new() });
    assert!(!send_all(&mut raw, 1, &bytes, 0).is_empty());
    // spec §7.1.2: who missed the answer learns it; spec §7.1.1: another size is another upload.
    let mut later = place.raw(2);
    later.send(&[open(4, 7, 5_000), open(5, 7, 5_001)]).unwrap();
    let both = [told(&mut later), told(&mut later)];
    let sealed = |told: &Told| matches!(told, Told::Opened { upload: 4, stored: 5_000, blob } if !blob.is_empty());
    assert!(both.iter().any(sealed), "{both:?}");
    let conflict = |told: &Told| matches!(told, Told::Fault { upload: 5, code: "conflict", .. });
    assert!(both.iter().any(conflict), "{both:?}");
}

#[test]
fn the_newest_session_writes_and_the_older_one_hears_it() {
    let place = Place::new();
    let _server = place.start();
    let bytes = content(4_000, 0);
    let (mut older, mut newer) = (place.raw(1), place.raw(2));
    older.send(&[open(1, 7, 4_000), chunk(1, 0, &bytes[..1_500])]).unwrap();
    while !matches!(told(&mut older), Told::Opened { stored: 1_500, .. }) {}
    newer.send(&[open(3, 7, 4_000)]).unwrap();
    assert_eq!(told(&mut newer), Told::Opened { upload: 3, stored: 1_500, blob: String::new() });
    assert!(matches!(told(&mut older), Told::Fault { upload: 1, code: "replaced", .. }));
    // What the older one still sends counts for nothing.
    older.send(&[chunk(1, 1_500, &[0; 100])]).unwrap();
    // Under another number of the same session it is the newest, too.
    newer.send(&[open(4, 7, 4_000)]).unwrap();
    let both = [told(&mut newer), told(&mut newer)];
    assert!(both.contains(&Told::Opened { upload: 4, stored: 1_500, blob: String::new() }));
    let replaced = |told: &Told| matches!(told, Told::Fault { upload: 3, code: "replaced", .. });
    assert!(both.iter().any(replaced), "{both:?}");
    let blob = send_all(&mut newer, 4, &bytes, 1_500);
    older.send(&[open(1, 7, 4_000)]).unwrap();
    assert_eq!(told(&mut older), Told::Opened { upload: 1, stored: 4_000, blob: blob.clone() });
    place.json(&["download", &blob, "-o", "back"]);
    assert_eq!(place.read("back"), bytes);
}

#[test]
fn an_upload_goes_on_through_kills_of_the_server_and_sends_nothing_twice_that_is_stored() {
    let kills = std::env::var("SPILE_KILLS").map_or(10, |kills| kills.parse().unwrap());
    let place = Place::new();
    let mut server = place.start();
    let bytes = content(192 << 20, 3);
    place.write("big", &bytes);
    // In all the lives that are killed together not all of it goes by.
    let most = bytes.len() as u64 / (kills + 1);
    let observer = Observer::before(place.port.address(), &place.data(), most);
    let url = format!("spile://{}", observer.address);
    let mut child = place.upload(&["big", "--key", "k", "--url", &url]);
    let mut last = 0;
    for killed in 0..kills {
        // As soon as it went on from where the last life left it.
        last = place.stored(last + 1, &mut child);
        // More may be stored than was said before the kill: it came again in this life, too.
        while observer.seen().opened <= killed {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
            std::thread::yield_now();
        }
        server.end(Signal::KILL);
        server = place.start();
    }
    observer.let_by();
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let up: Value = serde_json::from_str(ran.out.trim()).unwrap();
    assert_eq!(text(&up, "blake3"), hash(&bytes));
    let seen = observer.seen();
    assert!(seen.again.is_empty(), "stored, sent (bytes): {:?}", seen.again);
    assert!(seen.opened > kills, "it was not opened again after each kill: {}", seen.opened);
    // What was under way at a kill, and was not stored, is sent again: at most the credit each time.
    let (sent, size) = (number(&up, "sent"), number(&up, "size"));
    assert!(seen.chunk_bytes >= size && seen.chunk_bytes <= sent, "{} went by", seen.chunk_bytes);
    let again = sent - size;
    assert!(again <= kills * u64::from(limits::CREDIT_CHUNK_BYTES), "{again} after {kills} kills");
    place.json(&["download", text(&up, "blob"), "-o", "back"]);
    assert!(place.read("back") == bytes);
    assert_eq!(place.all(&["blob", "ls"]).len(), 1, "sealed once");
    drop(server);
}

#[test]
fn what_was_said_to_be_stored_is_there_after_a_kill() {
    let place = Place::new();
    let bytes = content(1 << 20, 4);
    let mut known = 0;
    let mut server = place.start();
    for step in 1..=8_u64 {
        let mut raw = place.raw(1);
        raw.send(&[open(1, 7, 1 << 20)]).unwrap();
        let Told::Opened { stored, .. } = told(&mut raw) else { panic!("not opened") };
        assert!(stored >= known, "{known} were said to be stored, {stored} are");
        // Enough to be in the middle of it, and no answer to the last ones is awaited.
        let goal = (1 << 20) * step / 9;
        (known, _) = uploads::send_until(&mut raw, 1, &bytes, stored, goal);
        server.end(Signal::KILL);
        server = place.start();
    }
    let mut raw = place.raw(1);
    raw.send(&[open(1, 7, 1 << 20)]).unwrap();
    let Told::Opened { stored, .. } = told(&mut raw) else { panic!("not opened") };
    assert!(stored >= known);
    let blob = send_all(&mut raw, 1, &bytes, stored);
    place.json(&["download", &blob, "-o", "back"]);
    assert!(place.read("back") == bytes);
    drop(server);
}

#[test]
fn killed_in_the_middle_of_sealing_it_is_sealed_once() {
    let place = Place::new();
    let mut server = place.start();
    for round in 0..6_u8 {
        let bytes = content(400_000, usize::from(round));
        let mut raw = place.raw(1);
        let id = 50 + round;
        raw.send(&[open(1, id, 400_000)]).unwrap();
        assert!(matches!(told(&mut raw), Told::Opened { stored: 0, .. }));
        raw.send(&[chunk(1, 0, &bytes[..200_000]), chunk(1, 200_000, &bytes[200_000..])]).unwrap();
        raw.send(&[seal(1, 400_000, *blake3::hash(&bytes).as_bytes())]).unwrap();
        // At another moment each time: before anything, or behind one of the answers.
        for _ in 0..round % 3 {
            if matches!(told(&mut raw), Told::Opened { blob, .. } if !blob.is_empty()) {
                break;
            }
        }
        server.end(Signal::KILL);
        server = place.start();
        let mut raw = place.raw(1);
        raw.send(&[open(1, id, 400_000)]).unwrap();
        let Told::Opened { stored, blob, .. } = told(&mut raw) else { panic!("not opened") };
        let blob = if blob.is_empty() { send_all(&mut raw, 1, &bytes, stored) } else { blob };
        place.json(&["download", &blob, "-o", "back"]);
        assert!(place.read("back") == bytes);
        assert_eq!(place.all(&["blob", "ls"]).len(), usize::from(round) + 1, "sealed once");
    }
    drop(server);
}

/// Begins an upload with the command and kills that, not the server, somewhere in the middle: the rest does not go by.
fn half(place: &Place, name: &str) -> u64 {
    let observer = Observer::before(place.port.address(), &place.data(), 1 << 20);
    let mut child = place.upload(&[name, "--url", &format!("spile://{}", observer.address)]);
    let stored = place.stored(1, &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    stored
}

#[test]
fn the_same_command_goes_on_where_a_killed_one_was() {
    let place = Place::new();
    let _server = place.start();
    let bytes = content(8 << 20, 6);
    place.write("big", &bytes);
    let stored = half(&place, "big");
    let up = place.json(&["upload", "big"]);
    assert!(number(&up, "resumed_at") >= stored, "{up} after {stored}");
    assert_eq!(number(&up, "sent"), number(&up, "size") - number(&up, "resumed_at"));
    assert_eq!(text(&up, "blake3"), hash(&bytes));
    place.json(&["download", text(&up, "blob"), "-o", "back"]);
    assert!(place.read("back") == bytes);
}

#[test]
fn a_file_that_changed_is_not_glued_to_the_half_of_the_old_one() {
    let place = Place::new();
    let _server = place.start();
    let mut bytes = content(8 << 20, 7);
    place.write("big", &bytes);
    let path = place.path().join("big");
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    half(&place, "big");
    // Another file of the same length and time.
    bytes[0] ^= 1;
    place.write("big", &bytes);
    std::fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
    let failed: Ran = run(place.path(), &["upload", "big"]);
    assert_eq!(failed.code, 1, "{}{}", failed.out, failed.err);
    assert!(failed.err.contains("of another file"), "{}", failed.err);
    let up = place.json(&["upload", "big"]);
    assert_eq!((number(&up, "resumed_at"), text(&up, "blake3")), (0, &*hash(&bytes)));
}

#[test]
fn an_upload_under_way_is_listed_and_cancelled() {
    let place = Place::new();
    let _server = place.start();
    let mut raw = place.raw(1);
    raw.send(&[open(1, 7, 3_000), chunk(1, 0, &content(1_000, 0))]).unwrap();
    while !matches!(told(&mut raw), Told::Opened { stored: 1_000, .. }) {}
    let under_way = place.all(&["upload", "ls"]);
    assert_eq!(under_way.len(), 1);
    assert_eq!(
        (number(&under_way[0], "stored_offset"), number(&under_way[0], "size")),
        (1_000, 3_000)
    );
    let id = text(&under_way[0], "upload");
    assert_eq!(id, "07".repeat(16));
    place.json(&["upload", "cancel", id, "--yes"]);
    assert_eq!(place.all(&["upload", "ls"]).len(), 0);
    assert!(matches!(told(&mut raw), Told::Fault { upload: 1, .. }), "its session hears it");
    raw.send(&[open(1, 7, 3_000)]).unwrap();
    assert_eq!(told(&mut raw), Told::Opened { upload: 1, stored: 0, blob: String::new() });
}

#[test]
fn a_download_goes_on_where_it_was_and_begins_anew_where_that_was_of_something_else() {
    let place = Place::new();
    let _server = place.start();
    let bytes = content(3 << 20, 8);
    place.write("f", &bytes);
    let up = place.json(&["upload", "f"]);
    let blob = text(&up, "blob");
    let fetch = || place.json(&["download", blob, "-o", "back"]);
    for have in [1, 1 << 20, (3 << 20) - 1, 3 << 20] {
        place.write("back.part", &bytes[..have]);
        let down = fetch();
        assert_eq!(number(&down, "resumed_at"), have as u64);
        assert_eq!(number(&down, "received"), (3 << 20) - have as u64);
        assert!(place.read("back") == bytes);
    }
    for other in [content(1 << 20, 9), content(4 << 20, 9)] {
        place.write("back.part", &other);
        let down = fetch();
        assert_eq!((number(&down, "resumed_at"), number(&down, "received")), (0, 3 << 20));
        assert!(place.read("back") == bytes);
    }
    // Under its own name, and never over what is there.
    let over = run(place.path(), &["download", blob]);
    assert_eq!(over.code, 1, "{}", over.err);
    std::fs::remove_file(place.path().join("f")).unwrap();
    place.json(&["download", blob]);
    assert!(place.read("f") == bytes);
}

#[test]
fn nobody_takes_a_message_of_an_upload_for_the_end_of_a_session() {
    let place = Place::new();
    let _server = place.start();
    let mut raw = place.raw(1);
    // Never opened, past its end, empty, too long a name: each is told, and the session goes on.
    raw.send(&[chunk(9, 0, b"x"), open(1, 1, 10), chunk(1, 0, &[1; 11])]).unwrap();
    let mut seen = Vec::new();
    while !seen.iter().any(|told| matches!(told, Told::Fault { upload: 1, code: "invalid", .. })) {
        seen.push(told(&mut raw));
    }
    raw.send(&[open(2, 2, 4)]).unwrap();
    assert!(matches!(told(&mut raw), Told::Opened { upload: 2, stored: 0, .. }));
    assert!(!send_all(&mut raw, 2, b"data", 0).is_empty());
    raw.send(&[Message::Abort(spile_protocol::message::Abort { upload: 2 })]).unwrap();
    assert!(matches!(told(&mut raw), Told::Fault { upload: 2, code: "not-found", .. }));
}
