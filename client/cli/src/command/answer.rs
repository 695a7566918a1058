//! Answers of the services that are built in, as people read them: a line a field.

use serde_json::Value;

/// Every field on its line.
pub(crate) fn lines(item: &Value) -> String {
    let Some(fields) = item.as_object() else { return text(item) };
    let told = fields.iter().map(|(name, value)| format!("{name:<16} {}", text(value)));
    told.collect::<Vec<_>>().join("\n")
}

/// One value, without quotes where it is text.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}
