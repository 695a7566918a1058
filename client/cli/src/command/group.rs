//! `spile group create|ls|show|seek|rm`: durable groups. admin §6

use serde_json::{Value, json};
use spile_client::{From, wall};
use spile_protocol::id;

use crate::args::{Everywhere, Group, GroupCreate, GroupSeek};
use crate::command::answer::{lines, text};
use crate::command::builtin::{ask, list};
use crate::confirm::confirm;
use crate::connect::connect;
use crate::failure::Failure;
use crate::output::Output;
use crate::value::place::Place;

const SERVICE: &str = "$group";

pub(crate) async fn run(
    group: &Group,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    match group {
        Group::Create(args) => shown(typed, "create", &created(args)?, output).await,
        Group::Ls => ls(typed, output).await,
        Group::Show { name } => {
            shown(typed, "show", &json!({ "name": checked(name)? }), output).await
        }
        Group::Seek(args) => shown(typed, "seek", &sought(args)?, output).await,
        Group::Rm { name, yes } => {
            checked(name)?;
            let what = format!("remove group {name}: how far it was and its dead letters go");
            confirm(*yes, &what)?;
            shown(typed, "rm", &json!({ "name": name }), output).await
        }
    }
}

/// A group's name, or why it is none.
pub(crate) fn checked(name: &str) -> Result<&str, Failure> {
    id::name(name).map_err(|why| Failure::usage(format!("group {name:?}"), why))
}

fn created(args: &GroupCreate) -> Result<Value, Failure> {
    let millis =
        |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    id::filter(&args.filter)
        .map_err(|why| Failure::usage(format!("filter {:?}", args.filter), why))?;
    Ok(json!({
        "name": checked(&args.name)?,
        "filter": args.filter,
        "from": place(&args.from),
        "max_attempts": args.max_attempts,
        "backoff_min_ms": millis(args.backoff.min),
        "backoff_max_ms": millis(args.backoff.max),
        "settle_within_ms": millis(args.settle_within),
        "on_dead": args.on_dead,
        "behind": args.behind,
    }))
}

fn sought(args: &GroupSeek) -> Result<Value, Failure> {
    Ok(json!({ "name": checked(&args.name)?, "to": place(&args.to), "dry_run": args.dry_run }))
}

/// A beginning as the service takes it: a word, positions as text, or milliseconds since 1970.
fn place(place: &Place) -> Value {
    match place.clone().resolve(wall()) {
        From::Start => Value::from("start"),
        From::End => Value::from("end"),
        From::Time(time) => Value::from(time.0),
        From::Positions(positions) => {
            let positions: Vec<_> = positions.iter().map(ToString::to_string).collect();
            Value::from(positions.join(","))
        }
    }
}

async fn shown(
    typed: &Everywhere,
    method: &str,
    request: &Value,
    output: &mut Output,
) -> Result<(), Failure> {
    let client = connect(typed).await?;
    let outcome = ask(&client, typed, SERVICE, method, request).await;
    client.close().await;
    output.result(&outcome?, lines)
}

async fn ls(typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let client = connect(typed).await?;
    let each = |item: Value| output.result(&item, line);
    let outcome = list(&client, typed, SERVICE, json!({}), each).await;
    client.close().await;
    outcome.map(|whole| whole.tell(output))
}

/// One group of a list, for people.
fn line(item: &Value) -> String {
    let field = |name: &str| item.get(name).map_or_else(|| "-".to_owned(), text);
    let members = match item.get("members") {
        Some(Value::Array(members)) => members.len().to_string(),
        Some(other) => text(other),
        None => "-".to_owned(),
    };
    format!(
        "{:<24} {:<24} lag {} in flight {} waiting {} dead {} members {members}",
        field("name"),
        field("filter"),
        field("lag"),
        field("in_flight"),
        field("waiting"),
        field("dead"),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, Typed};

    fn typed(words: &[&str]) -> Group {
        let words = [&["spile", "group"], words].concat();
        let Command::Group(group) = Typed::try_parse_from(words).unwrap().command else { panic!() };
        group
    }

    #[test]
    fn a_definition_is_what_was_typed() {
        let Group::Create(args) = typed(&[
            "create",
            "g",
            "--filter",
            "t/#",
            "--from",
            "a:5,b:9",
            "--backoff",
            "500ms..2m",
            "--settle-within",
            "10s",
            "--on-dead",
            "hold",
            "--max-attempts",
            "3",
        ]) else {
            panic!()
        };
        assert_eq!(
            created(&args).unwrap(),
            json!({
                "name": "g", "filter": "t/#", "from": "a:5,b:9", "max_attempts": 3,
                "backoff_min_ms": 500, "backoff_max_ms": 120_000, "settle_within_ms": 10_000,
                "on_dead": "hold", "behind": "refuse",
            })
        );
        for (from, want) in [
            ("start", json!("start")),
            ("end", json!("end")),
            ("1970-01-01T00:00:01Z", json!(1_000)),
        ] {
            let Group::Seek(args) = typed(&["seek", "g", "--to", from]) else { panic!() };
            assert_eq!(
                sought(&args).unwrap(),
                json!({ "name": "g", "to": want, "dry_run": false })
            );
        }
    }

    #[test]
    fn names_and_filters_are_checked_before_anyone_is_asked() {
        for words in
            [&["create", "a b", "--filter", "#"][..], &["create", "g", "--filter", "a/#/b"]]
        {
            let Group::Create(args) = typed(words) else { panic!() };
            assert_eq!(created(&args).unwrap_err().exit().number(), 2, "{words:?}");
        }
    }

    #[test]
    fn a_line_counts_members() {
        let told = line(&json!({
            "name": "g", "filter": "#", "lag": 5, "in_flight": 1, "waiting": 0, "dead": 2,
            "members": [{}, {}],
        }));
        assert!(told.ends_with("lag 5 in flight 1 waiting 0 dead 2 members 2"), "{told}");
    }
}
