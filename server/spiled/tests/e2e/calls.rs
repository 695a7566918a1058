//! Calls by hand, and sessions that come with a device key.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::Value;
use spile_protocol::{
    id::RequestId,
    message::{Auth, Body, Call, Message, Proof},
    session::key::{self, Binding, Signed},
};

use super::{Gone, Raw, hello};

impl Raw {
    /// Calls, and waits for the answer: a reply as JSON, or the code of what it was refused with.
    pub fn call(&mut self, service: &str, method: &str, asked: &Value) -> Result<Value, String> {
        self.call_within(10_000, (service, method), asked)
    }

    /// The same with so much time.
    pub fn call_within(
        &mut self,
        remaining_ms: u32,
        (service, method): (&str, &str),
        asked: &Value,
    ) -> Result<Value, String> {
        let payload = serde_json::to_vec(asked).unwrap();
        let fields = Call {
            request: RequestId(7),
            service,
            method,
            remaining_ms,
            idempotent: false,
            content_type: "application/json",
            caller: "",
            trace: None,
        };
        self.send(&[Message::Call(Body { fields, payload: &payload })]).map_err(|_| "closed")?;
        self.next(|message| match message {
            Message::Reply(reply) if reply.fields.code.0 == 0 => {
                Ok(serde_json::from_slice(reply.payload).unwrap())
            }
            Message::Reply(reply) => Err(reply.fields.code.name().to_owned()),
            Message::Fault(fault) => Err(fault.code.name().to_owned()),
            other => Err(format!("{other:?}")),
        })
        .unwrap_or_else(|Gone| Err("closed".to_owned()))
    }

    /// Comes with a device key: what it hears first.
    pub fn with_key(
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        (device, key): (&str, &[u8; 32]),
        run: [u8; 8],
    ) -> std::io::Result<(Self, String)> {
        let mut raw = Self::connect(address, tls)?;
        let exported = raw
            .stream
            .conn
            .export_keying_material([0; 32], key::EXPORTER_LABEL, None)
            .map_err(std::io::Error::other)?;
        let signed = Signed { tenant: "main", device, binding: Binding::Tls(exported) };
        let proof = key::prove(key, &signed);
        let proof = Proof::DeviceKey { tenant: "main", device, nonce: [0; 16], proof };
        raw.send(&[hello(run), Message::Auth(Auth { proof })])?;
        let heard = raw.next(|message| match message {
            Message::Welcome(welcome) => format!("welcome {}", welcome.principal),
            Message::Fault(fault) => format!("fault {}", fault.code.name()),
            other => format!("{other:?}"),
        });
        let heard = heard.unwrap_or_else(|Gone| "closed".to_owned());
        Ok((raw, heard))
    }
}
