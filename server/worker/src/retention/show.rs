//! `$retention show`, for this worker's part. admin §14

use serde_json::{Value, json};
use spile_protocol::{code::Code, id::Role};

use super::Retention;
use crate::{
    calls::{self, Not, not},
    intake::Intake,
    registry::TENANT,
};

impl Retention {
    /// What is kept by rule, and what there is. Nothing is read for it.
    fn shown(&self) -> Value {
        let sealed = self.log.sealed();
        let worker = &self.config.name;
        let kept = json!({
            "worker": worker,
            "start": format!("{worker}:{}", self.log.start()),
            "oldest_ms": sealed.first().map(|segment| segment.first_ms),
            "log_bytes": self.log.health().segment_bytes,
            "snapshot": format!("{worker}:{}", self.newest()),
            "removed": self.counts.removed.get(),
            "rewritten": self.counts.rewritten.get(),
            "freed_bytes": self.counts.freed.get(),
        });
        json!({ "rules": self.config.retention, "kept": [kept] })
    }
}

impl Intake<'_> {
    pub(crate) fn show_retention(&self) -> Result<bytes::Bytes, Not> {
        let who = &self.desk.who;
        // admin §1.5
        if who.role != Role::Operator || who.tenant != TENANT {
            return Err(not(Code::FORBIDDEN, "retention is shown to operators of main"));
        }
        calls::json(&self.worker.retention.shown())
    }
}
