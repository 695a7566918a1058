//! Calls to the services that are built in (`$status`, `$device`): JSON there and back. spec/admin.md.

use serde_json::Value;
use spile_client::Client;

use crate::args::Everywhere;
use crate::connect::within;
use crate::failure::Failure;
use crate::local_code;

/// Asks, and reads the answer.
pub(crate) async fn ask(
    client: &Client,
    typed: &Everywhere,
    service: &str,
    method: &str,
    request: &Value,
) -> Result<Value, Failure> {
    let what = format!("call {service} {method}");
    let payload = if request.is_null() { Vec::new() } else { request.to_string().into_bytes() };
    let reply =
        within(typed.timeout, &what, client.call(service, method, payload, typed.timeout)).await?;
    serde_json::from_slice(&reply.payload)
        .map_err(|why| Failure::local(&local_code::ANSWER, what, why))
}

/// The items of an answer that lists: an array, or the one field that is an array.
pub(crate) fn items(answer: Value) -> Vec<Value> {
    match answer {
        Value::Array(items) => items,
        Value::Object(fields) => {
            let list = fields.into_iter().find_map(|(_, value)| match value {
                Value::Array(items) => Some(items),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Object(_) => None,
            });
            list.unwrap_or_default()
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => vec![other],
    }
}
