//! How much is asked for, and what is told.

use clap::Parser;
use spile_client::{Kind, Position};
use spile_protocol::code::Code;
use spile_protocol::id::{self, Version};

use super::*;
use crate::args::{Command, Typed};

fn typed(words: &[&str]) -> Consume {
    let words = [&["spile", "consume", "g"], words].concat();
    let Command::Consume(args) = Typed::try_parse_from(words).unwrap().command else { panic!() };
    args
}

#[test]
fn no_more_is_asked_for_than_is_worked_on() {
    for (words, batch, window) in [
        (&["--exec", "x"][..], 1, 1),
        (&["--exec", "x", "--parallel", "8"], 1, 8),
        (&["--pipe", "x", "--parallel", "8", "--batch", "4"], 4, 32),
        (&["--exec", "x", "--parallel", "8", "--count", "3", "--batch", "5"], 3, 3),
        (&[], PRINTED_BATCH, PRINTED),
        (&["--count", "10"], 10, 10),
    ] {
        let want =
            Options::default().batch(batch, BATCH_BYTES).window(window, BYTES).give_back(false);
        assert_eq!(options(&typed(words)), want, "{words:?}");
    }
}

fn event() -> Delivery {
    Delivery {
        position: Position { worker: "a".into(), number: id::Position(5) },
        key: "k".into(),
        version: Version(2),
        topic: "t/x".into(),
        time: Millis(10_000),
        trace: None,
        kind: Kind::default().into(),
        facts: None,
        payload: "21.5".into(),
    }
}

#[test]
fn what_became_of_an_event_has_the_fields_of_the_contract() {
    let row = Row::new("g", 3, &event()).settled("done", &Ok(Settled::Durable));
    let value = serde_json::to_value(&row).unwrap();
    assert_eq!(
        value,
        serde_json::json!({
            "group": "g", "position": "a:5", "key": "k", "version": 2, "topic": "t/x", "attempt": 3,
            "outcome": "done",
        })
    );
    let value = serde_json::to_value(Handed::new("g", 3, &event())).unwrap();
    for field in ["group", "position", "key", "version", "attempt", "topic", "time", "payload"] {
        assert!(!value[field].is_null(), "{field}");
    }
}

#[test]
fn what_did_not_count_is_not_told_as_done() {
    let told = |answer| Row::new("g", 1, &event()).settled("done", &answer).outcome;
    assert_eq!(told(Ok(Settled::Durable)), "done");
    assert_eq!(told(Ok(Settled::TooLate)), "late");
    let refusal = spile_client::Refusal {
        code: Code::UNKNOWN_OUTCOME,
        retry_after: None,
        version: None,
        detail: String::new(),
    };
    assert_eq!(told(Err(refusal.into())), "unknown");
}
