//! Groups come, are sent elsewhere, and go: the event of the registry, and the GROUP record of each worker. record §9.1
//!
//! The invariant: a worker writes where a group begins on it before it delivers anything of that epoch.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use spile_protocol::{
    code::Code,
    crc,
    id::{Number, Run},
    message::{Extras, Group as Said, deliver::Kind},
};

use crate::{
    core::{Core, Put},
    desk::Identity,
    groups::{
        calls::{JSON, Not, not},
        definition::{Defined, Definition, Place, TOPIC},
        live::Stored,
        record::{GroupTail, prefix},
        view::Name,
    },
    record::{self, Names, kind},
    registry::{KEY, TENANT},
    worker::Worker,
};

/// Where a definition begins, as far as the log has to be asked. Not with the core locked.
pub(crate) fn look_up(worker: &Worker, definition: &Definition) -> Result<Option<u64>, Not> {
    match definition.from.on(worker.name()) {
        Some(Place::Time(time_ms)) => {
            let at = worker.position_at(time_ms);
            at.map(Some).map_err(|_| not(Code::CORRUPT, "the log can't be read"))
        }
        Some(Place::Start | Place::End | Place::At(_) | Place::Elsewhere) | None => Ok(None),
    }
}

/// The first position a group delivers on this worker.
fn start(worker: &Worker, core: &Core, defined: &Defined, at_time: Option<u64>) -> u64 {
    let kept = worker.log.start();
    let start = match defined.definition.from.on(worker.name()) {
        Some(Place::End) => core.next,
        Some(Place::At(position)) => position,
        Some(Place::Time(_)) => at_time.unwrap_or(core.next),
        // Positions of other workers: here it goes on where it is.
        Some(Place::Elsewhere) => {
            let group = core.groups.get(&name_of(defined));
            group.filter(|group| group.id == defined.id).map_or(kept, |group| group.floor)
        }
        Some(Place::Start) | None => kept,
    };
    start.clamp(kept, core.next.max(kept))
}

fn name_of(defined: &Defined) -> Name {
    (defined.tenant.clone(), defined.name.clone())
}

/// Puts a GROUP in the call.
fn put_group(
    worker: &Worker,
    core: &mut Core,
    now_ms: u64,
    defined: &Defined,
    at_time: Option<u64>,
) -> Result<GroupTail, Not> {
    let start = start(worker, core, defined, at_time);
    let Defined { id, epoch, removed, .. } = *defined;
    let tail = GroupTail { time_ms: now_ms, id, epoch, removed, start };
    let mut head = BytesMut::from(&*prefix(&defined.tenant, &defined.name));
    tail.write(&mut head);
    core.put_bare(kind::GROUP, head.freeze(), json(&defined.definition)?);
    Ok(tail)
}

fn json<T: serde::Serialize>(value: &T) -> Result<Bytes, Not> {
    let bytes = serde_json::to_vec(value).map_err(|why| not(Code::INTERNAL, why.to_string()))?;
    Ok(Bytes::from(bytes))
}

/// A definition of this worker's registry: its event, and what it means here, in one call. A `defined.id` of 0: it is new.
pub(crate) fn publish(
    worker: &Worker,
    core: &mut Core,
    (who, now_ms): (&Identity, u64),
    mut defined: Defined,
    at_time: Option<u64>,
) -> Result<(Stored, Defined), Not> {
    core.look();
    core.begin();
    if defined.id == 0 {
        defined.id = core.next;
    }
    let put = event(core, who, now_ms, &defined)?;
    let stream = core.tables.stream(TENANT, KEY).map_err(|code| not(code, "too many streams"))?;
    core.put_own(stream, put)
        .ok_or_else(|| not(Code::INTERNAL, "the registry's stream is gone"))?;
    let end = core.next;
    let tail = put_group(worker, core, now_ms, &defined, at_time)?;
    let gate = core.next;
    // There is room in reserve: a group must be removable when the disk is full.
    core.commit(true).map_err(|refusal| not(refusal.code, "the log does not take it"))?;
    core.registered.put_group(end, defined.clone());
    let definition = Arc::new(defined.definition.clone());
    core.groups.put_group(gate, name_of(&defined), tail, definition);
    Ok((Stored { gate, generation: core.generation }, defined))
}

fn event(core: &mut Core, who: &Identity, now_ms: u64, defined: &Defined) -> Result<Put, Not> {
    let names = Names {
        role: who.role,
        run: Run([0; 8]),
        trace_base: who.trace_base,
        tenant: TENANT,
        principal: &who.principal,
        key: KEY,
        topic: TOPIC,
        kind: Kind { content_type: JSON, ..Kind::default() },
    };
    let prefix = names.prefix();
    core.heads.extend_from_slice(&prefix);
    let written = record::put_event(&mut core.heads, now_ms, Number(0), &Extras::default());
    let head = core.heads.split().freeze();
    written.map_err(|full| not(Code::INTERNAL, full.to_string()))?;
    let payload = json(defined)?;
    let payload_crc = crc::of(&payload);
    Ok(Put { kind: kind::EVENT, positions: 1, time_ms: now_ms, head, payload, payload_crc })
}

/// A group as an edge tells it; `None` where its definition is of a later release, or none.
#[must_use]
pub fn heard(said: &Said<'_>) -> Option<Defined> {
    let definition = serde_json::from_slice(said.definition).ok()?;
    let (tenant, name) = (said.tenant.to_owned(), said.name.to_owned());
    Some(Defined {
        tenant,
        name,
        id: said.id,
        epoch: said.epoch,
        removed: said.removed,
        definition,
    })
}

impl Worker {
    /// Groups as the registry has them: those that are new here, or changed, are from now on as they are there. Gives back
    /// up to where the log must be durable before anybody is told. The same again changes nothing.
    pub fn define_groups(&self, groups: impl IntoIterator<Item = Defined>) -> Result<u64, Code> {
        let now_ms = self.config.clock.now().0;
        let mut gate = 0;
        for defined in groups {
            gate = gate.max(self.define(&defined, now_ms).map_err(|not| not.code)?);
        }
        Ok(gate)
    }

    fn define(&self, defined: &Defined, now_ms: u64) -> Result<u64, Not> {
        let name = name_of(defined);
        let at_time = look_up(self, &defined.definition)?;
        let mut core = self.core();
        core.look();
        let known = core.groups.newest(&name);
        // One that came and went unseen is nothing here.
        if known.is_some_and(|known| known >= defined.order())
            || (known.is_none() && defined.removed)
        {
            return Ok(core.next);
        }
        core.begin();
        let tail = put_group(self, &mut core, now_ms, defined, at_time)?;
        let gate = core.next;
        core.commit(true).map_err(|refusal| not(refusal.code, "the log does not take it"))?;
        core.groups.put_group(gate, name, tail, Arc::new(defined.definition.clone()));
        Ok(gate)
    }
}
