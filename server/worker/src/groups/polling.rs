//! A session's part in groups: its members, what it asked of groups, and a timer for what is due.
//!
//! All of it happens when the session is polled, never within an intake: the reading state is locked before the core.

use std::{collections::VecDeque, pin::Pin, task::Context, time::Duration};

use spile_protocol::id::{LaneId, SubscriptionId};
use tokio::time::{Sleep, sleep};

use crate::{
    answers::{Answers, Sink, What},
    desk::Identity,
    groups::{
        calls::Asked,
        jobs::Job,
        member::{Member, Settled, Turn},
    },
    said::Said,
    worker::Worker,
};

/// The least a timer waits: what is due and can't be done for want of the disk is looked at again then.
const LEAST_MS: u64 = 5;

/// A session's part.
#[derive(Default)]
pub(crate) struct Part {
    pub(crate) members: Vec<Member>,
    /// Calls that were not looked at.
    pub(crate) asked: VecDeque<Asked>,
    /// Calls that take more than one look.
    pub(crate) jobs: Vec<Job>,
    timer: Option<(u64, Pin<Box<Sleep>>)>,
}

impl Part {
    pub(crate) fn member(&mut self, id: SubscriptionId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id() == id)
    }

    /// Does what there is to do; says whether there is more.
    pub(crate) fn poll(
        &mut self,
        worker: &Worker,
        (who, generation): (&Identity, u64),
        (end, room): (u64, usize),
        (answers, said): (&mut Answers, &mut usize),
        sink: &mut Sink<'_>,
    ) -> bool {
        if self.is_idle() {
            return false;
        }
        let now_ms = worker.config.clock.now().0;
        let turn = Turn { worker, who, now_ms, end, room };
        let mut more = self.answer(turn, generation, answers);
        let mut settled = Vec::new();
        for member in &mut self.members {
            more |= member.poll(turn, &mut settled, said, sink);
        }
        for Settled { stored, said } in settled {
            // The log was cut back between: whether it was before or behind the record is not worth telling apart.
            let other = stored.gate != 0 && stored.generation != generation;
            let (gate, said) = if other { (0, said.into_lost()) } else { (stored.gate, said) };
            answers.push(gate, LaneId(0), What::Said(Box::new(said)));
        }
        self.members.retain(|member| {
            let Some(last) = member.over() else { return true };
            member.leave(worker, now_ms);
            answers.push(0, LaneId(0), What::Said(Box::new(last.clone())));
            false
        });
        // Who hands out first changes, so that one membership does not starve the others.
        if more && !self.members.is_empty() {
            self.members.rotate_left(1);
        }
        more
    }

    /// Calls: those that can be answered now are.
    fn answer(&mut self, turn: Turn<'_>, generation: u64, answers: &mut Answers) -> bool {
        while let Some(asked) = self.asked.pop_front() {
            match asked.answer(turn) {
                Ok((stored, said)) => push(answers, generation, stored, said),
                Err(job) => self.jobs.push(*job),
            }
        }
        self.jobs.retain_mut(|job| match job.step(turn) {
            None => true,
            Some((stored, said)) => {
                push(answers, generation, stored, said);
                false
            }
        });
        !self.jobs.is_empty()
    }

    fn is_idle(&self) -> bool {
        self.members.is_empty() && self.asked.is_empty() && self.jobs.is_empty()
    }

    /// Is there anything a poll would do, when the log is durable up to `end`?
    pub(crate) fn ready(&self, worker: &Worker, end: u64) -> bool {
        !self.asked.is_empty()
            || !self.jobs.is_empty()
            || (!self.members.is_empty() && {
                let has_room = worker.has_room();
                self.members.iter().any(|member| member.ready(end, has_room))
            })
    }

    pub(crate) fn waits_for_disk(&self) -> bool {
        self.members.iter().any(Member::waits_for_disk)
    }

    /// Is something due? Wakes the task when it is.
    pub(crate) fn poll_due(&mut self, worker: &Worker, cx: &mut Context<'_>) -> bool {
        let due_ms = self.members.iter().map(Member::due_ms).min().unwrap_or(u64::MAX);
        if due_ms == u64::MAX {
            self.timer = None;
            return false;
        }
        if self.timer.as_ref().is_none_or(|(of, _)| *of != due_ms) {
            let wait_ms = due_ms.saturating_sub(worker.config.clock.now().0).max(LEAST_MS);
            self.timer = Some((due_ms, Box::pin(sleep(Duration::from_millis(wait_ms)))));
        }
        let Some((_, timer)) = &mut self.timer else { return false };
        let late = timer.as_mut().poll(cx).is_ready();
        if late {
            self.timer = None;
        }
        late
    }

    /// The session is over: what its members had goes to others.
    pub(crate) fn leave(&mut self, worker: &Worker) {
        let now_ms = worker.config.clock.now().0;
        self.members.drain(..).for_each(|member| member.leave(worker, now_ms));
    }
}

fn push(answers: &mut Answers, generation: u64, stored: Option<super::live::Stored>, said: Said) {
    let other = stored.is_some_and(|stored| stored.generation != generation);
    let said = if other { said.into_lost() } else { said };
    let gate = stored.filter(|_| !other).map_or(0, |stored| stored.gate);
    answers.push(gate, LaneId(0), What::Said(Box::new(said)));
}
