//! `spile bench`: each measurement runs, counts what it was asked for, and reports the contract's fields.

use super::{run, started};

#[test]
fn every_measurement_takes_the_same_flags_and_reports_the_same_fields() {
    let (folder, _server) = started();
    for (what, words, events, bytes) in [
        ("publish", "--connections 2 --size 64 --window 8 --count 100", 100, true),
        ("subscribe", "--connections 1 --window 8 --count 100", 100, true),
        ("subscribe", "--connections 2 --size 1KiB --window 64 --count 50", 50, true),
        ("sessions", "--connections 2 --count 5", 5, false),
        ("sessions", "--connections 2 --window 3 --size 1KiB --count 4", 4, true),
        ("upload", "--connections 1 --size 4KiB --window 2 --count 3", 3, true),
        ("call", "--connections 1 --size 64 --window 2 --count 5", 5, true),
    ] {
        let words: Vec<_> =
            ["--json", "--quiet", "bench", what].into_iter().chain(words.split(' ')).collect();
        let ran = run(folder.path(), &words);
        assert_eq!(ran.code, 0, "{words:?}: {}{}", ran.out, ran.err);
        let report: serde_json::Value = serde_json::from_str(ran.out.trim()).unwrap();
        assert_eq!((&report["events"], &report["errors"]), (&events.into(), &0.into()), "{report}");
        assert!(report["events_per_s"].as_f64().unwrap() > 0.0, "{report}");
        for field in ["mb_per_s", "p50_us", "p99_us", "p999_us"] {
            assert!(report.get(field).is_some(), "{field} in {report}");
        }
        assert!(bytes || report["mb_per_s"] == 0.0, "{report}");
    }
}

#[test]
fn what_is_measured_first_is_what_was_asked_for() {
    let (folder, _server) = started();
    let folder = folder.path();
    assert_eq!(run(folder, &["publish", "bench/load", "of before", "--key", "k"]).code, 0);
    let subscribe = ["bench", "subscribe", "--size", "700", "--count", "20", "--quiet"];
    assert_eq!(run(folder, &subscribe).code, 0);
    let sessions = ["bench", "sessions", "--window", "3", "--size", "33", "--count", "2"];
    assert_eq!(run(folder, &sessions).code, 0);
    let read = run(folder, &["--json", "subscribe", "bench/#", "--from", "start", "--count", "27"]);
    let mut lengths: Vec<_> = read
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| match event["payload"].as_str() {
            Some(text) => text.len(),
            None => event["payload_base64"].as_str().unwrap().trim_end_matches('=').len() * 3 / 4,
        })
        .collect();
    lengths.sort_unstable();
    let mut want = [vec![9], vec![33; 6], vec![700; 20]].concat();
    want.sort_unstable();
    assert_eq!(lengths, want, "{}", read.err);
}
