//! `spile trace`: everything one trace id touched, in order.

use serde::Serialize;
use serde_json::{Value, json};
use spile_protocol::time::Millis;

use crate::args::{Everywhere, TraceArgs};
use crate::command::builtin::ask;
use crate::connect::connect;
use crate::failure::Failure;
use crate::output::Output;
use crate::value::moment;

/// One step, as scripts read it.
#[derive(Serialize)]
struct Step {
    time: String,
    #[serde(rename = "where")]
    place: String,
    what: String,
}

pub(crate) async fn run(
    args: &TraceArgs,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    let digits = args.id.len() == 32 && args.id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !digits {
        return Err(Failure::usage("trace", format!("{:?} is not 32 hexadecimal digits", args.id)));
    }
    let client = connect(typed).await?;
    let request = json!({ "id": args.id.to_ascii_lowercase() });
    let answer = ask(&client, typed, "$trace", "get", &request).await;
    client.close().await;
    let answer = answer?;
    let steps = answer.get("steps").and_then(Value::as_array);
    for step in steps.into_iter().flatten() {
        let text = |name| step.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let time_ms = step.get("time_ms").and_then(Value::as_u64).unwrap_or_default();
        let (time, place, what) = (moment::show(Millis(time_ms)), text("where"), text("what"));
        output.result(&Step { time, place, what }, |step| {
            format!("{} {} {}", step.time, step.place, step.what)
        })?;
    }
    output.flush()?;
    if answer.get("partial").and_then(Value::as_bool) == Some(true) {
        output.notice(
            "there may be more: a worker was away, or the log is longer than was looked through",
        );
    }
    Ok(())
}
