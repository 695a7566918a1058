//! `$upload cancel`, `$blob show` and `$blob rm`. admin §8
//!
//! The invariant: what was freed is answered when that is durable.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spile_protocol::{code::Code, id::RequestId, time::Millis};

use crate::{
    calls::{Not, json, not, reply},
    intake::Intake,
    uploads::{
        form::{Blake3, Freed, Metadata, UploadId},
        principal_of,
        view::tenant_of,
    },
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    id: String,
    blob: String,
    tenant: Option<String>,
}

#[derive(Serialize)]
struct Shown<'a> {
    blob: &'a str,
    key: &'a str,
    name: &'a str,
    revision: u64,
    size: u64,
    blake3: Blake3,
    #[serde(rename = "type")]
    content_type: &'a str,
    meta: &'a Metadata,
    device: &'a str,
    time_ms: u64,
}

#[derive(Serialize)]
struct Cancelled<'a> {
    upload: &'a str,
}

#[derive(Serialize)]
struct Removed<'a> {
    blob: &'a str,
    freed_bytes: u64,
}

impl Intake<'_> {
    /// A call of `$upload` or `$blob`; `None` where no such method is offered.
    pub(crate) fn files_call(
        &mut self,
        now: Millis,
        request: RequestId,
        (service, method): (&str, &str),
        payload: &Bytes,
    ) -> Option<()> {
        let answer = match (service, method) {
            ("$upload", "cancel") => self.asked(payload).and_then(|it| self.cancel(now, &it)),
            ("$blob", "show") => self.asked(payload).and_then(|it| self.show_blob(&it)),
            ("$blob", "rm") => self.asked(payload).and_then(|it| self.remove_blob(now, &it)),
            _ => return None,
        };
        let gate = self.core.next;
        self.desk.said(gate, reply(request, answer));
        Some(())
    }

    fn asked(&self, payload: &Bytes) -> Result<Asked, Not> {
        let payload = if payload.is_empty() { &b"{}"[..] } else { payload };
        let mut asked: Asked = serde_json::from_slice(payload)
            .map_err(|why| not(Code::INVALID, format!("the request: {why}")))?;
        let own = self.desk.who.tenant.as_str();
        // admin §1.5: only who stands in `main` may name another.
        if own != crate::registry::TENANT && asked.tenant.as_deref().is_some_and(|it| it != own) {
            return Err(not(Code::FORBIDDEN, "the tenant is another's"));
        }
        asked.tenant.get_or_insert_with(|| own.to_owned());
        Ok(asked)
    }

    fn cancel(&mut self, now: Millis, asked: &Asked) -> Result<Bytes, Not> {
        let id = UploadId::parse(&asked.id)
            .ok_or_else(|| not(Code::INVALID, "id: an upload's has 32 hexadecimal digits"))?;
        let tenant = asked.tenant.as_deref().unwrap_or_default();
        let mut open = self.core.uploads.view.open.iter();
        let at = open.find(|((who, known), _)| *known == id && tenant_of(who) == tenant);
        let Some((_, &at)) = at else {
            return Err(not(Code::NOT_FOUND, format!("no upload {} is open", asked.id)));
        };
        let upload = self.core.uploads.view.uploads.get_mut(&at);
        let writer = upload.and_then(|upload| upload.work.writer.take());
        self.free(now, Freed::upload(at, Code(0))).map_err(not_freed)?;
        self.core.uploads.counted.aborted += 1;
        // Who writes it hears it behind the record.
        if let Some(writer) = writer {
            writer.end(self.core.next, Code::NOT_FOUND);
        }
        json(&Cancelled { upload: &asked.id })
    }

    fn show_blob(&mut self, asked: &Asked) -> Result<Bytes, Not> {
        let tenant = asked.tenant.as_deref().unwrap_or_default();
        let (_, blob) =
            self.core.uploads.find(tenant, &asked.blob).ok_or_else(|| unknown(asked))?;
        json(&Shown {
            blob: &asked.blob,
            key: &blob.key,
            name: &blob.name,
            revision: blob.revision,
            size: blob.size,
            blake3: blob.blake3,
            content_type: &blob.content_type,
            meta: &blob.meta,
            device: principal_of(&blob.who),
            time_ms: blob.time_ms,
        })
    }

    fn remove_blob(&mut self, now: Millis, asked: &Asked) -> Result<Bytes, Not> {
        let tenant = asked.tenant.as_deref().unwrap_or_default();
        let (at, blob) =
            self.core.uploads.find(tenant, &asked.blob).ok_or_else(|| unknown(asked))?;
        let freed_bytes = blob.size;
        self.free(now, Freed::blob(at)).map_err(not_freed)?;
        json(&Removed { blob: &asked.blob, freed_bytes })
    }
}

fn not_freed(code: Code) -> Not {
    not(code, "the log does not take it")
}

fn unknown(asked: &Asked) -> Not {
    not(Code::NOT_FOUND, format!("there is no blob {:?}", asked.blob))
}
