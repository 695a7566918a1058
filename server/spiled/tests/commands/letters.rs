//! Dead letters as operators meet them: a key that is held until they act, and replays that come no faster than they say.
#![allow(clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::e2e::{Server, all_in_one};
use crate::groups::{create, outcomes, publish, show, told};
use crate::spile::spile;
use crate::started;

/// Takes so many events and fails those of the key `poison` whose version is below `good`.
fn consume(folder: &Path, count: u32, good: u32) -> Vec<Value> {
    let command = format!("test $SPILE_KEY != poison || test $SPILE_VERSION -ge {good}");
    let count = count.to_string();
    told(folder, &["consume", "g", "--count", &count, "--exec", &command])
}

/// What of a group waits for others, and how many are dead.
fn waits(folder: &Path) -> (u64, u64) {
    let shown = show(folder);
    (shown["waiting"].as_u64().unwrap(), shown["dead"].as_u64().unwrap())
}

/// One event of another key, and it alone, comes: nothing of the poisoned key does.
fn only_others_flow(folder: &Path) {
    publish(folder, "other", 1);
    let rows = consume(folder, 1, u32::MAX);
    assert_eq!(rows[0]["key"], "other", "{rows:?}");
    assert!(told(folder, &["consume", "g", "--wait", "200ms"]).is_empty());
}

fn number(row: &Value, field: &str) -> u64 {
    row[field].as_u64().unwrap_or_else(|| panic!("no {field} in {row}"))
}

#[test]
fn a_poison_event_holds_its_key_until_an_operator_acts_and_other_keys_flow() {
    let (folder, server) = started();
    let folder = folder.path();
    publish(folder, "poison", 4);
    publish(folder, "a", 2);
    create(folder, &["--max-attempts", "2", "--on-dead", "hold"]);
    let rows = consume(folder, 4, 2);
    let mut rows = outcomes(&rows);
    rows.sort_unstable();
    let failed = [("poison", 1, 1, "retry"), ("poison", 1, 2, "retry")];
    assert_eq!(rows, [&[("a", 1, 1, "done"), ("a", 2, 1, "done")][..], &failed].concat());
    only_others_flow(folder);
    assert_eq!(waits(folder), (3, 1));

    // A restart changes nothing of it, and what comes later waits behind it too.
    server.end(Signal::KILL);
    let server = Server::start(&mut all_in_one(&folder.join("spile-data")), &folder.join("log"));
    publish(folder, "poison", 1);
    only_others_flow(folder);
    assert_eq!(waits(folder), (4, 1));

    // Replayed, it fails again: it is one dead letter still, tried four times by now, and holds its key.
    told(folder, &["dlq", "replay", "g", "--all"]);
    let rows = consume(folder, 2, 2);
    assert_eq!(outcomes(&rows), [("poison", 1, 3, "retry"), ("poison", 1, 4, "retry")]);
    let letters = told(folder, &["dlq", "ls", "g"]);
    assert_eq!((letters.len(), number(&letters[0], "attempts")), (1, 4), "{letters:?}");
    only_others_flow(folder);

    // Replayed and done, its key goes on in order, up to the next that is dead.
    told(folder, &["dlq", "replay", "g", letters[0]["position"].as_str().unwrap()]);
    let rows = told(
        folder,
        &["consume", "g", "--count", "2", "--exec", "test $SPILE_VERSION != 2 || exit 65"],
    );
    assert_eq!(outcomes(&rows), [("poison", 1, 5, "done"), ("poison", 2, 1, "reject")]);
    only_others_flow(folder);
    assert_eq!(waits(folder), (3, 1));

    // Dropped, the same.
    told(folder, &["dlq", "drop", "g", "--all", "--yes"]);
    let rows = consume(folder, 3, 1);
    let done = |version| ("poison", version, 1, "done");
    assert_eq!(outcomes(&rows), [done(3), done(4), done(5)]);
    assert_eq!(waits(folder), (0, 0));
    drop(server);
}

/// Takes so many events, and keeps when each began.
fn timed(folder: &Path, count: u64) -> Child {
    let command = "echo $SPILE_POSITION $SPILE_KEY $(date +%s%3N) >> began";
    let mut consume = spile(folder);
    consume.args(["--quiet", "consume", "g", "--parallel", "8", "--count", &count.to_string()]);
    consume.args(["--exec", command]).stdout(Stdio::null()).spawn().unwrap()
}

/// When each letter is due, by its position, as the server's records say.
fn dues(folder: &Path) -> Vec<(String, u64)> {
    let of = |row: &Value| (row["position"].as_str().unwrap().to_owned(), number(row, "due_ms"));
    told(folder, &["dlq", "ls", "g"]).iter().map(of).collect()
}

/// Each began, no earlier than it was due, and each key's in order.
fn all_began_in_time(folder: &Path, dues: &[(String, u64)]) {
    let began = std::fs::read_to_string(folder.join("began")).unwrap();
    let mut last = HashMap::new();
    for line in began.lines() {
        let [position, key, time] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let at = dues.iter().position(|due| due.0 == position).unwrap();
        assert!(time.parse::<u64>().unwrap() >= dues[at].1, "{line} came too early: {dues:?}");
        assert!(last.insert(key, at) < Some(at), "{line} came out of order:\n{began}");
    }
    assert_eq!(began.lines().count(), dues.len(), "{began}");
    std::fs::remove_file(folder.join("began")).unwrap();
}

#[test]
fn a_replay_with_a_rate_goes_out_letter_by_letter_and_so_it_does_after_a_restart() {
    const LETTERS: u64 = 6;
    let (folder, server) = started();
    let folder = folder.path();
    for key in ["a", "b", "c"] {
        publish(folder, key, 2);
    }
    create(folder, &[]);
    let fail = ["consume", "g", "--count", "6", "--exec", "exit 65"];
    told(folder, &fail);
    let listed = told(folder, &["dlq", "ls", "g"]);
    assert!(listed.iter().all(|letter| letter["replay"] == false && letter["due_ms"].is_null()));

    let replay = ["dlq", "replay", "g", "--all", "--rate", "4"];
    assert_eq!(number(&told(folder, &replay)[0], "replayed"), LETTERS);
    let due = dues(folder);
    let want: Vec<_> = (0..LETTERS).map(|n| due[0].1 + n * 250).collect();
    assert_eq!(due.iter().map(|due| due.1).collect::<Vec<_>>(), want, "four a second");
    assert!(timed(folder, LETTERS).wait().unwrap().success());
    all_began_in_time(folder, &due);
    assert!(told(folder, &["dlq", "ls", "g"]).is_empty());

    // The pace outlives the server.
    told(folder, &["group", "seek", "g", "--to", "start"]);
    told(folder, &fail);
    assert_eq!(number(&told(folder, &replay)[0], "replayed"), LETTERS);
    let due = dues(folder);
    server.end(Signal::KILL);
    let _server = Server::start(&mut all_in_one(&folder.join("spile-data")), &folder.join("log"));
    assert_eq!(dues(folder), due);
    // Asked again, all are on their way already: no faster, and not twice.
    assert_eq!(number(&told(folder, &["dlq", "replay", "g", "--all"])[0], "replayed"), 0);
    assert!(timed(folder, LETTERS).wait().unwrap().success());
    all_began_in_time(folder, &due);
    assert!(told(folder, &["dlq", "ls", "g"]).is_empty());
}
