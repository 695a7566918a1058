//! What spec/protocol.md says is what the code does: its generated tables are compared, and its message tables have the
//! fields of the structs, in their order. `SPILE_WRITE_SPEC=1 cargo test -p spile-protocol --test spec` writes the
//! generated ones.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may fail")]

use std::fmt::Write as _;
use std::path::PathBuf;

use spile_protocol::{
    code, frame,
    id::{LaneId, Number, Position, RouteId, Slot, SubscriptionId, Version},
    limits,
    message::{
        Ack, Batch, Deliver, Durability, Event, Extras, Happened, Lengths, List, Message, Receipt,
    },
    time::Millis,
};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../spec/protocol.md")
}

fn spec() -> String {
    std::fs::read_to_string(path()).unwrap()
}

fn check(name: &str, table: &str) {
    let begin = format!("<!-- generated: {name} -->\n");
    let spec = spec();
    let (before, rest) = spec.split_once(&begin).unwrap();
    let (found, after) = rest.split_once("<!-- end -->").unwrap();
    if std::env::var_os("SPILE_WRITE_SPEC").is_some() {
        std::fs::write(path(), format!("{before}{begin}{table}<!-- end -->{after}")).unwrap();
    } else {
        assert_eq!(found, table, "spec/protocol.md: the table of {name}");
    }
}

/// Bytes of the frame beyond its payload.
fn around(message: &Message<'_>) -> usize {
    let mut out = [0; 2048];
    let length = message.encode(&mut out).unwrap();
    frame::decode(&out[..length], 2048).unwrap().unwrap();
    length - message.payload().len()
}

fn event(payload: &[u8], extras: Extras<'static>) -> usize {
    around(&Message::Event(Event { route: RouteId(0), extras, payload }))
}

fn batch(lengths: &[usize]) -> usize {
    let payload = vec![7; lengths.iter().sum()];
    let mut room = [0; 64];
    let lengths = Lengths::encode(lengths.iter().copied(), &mut room).unwrap();
    around(&Message::Batch(Batch {
        route: RouteId(0),
        lengths,
        extras: Extras::default(),
        payload: &payload,
    }))
}

fn deliver(count: u32) -> usize {
    let payload = vec![7; 32 * count as usize];
    around(&Message::Deliver(Deliver {
        subscription: SubscriptionId(0),
        key: None,
        topic: None,
        kind: None,
        worker: None,
        attempt: 1,
        version: Version(1000),
        position: Position(1_000_000),
        time: Millis(1_790_000_000_000),
        lengths: Lengths::same(count, 32),
        extras: Extras::default(),
        payload: &payload,
    }))
}

fn receipt() -> usize {
    let mut room = [0; 64];
    let receipt = Receipt {
        number: Number(1000),
        count: 1,
        version: Version(1000),
        position: Position(1_000_000),
    };
    let receipts = List::encode([receipt], &mut room).unwrap();
    around(&Message::Ack(Ack::Spelled {
        durability: Durability::Stored,
        lane: LaneId(0),
        last: Number(1000),
        receipts,
    }))
}

#[test]
fn the_bytes_of_an_event_its_ack_and_a_batch() {
    let ack = around(&Message::Ack(Ack::Step { durability: Durability::Stored, step: 1 }));
    let bare = event(&[7; 32], Extras::default());
    assert_eq!((bare, ack, bare + 32 + ack), (7, 7, 46));
    let uneven = [31, 33, 32, 32, 32, 32, 32, 32, 32, 32];
    assert!(batch(&[32; 10]) <= 28 && batch(&uneven) <= 28);
    let age = Extras { happened: Some(Happened::Ago(1500)), ..Extras::default() };
    let mut table = "| what | bytes |\n| --- | --- |\n".to_owned();
    for (what, bytes) in [
        ("EVENT of 32 bytes on a bound route", bare),
        ("ACK, one step of lane 0", ack),
        ("both, with the 32 bytes", bare + 32 + ack),
        ("EVENT with an age of 1,500 ms", event(&[7; 32], age)),
        ("BATCH of ten events of 32 bytes", batch(&[32; 10])),
        ("BATCH of ten events of 31 to 33 bytes", batch(&uneven)),
        ("ACK with one receipt (number, version 1,000, position 1,000,000)", receipt()),
        ("DELIVER of one event of the same key and topic", deliver(1)),
        ("DELIVER of a block of ten", deliver(10)),
    ] {
        writeln!(table, "| {what} | {bytes} |").unwrap();
    }
    check("bytes", &table);
}

#[test]
fn the_codes() {
    let mut table =
        "| code | name | class | retry | cause | remedy |\n| --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    for entry in code::TABLE {
        let code::Entry { code, name, class, retry, cause, remedy } = *entry;
        let (class, retry) = (class.name(), if retry { "yes" } else { "no" });
        writeln!(table, "| {} | {name} | {class} | {retry} | {cause} | {remedy} |", code.0)
            .unwrap();
    }
    check("codes", &table);
}

#[test]
fn the_limits() {
    let mut table =
        "| name | value | what, and what happens at it |\n| --- | --- | --- |\n".to_owned();
    for limits::Limit { name, value, meaning } in limits::TABLE {
        writeln!(table, "| {name} | {value} |{meaning} |").unwrap();
    }
    check("limits", &table);
}

#[test]
fn the_slots_of_some_keys() {
    let mut table = "| tenant | key | slot |\n| --- | --- | --- |\n".to_owned();
    for (tenant, key) in
        [("main", "sensor-1"), ("main", "$registry"), ("acme", "line 7 / oven"), ("main", "größe")]
    {
        writeln!(table, "| {tenant} | {key} | {} |", Slot::of(tenant, key).0).unwrap();
    }
    check("slots", &table);
}

/// The first cells of the tables under the heading `### number …`, one list a table that has a `default` column.
fn tables(spec: &str, number: &str) -> Vec<Vec<String>> {
    let heading = format!("### {number} ");
    let section = spec
        .split("\n### ")
        .find(|section| format!("### {section}").starts_with(&heading))
        .unwrap();
    let mut tables = Vec::new();
    for line in section.lines() {
        if line.starts_with("| field | type | default |") {
            tables.push(Vec::new());
        } else if let Some(name) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next())
        {
            tables.last_mut().unwrap_or_else(|| panic!("§{number}")).push(name.to_owned());
        }
    }
    tables
}

/// Names and where the tail begins, of `Struct { … }` in the sources: the macro `fields!` has a `;` of its own there.
fn declared(source: &str, name: &str) -> (Vec<String>, usize) {
    let begin = [format!("    {name} {{\n"), format!("    {name}<'a> {{\n")];
    let rest = begin
        .iter()
        .find_map(|begin| source.split_once(begin.as_str()))
        .unwrap_or_else(|| panic!("{name}"))
        .1;
    let (mut names, mut required) = (Vec::new(), 0);
    for line in rest.lines().map(str::trim).take_while(|line| *line != "}") {
        if line == ";" {
            required = names.len();
        } else if !line.starts_with(['/', '#']) {
            names.extend(line.split_once(": ").map(|(name, _)| name.to_owned()));
        }
    }
    (names, required)
}

/// Fields and the limits they name, in a source: `field: type [limits::NAME]`.
fn limited(source: &str) -> Vec<(String, String)> {
    let of = |line: &str| {
        let (field, rest) = line.trim().split_once(": ")?;
        let (_, limit) = rest.split_once("[limits::")?;
        Some((field.to_owned(), limit.split(']').next()?.to_owned()))
    };
    source.lines().filter_map(of).collect()
}

#[test]
fn every_message_has_the_fields_of_its_table() {
    let spec = spec();
    for (number, file, structs) in [
        ("4.1", "hello", &["Hello"][..]),
        ("4.2", "hello", &["Welcome"]),
        ("4.3", "auth", &["Auth"]),
        ("4.4", "ping", &["Ping"]),
        ("4.5", "ping", &["GoAway"]),
        ("4.6", "fault", &["Fault"]),
        ("5.1", "lane", &["Lane", "LaneAnswer"]),
        ("5.2", "lane", &["Bind"]),
        ("6.2", "credit", &["Credit"]),
        ("7.1", "upload", &["Open", "Opened"]),
        ("7.3", "upload", &["Seal"]),
        ("7.4", "upload", &["Abort"]),
        ("8.1", "subscribe", &["Subscribe"]),
        ("8.3", "subscribe", &["Settle"]),
        ("8.4", "subscribe", &["End"]),
        ("9.1", "request", &["Get"]),
        ("9.2", "request", &["Value"]),
        ("9.3", "request", &["List"]),
        ("9.4", "request", &["Call"]),
        ("9.5", "request", &["Reply"]),
        ("9.6", "request", &["Serve"]),
        ("10.1", "link", &["LinkHello"]),
        ("10.2", "link", &["Attach", "Detach"]),
        ("10.4", "link", &["Void"]),
        ("10.5", "link", &["Registry"]),
        ("10.8", "link", &["Changed"]),
    ] {
        let source =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("src/message/{file}.rs"));
        let source = std::fs::read_to_string(source).unwrap();
        let tables = tables(&spec, number);
        assert_eq!(tables.len(), structs.len(), "§{number}");
        for (field, limit) in limited(&source) {
            let value = limits::TABLE.iter().find(|known| known.name == limit).unwrap().value;
            let heading = format!("### {number} ");
            let section =
                spec.split("\n### ").find(|it| format!("### {it}").starts_with(&heading)).unwrap();
            let mut lines =
                section.lines().filter(|line| line.starts_with(&format!("| `{field}` |")));
            let enums = ["proof", "target", "source"].contains(&field.as_str());
            assert!(
                enums || lines.all(|line| line.contains(&format!("≤ {value} |"))),
                "§{number} {field}"
            );
        }
        for (table, name) in tables.iter().zip(structs) {
            assert_eq!(*table, declared(&source, name).0, "§{number} {name}");
        }
    }
}

#[test]
fn every_table_shows_where_its_tail_begins() {
    let (spec, section) = (spec(), "### 4.1 HELLO");
    let lines: Vec<_> = spec.split_once(section).unwrap().1.lines().skip(4).take(5).collect();
    let source = std::fs::read_to_string(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/message/hello.rs"),
    )
    .unwrap();
    let (names, required) = declared(&source, "Hello");
    assert_eq!(required, 4);
    for (line, name) in lines.iter().zip(&names[..required]) {
        assert!(line.starts_with(&format!("| `{name}`")), "{line}");
    }
    assert!(lines[required].starts_with("| … |"), "{}", lines[required]);
}

#[test]
fn every_clause_the_code_cites_is_there() {
    let spec = spec();
    let mut cited = 0;
    for text in sources() {
        for place in text.split("spec §").skip(1) {
            let number: String =
                place.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let number = number.trim_end_matches('.');
            let there = spec.lines().any(|line| {
                let line = line.trim_start_matches('#').trim_start();
                line.strip_prefix(number).is_some_and(|rest| rest.starts_with(' '))
            });
            assert!(there, "spec §{number} is cited, and is not in spec/protocol.md");
            cited += 1;
        }
    }
    assert!(cited > 20);
}

fn sources() -> Vec<String> {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut texts = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                texts.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }
    texts
}
