//! Bits that turn over: each is found, and told as damage where it was proven synced, as a torn tail only where it was not.

use std::sync::Arc;

use spile_log::{Log, Position, State};

use crate::run::Run;

/// Closes the log, so that all of it is proven, and turns one bit of one segment file over.
pub fn one_bit(run: &mut Run) -> Result<(), String> {
    if let Some(log) = run.log.take() {
        log.close();
        run.oracle.heard(*log.durable().borrow())?;
    }
    let files: Vec<_> = run.disk.files().into_iter().filter(|(name, _)| name.ends_with(".segment")).collect();
    let (name, bytes) = &files[usize::try_from(run.roll(files.len() as u64)).unwrap_or(0)];
    let at = run.roll(bytes.len() as u64);
    let mask = 1_u8 << run.roll(8);
    run.disk.rot(name, at, mask);
    reopen(run).map_err(|text| format!("bit {mask:#x} of byte {at} of {} in {name}: {text}", bytes.len()))
}

/// Opens after rot: nothing wrong is read, what can't be read is named, and writing goes on once that was accepted.
pub fn reopen(run: &mut Run) -> Result<(), String> {
    run.oracle.stopped();
    let opened = Log::open(Arc::new(run.disk.clone()), run.options.clone());
    let (log, recovered) = opened.map_err(|error| error.to_string())?;
    run.oracle.check(&log, 4096, &|_| true)?;
    let named = log.health().damages;
    if let Some(range) = recovered.waiting {
        if log.durable().borrow().state != State::Damaged {
            return Err("damage waits, and the log does not".to_owned());
        }
        run.log = Some(log.clone());
        if run.append(1) {
            return Err("a log with damage takes records before it was accepted".to_owned());
        }
        log.accept(range).map_err(|error| error.to_string())?;
    }
    if log.durable().borrow().state != State::Running {
        return Err(format!("the log does not go on: {:?}", log.health()));
    }
    let lost = |at: u64| named.iter().any(|d| d.from <= Position::new(at) && Position::new(at) < d.to);
    run.oracle.check(&log, 4096, &lost).map_err(|text| format!("{text}; named was {named:?}"))?;
    run.log = Some(log);
    run.generation = 1;
    run.faulty = false;
    if !run.append(2) {
        return Err("nothing can be appended any more".to_owned());
    }
    run.pump()?;
    let log = run.log.take().ok_or("the log ended")?;
    run.oracle.check(&log, 4096, &lost)
}
