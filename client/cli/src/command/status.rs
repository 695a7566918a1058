//! `spile status`: what the server says of itself, as it says it.

use serde_json::Value;

use crate::args::Everywhere;
use crate::command::builtin;
use crate::connect::connect;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn run(typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let client = connect(typed).await?;
    let outcome = builtin::ask(&client, typed, "$status", "get", &Value::Null).await;
    client.close().await;
    output.result(&outcome?, |status| {
        let mut lines = Vec::new();
        flatten("", status, &mut lines);
        lines.join("\n")
    })
}

/// One line a value, its way down before it.
fn flatten(way: &str, value: &Value, lines: &mut Vec<String>) {
    let below = |name: &str| if way.is_empty() { name.to_owned() } else { format!("{way}.{name}") };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&below(name), value, lines);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                let named = value.get("name").and_then(Value::as_str).map(str::to_owned);
                flatten(&below(&named.unwrap_or_else(|| index.to_string())), value, lines);
            }
        }
        Value::String(text) => lines.push(format!("{way:<28} {text}")),
        Value::Null => lines.push(format!("{way:<28} -")),
        Value::Bool(_) | Value::Number(_) => lines.push(format!("{way:<28} {value}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_value_has_its_line() {
        let mut lines = Vec::new();
        let status = json!({ "ok": true, "workers": [{ "name": "a", "lag": 5 }, { "lag": null }] });
        flatten("", &status, &mut lines);
        let words: Vec<Vec<&str>> =
            lines.iter().map(|line| line.split_whitespace().collect()).collect();
        assert!(words.contains(&vec!["ok", "true"]));
        assert!(words.contains(&vec!["workers.a.lag", "5"]));
        assert!(words.contains(&vec!["workers.1.lag", "-"]));
    }
}
