//! Random operations on a log with a simulated disk, its faults, kills and power cuts, and the oracle beside it.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use spile_log::disk::sim::{Choose, Fault, FaultKind, Random};
use spile_log::planted::Mistake;
use spile_log::{AppendError, KeepError, Lead, Log, Options, Position, Retain, SimDisk, State};

use crate::oracle::{Oracle, record};
use crate::streams::Streams;

/// One seed's life of a log.
pub(crate) struct Run {
    pub(crate) disk: SimDisk,
    pub(crate) log: Option<Log>,
    pub(crate) oracle: Oracle,
    pub(crate) streams: Streams,
    pub(crate) random: Random,
    pub(crate) generation: u64,
    pub(crate) options: Options,
    /// It was at work before each batch.
    pub(crate) lead: Lead,
    /// A fault was set: failures are no surprise.
    pub(crate) faulty: bool,
}

pub(crate) fn options(mistake: Option<Mistake>) -> Options {
    Options {
        segment_bytes: 16 << 10,
        queue_bytes: 128 << 10,
        reserve_bytes: 0,
        free_bytes_low: 0,
        recent_bytes: 4096,
        watermark_bytes: 8 << 10,
        inline: true,
        planted: mistake,
        ..Options::default()
    }
}

impl Run {
    pub(crate) fn new(seed: u64, mistake: Option<Mistake>) -> Result<Self, String> {
        let mut random = Random::new(seed);
        let prefill = random.choose(2) == 0;
        // What is not zero-filled takes space ahead, and follows another log in short slices.
        let lead = Lead::with_slices(2048);
        let bulk = (8 << 10, Some(lead.clone()));
        let (ahead_bytes, follows) = if prefill { (0, None) } else { bulk };
        let options = Options { prefill, ahead_bytes, follows, ..options(mistake) };
        let disk = SimDisk::new(random.next());
        let (log, oracle, streams) = (None, Oracle::default(), Streams::default());
        let mut run = Self {
            disk,
            log,
            oracle,
            streams,
            random,
            generation: 1,
            options,
            lead,
            faulty: false,
        };
        run.open()?;
        Ok(run)
    }

    pub(crate) fn roll(&mut self, n: u64) -> u64 {
        self.random.choose(n)
    }

    /// Opens the log and checks it. With a fault set or the power cut an error is no surprise: `log` stays empty.
    pub(crate) fn open(&mut self) -> Result<(), String> {
        self.oracle.stopped();
        match Log::open(Arc::new(self.disk.clone()), self.options.clone()) {
            Ok((log, recovered)) => {
                if !recovered.damages.is_empty() || recovered.waiting.is_some() {
                    return Err(format!("nothing rotted, yet there is damage: {recovered:?}"));
                }
                self.generation = recovered.generation;
                self.streams = Streams::rebuilt(&log);
                self.log = Some(log);
                self.check()
            }
            Err(_) if self.disk.is_off() || self.faulty => Ok(()),
            Err(error) => Err(format!("the log does not open: {error}")),
        }
    }

    pub(crate) fn check(&mut self) -> Result<(), String> {
        let max = [1, 5000, 1 << 20][usize::try_from(self.random.choose(3)).unwrap_or(0)];
        let Some(log) = &self.log else { return Ok(()) };
        let checked = self.oracle.check(log, max, &|_| false);
        match checked.and_then(|()| self.streams.check(log, &mut self.random)) {
            Err(_)
                if self.disk.is_off()
                    || self.faulty && log.durable().borrow().state == State::Poisoned =>
            {
                Ok(())
            }
            // A read that failed by a fault is an error, never a wrong answer.
            Err(text) if self.faulty && text.contains("the simulated disk failed") => Ok(()),
            other => other,
        }
    }

    /// Appends some records; says whether they were taken.
    pub(crate) fn append(&mut self, count: u64) -> bool {
        let Some(log) = &self.log else { return false };
        let mut ids = Vec::new();
        let mut streams = self.streams.clone();
        let mut position = log.next().get();
        let mut records = Vec::new();
        for _ in 0..count {
            let positions = if self.random.choose(4) == 0 {
                1 + u32::try_from(self.random.choose(5)).unwrap_or(0)
            } else {
                1
            };
            let bytes =
                [0, 20, 200, 700, 1024, 3000][usize::try_from(self.random.choose(6)).unwrap_or(0)];
            let id = self.oracle.id();
            ids.push((id, positions));
            let mut append = record(id, bytes, positions);
            if self.random.choose(3) == 0 {
                plant(&mut append.payload, id, log.next().get());
                append.payload_crc = crc32fast::hash(&append.payload);
            }
            streams.join(&mut append, position, &mut self.random);
            position += u64::from(positions);
            records.push(append);
        }
        let reserved = self.random.choose(4) == 0;
        let took = if reserved {
            log.append_reserved(self.generation, &mut records)
        } else {
            log.append(self.generation, &mut records)
        };
        match took {
            Ok(range) => {
                self.oracle.appended(range.start, &ids, self.generation);
                self.streams = streams;
                true
            }
            Err(AppendError::Stale { generation, .. }) => {
                self.generation = generation;
                self.streams = Streams::rebuilt(log);
                false
            }
            Err(_) => false,
        }
    }

    pub(crate) fn pump(&mut self) -> Result<(), String> {
        let Some(log) = &self.log else { return Ok(()) };
        self.lead.begins();
        self.lead.ends(std::time::Duration::ZERO);
        log.pump();
        let durable = *log.durable().borrow();
        self.oracle.heard(durable)?;
        if durable.state == State::Poisoned {
            if !self.faulty && !self.disk.is_off() {
                return Err(format!("poisoned without a fault: {:?}", log.health().poisoned));
            }
            self.log = None;
        }
        Ok(())
    }

    /// One random step.
    pub(crate) fn step(&mut self) -> Result<(), String> {
        match self.roll(24) {
            0..=5 => {
                let count = 1 + self.roll(4);
                self.append(count);
            }
            6..=13 => {
                let count = 1 + self.roll(3);
                self.append(count);
                self.pump()?;
            }
            14..=15 => self.pump()?,
            16..=17 => {
                if let Some(log) = &self.log {
                    log.tend();
                }
            }
            18 => self.check()?,
            19 => self.snapshot(),
            20 => self.retain(),
            21 => self.rewrite(),
            22 => {
                if let Some(log) = self.log.take() {
                    log.close();
                    self.oracle.heard(*log.durable().borrow())?;
                }
                self.open()?;
            }
            _ => self.kill()?,
        }
        if self.log.is_none() && !self.disk.is_off() {
            self.kill()?;
        }
        Ok(())
    }

    /// The process dies and starts again; faults that stay would keep it from starting.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        if self.disk.is_off() {
            return Ok(());
        }
        self.log = None;
        self.faulty = false;
        self.disk = self.disk.kill();
        self.open()
    }

    /// The power goes, and comes back: recovery is cut off as well, now and then.
    pub(crate) fn lose_power(&mut self) -> Result<(), String> {
        loop {
            self.log = None;
            self.faulty = false;
            self.disk = self.disk.power_loss(&mut self.random);
            if self.roll(3) == 0 {
                let at = self.disk.operations() + 1 + self.roll(40);
                self.disk.cut_power_at(at);
            }
            self.open()?;
            if self.log.is_some() && !self.disk.is_off() {
                self.disk.cut_power_at(u64::MAX);
                return Ok(());
            }
        }
    }

    fn snapshot(&mut self) {
        let Some(log) = &self.log else { return };
        let end = log.durable().borrow().end;
        if let Ok(mut writer) = log.snapshot(end)
            && writer.write(&end.get().to_le_bytes()).is_ok()
        {
            drop(writer.finish());
        }
    }

    fn retain(&mut self) {
        let Some(log) = self.log.clone() else { return };
        let salt = self.roll(4);
        let rule = Retain {
            before: log.next(),
            older_than_ms: Some(self.roll(200)),
            bytes_max: None,
            rewrite_percent: 60,
        };
        let mut asked = Vec::new();
        let wanted = &mut |record: &spile_log::Record| {
            let keep = salt > 0 && record.position.get() % 4 < salt;
            asked.push((record.position.get(), keep));
            keep
        };
        drop(log.retain(&rule, wanted));
        self.removable(&asked);
    }

    fn rewrite(&mut self) {
        let Some(log) = self.log.clone() else { return };
        let at = 1 + self.roll(log.next().get());
        let mut asked = Vec::new();
        let done: Result<Option<u64>, KeepError> = log.rewrite(Position::new(at), &mut |record| {
            let keep = record.position.get() % 3 != 0;
            asked.push((record.position.get(), keep));
            keep
        });
        drop(done);
        self.removable(&asked);
    }

    /// What was not wanted may be gone from now on; what was wanted may not.
    fn removable(&mut self, asked: &[(u64, bool)]) {
        asked.iter().filter(|(_, keep)| !keep).for_each(|(at, _)| self.oracle.removed(*at));
    }

    pub(crate) fn set_fault(&mut self, at: u64, kind: FaultKind, sticky: bool) {
        self.faulty = true;
        self.disk.set_fault(Some(Fault { at, sticky, kind }));
    }
}

/// A payload with what looks like a batch of ours and a record in it, at every alignment.
fn plant(payload: &mut Bytes, id: u64, next: u64) {
    let mut out = payload.to_vec();
    for shift in 0..8 {
        out.resize(out.len().next_multiple_of(8) + shift, 0xAA);
        fake(&mut out, id, next + u64::from(id.is_multiple_of(3)));
    }
    *payload = Bytes::from(out);
}

fn fake(out: &mut Vec<u8>, id: u64, base: u64) {
    let body = u64::MAX.to_le_bytes();
    let record = 36 + body.len();
    out.put_slice(b"SPB\x01");
    out.put_u32_le(u32::try_from(64 + record).unwrap_or(0).next_multiple_of(8));
    out.put_u64_le(base);
    out.put_u64_le(base + 1);
    out.put_u64_le(base);
    out.put_u64_le(0);
    out.put_u32_le(1);
    out.put_u32_le(0);
    out.put_u64_le(id);
    out.put_u64_le(0);
    out.put_u32_le(0);
    out.put_u32_le(crc32fast::hash(&body));
    out.put_u32_le(8);
    out.put_u16_le(0);
    out.put_u8(1);
    out.put_u8(0);
    out.put_u32_le(1);
    out.put_u64_le(base);
    out.put_u64_le(id);
    out.put_slice(&body);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// A whole life: steps, faults, cuts, and a bit that rots at the end.
pub(crate) fn life(seed: u64, mistake: Option<Mistake>) -> Result<(), String> {
    let mut run = Run::new(seed, mistake)?;
    let rounds = 1 + run.roll(3);
    for _ in 0..rounds {
        match run.roll(4) {
            0 => {
                let at = run.disk.operations() + 1 + run.roll(120);
                let kinds =
                    [FaultKind::Error, FaultKind::Full, FaultKind::Short, FaultKind::LostSync];
                let kind = kinds[usize::try_from(run.roll(4)).unwrap_or(0)];
                let sticky = run.roll(3) == 0;
                run.set_fault(at, kind, sticky);
            }
            _ => {
                let at = run.disk.operations() + 1 + run.roll(200);
                run.disk.cut_power_at(at);
            }
        }
        for _ in 0..20 + run.roll(60) {
            run.step()?;
            if run.disk.is_off() {
                break;
            }
        }
        run.lose_power()?;
    }
    if run.roll(3) == 0 { crate::rot::one_bit(&mut run) } else { Ok(()) }
}
