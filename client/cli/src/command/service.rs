//! `spile service`: who serves what.

use serde_json::{Value, json};

use crate::args::{Everywhere, ServiceCommand};
use crate::command::builtin::list;
use crate::connect::connect;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) async fn run(
    command: &ServiceCommand,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        ServiceCommand::Ls => ls(typed, output).await,
    }
}

async fn ls(typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    let client = connect(typed).await?;
    let each = |service: Value| output.result(&service, line);
    let whole = list(&client, typed, "$service", json!({}), each).await;
    client.close().await;
    output.flush()?;
    whole?.tell(output);
    Ok(())
}

fn line(service: &Value) -> String {
    let text =
        |value: &Value, name| value.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let number = |value: &Value, name| value.get(name).and_then(Value::as_u64).unwrap_or_default();
    let members = service.get("members").and_then(Value::as_array);
    let named = members.into_iter().flatten().map(|member| {
        let (in_flight, window) = (number(member, "in_flight"), number(member, "window"));
        format!("{}@{} {in_flight}/{window}", text(member, "principal"), text(member, "edge"))
    });
    let members: Vec<_> = named.collect();
    let members = if members.is_empty() { "nobody".to_owned() } else { members.join(", ") };
    format!(
        "{} breaker {}, {} calls, {} failed; {members}",
        text(service, "service"),
        text(service, "breaker"),
        number(service, "calls"),
        number(service, "failed"),
    )
}
