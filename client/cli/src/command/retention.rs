//! `spile retention show`: which events are kept for how long, and what each worker holds. admin §14

use serde_json::{Value, json};

use crate::args::{Everywhere, Retention};
use crate::command::answer::text;
use crate::command::builtin::ask;
use crate::connect::connect;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn run(
    retention: &Retention,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    match retention {
        Retention::Show => show(typed, output).await,
    }
}

async fn show(typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let client = connect(typed).await?;
    let shown = ask(&client, typed, "$retention", "show", &json!({})).await;
    client.close().await;
    output.result(&shown?, lines)
}

/// A line a rule, then a line a worker.
fn lines(shown: &Value) -> String {
    let list = |name| shown.get(name).and_then(Value::as_array).into_iter().flatten();
    let field = |of: &Value, name| of.get(name).map_or_else(|| "-".to_owned(), text);
    let rule = |rule: &Value| {
        let (filter, age) = (field(rule, "filter"), field(rule, "max_age_ms"));
        format!("{filter:<24} max_age_ms {age}, max_bytes {}", field(rule, "max_bytes"))
    };
    let worker = |kept: &Value| {
        let (worker, start) = (field(kept, "worker"), field(kept, "start"));
        let (bytes, snapshot) = (field(kept, "log_bytes"), field(kept, "snapshot"));
        format!("{worker:<24} from {start}, {bytes} bytes, snapshot {snapshot}")
    };
    let mut all: Vec<String> = list("rules").map(rule).collect();
    if all.is_empty() {
        all.push("no rules: everything is kept".to_owned());
    }
    all.extend(list("kept").map(worker));
    all.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_before_what_is_kept() {
        let shown = json!({
            "rules": [{ "filter": "t/#", "max_age_ms": 5, "max_bytes": null }],
            "kept": [{ "worker": "a", "start": "a:7", "log_bytes": 9, "snapshot": "a:8" }],
        });
        let text = lines(&shown);
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words[..5], ["t/#", "max_age_ms", "5,", "max_bytes", "-"]);
        assert_eq!(words[5..], ["a", "from", "a:7,", "9", "bytes,", "snapshot", "a:8"]);
        assert!(lines(&json!({ "rules": [], "kept": [] })).starts_with("no rules"));
    }
}
