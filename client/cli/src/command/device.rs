//! `spile device add|ls|show|kick|debug|revoke`: who may come, and who is here.
//!
//! Secrets are made here and never travel: the server hears a device key's hash only, and signs no certificate.

mod credentials;

use serde_json::{Value, json};
use spile_protocol::{id, time::Millis};

use crate::args::{Device, DeviceAdd, Everywhere};
use crate::command::answer::{lines, text};
use crate::command::builtin::{ask, list};
use crate::confirm::confirm;
use crate::connect::{connect, effective};
use crate::failure::Failure;
use crate::output::Output;
use crate::value::moment;
use credentials::Credentials;

pub(crate) async fn run(
    device: &Device,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    match device {
        Device::Add(add) => self::add(add, typed, output).await,
        Device::Ls => {
            let client = connect(typed).await?;
            let outcome = list(&client, typed, "$device", json!({}), |item| {
                output.result(&dated(item), line)
            })
            .await;
            client.close().await;
            outcome.map(|whole| whole.tell(output))
        }
        Device::Show { id } => {
            let shown = call(typed, "show", &json!({ "id": checked(id)? })).await?;
            output.result(&dated(shown), whole)
        }
        Device::Quota { .. } => Err(later("device quota", "quotas")),
        Device::Debug { id, time } => {
            let for_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let debugged =
                call(typed, "debug", &json!({ "id": checked(id)?, "for_ms": for_ms })).await?;
            output.result(&dated(debugged), lines)
        }
        Device::Kick { id } => {
            let kicked = call(typed, "kick", &json!({ "id": checked(id)? })).await?;
            output.result(&kicked, lines)
        }
        Device::Revoke { id, yes } => {
            checked(id)?;
            confirm(*yes, &format!("revoke {id}: its sessions are cut and its credentials end"))?;
            let revoked = call(typed, "revoke", &json!({ "id": id })).await?;
            output.result(&revoked, lines)
        }
    }
}

/// What the commands' contract names and this release does not have.
fn later(what: &str, which: &str) -> Failure {
    Failure::usage(what, format!("{which} are not offered yet"))
        .remedy("see Known limits in CHANGELOG.md")
}

fn checked(id: &str) -> Result<&str, Failure> {
    id::name(id).map_err(|why| Failure::usage(format!("device {id:?}"), why))
}

async fn call(typed: &Everywhere, method: &str, request: &Value) -> Result<Value, Failure> {
    let client = connect(typed).await?;
    let outcome = ask(&client, typed, "$device", method, request).await;
    client.close().await;
    outcome
}

/// Files first, then the registry: a credential that is registered is one that somebody has.
async fn add(args: &DeviceAdd, typed: &Everywhere, output: &mut Output) -> Result<(), Failure> {
    checked(&args.id)?;
    if args.token.is_some() {
        let failure = later("device add", "tokens (JWT)");
        return Err(failure.remedy("use --device-key or --cert"));
    }
    let context = effective(typed)?;
    let made = Credentials::make(args, &context)?;
    let written = made.write(&args.out, &context)?;
    // What the credential says and where it is registered are one tenant.
    let typed = &Everywhere { tenant: Some(made.tenant().to_owned()), ..typed.clone() };
    let registered = match call(typed, "add", &made.registration(args)).await {
        Ok(registered) => registered,
        Err(failure) => {
            written.remove();
            return Err(failure);
        }
    };
    let mut result = json!({
        "device": args.id, "role": args.role, "tenant": made.tenant(), "context": written.context(),
        "files": written.files(),
    });
    if let (Some(fields), Value::Object(told)) = (result.as_object_mut(), registered) {
        for (name, value) in told {
            fields.entry(name).or_insert(value);
        }
    }
    output.result(&result, |result| {
        let context = result.get("context").and_then(Value::as_str).unwrap_or_default();
        format!("{}\ntry: spile publish telemetry/temp 21.5 --context {context}", lines(result))
    })
}

/// A device: a line a field, and below it a line a session and a line a lane.
fn whole(shown: &Value) -> String {
    let mut fields = shown.clone();
    let mut text = Vec::new();
    for (list, item) in [("sessions", "session"), ("lanes", "lane")] {
        let taken = fields.as_object_mut().and_then(|fields| fields.remove(list));
        let items = taken.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        text.extend(items.iter().map(|one| format!("{item:<16} {}", beside(one))));
    }
    text.insert(0, lines(&fields));
    text.join("\n")
}

/// Each time in milliseconds also as people and scripts read times: `last_seen` beside `last_seen_ms`.
fn dated(mut item: Value) -> Value {
    if let Some(fault) = item.get_mut("last_fault") {
        *fault = dated(fault.take());
    }
    let Some(fields) = item.as_object_mut() else { return item };
    for name in ["last_seen", "throttled_until", "until", "time"] {
        let Some(millis) = fields.get(&format!("{name}_ms")) else { continue };
        let text =
            millis.as_u64().map_or(Value::Null, |millis| moment::show(Millis(millis)).into());
        fields.insert(name.to_owned(), text);
    }
    item
}

/// All fields on one line.
fn beside(item: &Value) -> String {
    let fields = item.as_object().into_iter().flatten();
    fields.map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(" ")
}

fn line(item: &Value) -> String {
    let field = |name: &str| item.get(name).map_or_else(|| "-".to_owned(), text);
    format!(
        "{:<24} {:<9} {:<12} {:<8} {:<25} {:<12} {}",
        field("device"),
        field("role"),
        field("tenant"),
        field("state"),
        field("last_seen"),
        field("edge"),
        field("sessions")
    )
}
