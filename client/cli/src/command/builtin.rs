//! Calls to the services that are built in (`$status`, `$device`): JSON there and back. spec/admin.md.

use serde_json::Value;
use spile_client::Client;

use crate::args::Everywhere;
use crate::connect::within;
use crate::failure::Failure;
use crate::local_code;
use crate::output::Output;

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

/// Whether a list has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    /// It has.
    All,
    /// A worker or an edge was away: what the others have.
    Part,
}

impl Whole {
    /// Says so where it has not.
    pub(crate) fn tell(self, output: &Output) {
        if self == Self::Part {
            output.notice("a worker was away: this is what the others have");
        }
    }
}

/// All items of a list, page after page; `request` is an object with what else is asked. admin §1.7
pub(crate) async fn list(
    client: &Client,
    typed: &Everywhere,
    service: &str,
    request: Value,
    mut each: impl FnMut(Value) -> Result<(), Failure>,
) -> Result<Whole, Failure> {
    let (mut request, mut whole) = (request, Whole::All);
    let mut after = String::new();
    loop {
        if let Some(fields) = request.as_object_mut() {
            fields.insert("after".to_owned(), Value::from(after.as_str()));
        }
        let answer = ask(client, typed, service, "ls", &request).await?;
        if answer.get("partial").and_then(Value::as_bool) == Some(true) {
            whole = Whole::Part;
        }
        let next = answer.get("next").and_then(Value::as_str).unwrap_or_default().to_owned();
        items(answer).into_iter().try_for_each(&mut each)?;
        // A server that names the same page again would never come to an end.
        if next.is_empty() || next == after {
            return Ok(whole);
        }
        after = next;
    }
}

/// The items of an answer that lists: an array, or the one field that is an array.
fn items(answer: Value) -> Vec<Value> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_an_array_or_the_one_field_that_is() {
        let items_of = |answer| items(answer).len();
        assert_eq!(items_of(json!([1, 2])), 2);
        assert_eq!(items_of(json!({ "devices": [1, 2, 3], "next": "c", "partial": false })), 3);
        assert_eq!(items_of(json!({ "next": "c" })), 0);
    }
}
