//! `spile dlq ls|show|replay|drop`: dead letters. admin §7

use serde_json::{Value, json};
use spile_protocol::time::Millis;

use crate::args::{Dlq, DlqDrop, DlqReplay, Everywhere, Letters};
use crate::command::answer::{lines, text};
use crate::command::builtin::{ask, list};
use crate::command::group::checked;
use crate::confirm::confirm;
use crate::connect::connect;
use crate::failure::Failure;
use crate::output::Output;
use crate::value::moment;

const SERVICE: &str = "$dlq";

pub(crate) async fn run(dlq: &Dlq, typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    match dlq {
        Dlq::Ls { group } => ls(group, typed, output).await,
        Dlq::Show { group, position } => {
            let request = json!({ "group": checked(group)?, "position": position.to_string() });
            let letter = call(typed, "show", &request).await?;
            output.result(&timed(letter), lines)
        }
        Dlq::Replay(args) => {
            let replayed = call(typed, "replay", &replay(args)?).await?;
            output.result(&replayed, lines)
        }
        Dlq::Drop(args) => drop_letters(args, typed, output).await,
    }
}

async fn ls(group: &str, typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let request = json!({ "group": checked(group)? });
    let client = connect(typed).await?;
    let each = |letter: Value| output.result(&timed(letter), line);
    let outcome = list(&client, typed, SERVICE, request, each).await;
    client.close().await;
    outcome.map(|whole| whole.tell(output))
}

async fn drop_letters(
    args: &DlqDrop,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut request = json!({ "group": checked(&args.group)?, "dry_run": args.dry_run });
    choose(&mut request, &args.letters);
    let which = if args.letters.all {
        "all dead letters".to_owned()
    } else {
        format!("{} of the dead letters", args.letters.positions.len())
    };
    let yes = args.yes || args.dry_run;
    confirm(yes, &format!("drop {which} of group {}: they are not replayed", args.group))?;
    let dropped = call(typed, "drop", &request).await?;
    output.result(&dropped, lines)
}

fn replay(args: &DlqReplay) -> Result<Value, Failure> {
    let mut request = json!({ "group": checked(&args.group)?, "dry_run": args.dry_run });
    choose(&mut request, &args.letters);
    if let (Some(rate), Some(fields)) = (args.rate, request.as_object_mut()) {
        fields.insert("rate".to_owned(), Value::from(rate));
    }
    Ok(request)
}

fn choose(request: &mut Value, letters: &Letters) {
    let Some(fields) = request.as_object_mut() else { return };
    if letters.all {
        fields.insert("all".to_owned(), Value::from(true));
    } else {
        let positions: Vec<_> = letters.positions.iter().map(ToString::to_string).collect();
        fields.insert("positions".to_owned(), Value::from(positions));
    }
}

async fn call(typed: &Everywhere, method: &str, request: &Value) -> Result<Value, Failure> {
    let client = connect(typed).await?;
    let outcome = ask(&client, typed, SERVICE, method, request).await;
    client.close().await;
    outcome
}

/// The same, with its time as people and scripts read times here.
fn timed(mut letter: Value) -> Value {
    let time = letter.get("time_ms").and_then(Value::as_u64);
    if let (Some(time), Some(fields)) = (time, letter.as_object_mut()) {
        fields.insert("time".to_owned(), Value::from(moment::show(Millis(time))));
    }
    letter
}

/// One letter of a list, for people.
fn line(letter: &Value) -> String {
    let field = |name: &str| letter.get(name).map_or_else(|| "-".to_owned(), text);
    format!(
        "{} {} {} {} {} attempts {} {}",
        field("position"),
        field("time"),
        field("key"),
        field("version"),
        field("topic"),
        field("attempts"),
        field("reason"),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, Typed};

    #[test]
    fn which_letters_is_said_as_it_was_typed() {
        for (words, want) in [
            (
                &["g", "a:5", "b:6"][..],
                json!({ "group": "g", "dry_run": false, "positions": ["a:5", "b:6"] }),
            ),
            (
                &["g", "--all", "--rate", "9", "--dry-run"],
                json!({ "group": "g", "dry_run": true, "all": true, "rate": 9 }),
            ),
        ] {
            let words = [&["spile", "dlq", "replay"], words].concat();
            let Command::Dlq(Dlq::Replay(args)) = Typed::try_parse_from(words).unwrap().command
            else {
                panic!()
            };
            assert_eq!(replay(&args).unwrap(), want);
        }
    }

    #[test]
    fn a_letter_has_the_fields_of_the_contract() {
        let letter = timed(json!({
            "group": "g", "position": "a:5", "key": "k", "topic": "t", "version": 2, "attempts": 5,
            "reason": "exit 1", "time_ms": 10_000,
        }));
        for field in ["group", "position", "key", "topic", "attempts", "reason", "time"] {
            assert!(letter.get(field).is_some(), "{field}");
        }
        assert_eq!(letter["time"], "1970-01-01T00:00:10.000Z");
        assert_eq!(line(&letter), "a:5 1970-01-01T00:00:10.000Z k 2 t attempts 5 exit 1");
    }
}
