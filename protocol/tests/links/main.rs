//! The two ends of a link against each other, in virtual time, under seeds: sessions that come and go from both sides over
//! a pipe that delays, splits at every byte and is cut. What one side says of a session arrives at the other for the same
//! session, once and in order, and a link that nobody disturbs never ends. `world` is what the fuzz target `session_link` runs too.
//!
//! `SPILE_SEED=N cargo test -p spile-protocol --test links` replays a seed, `SPILE_SEEDS=20000` runs more.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test may fail"
)]

#[path = "../pair/seed.rs"]
mod seed;
mod world;

use std::time::Duration;

use seed::{Seed, each_seed};
use spile_protocol::{code::Code, limits, session::link::Refusal};
use world::{Choose, World, attach};

const STEPS: usize = 600;

impl Choose for Seed {
    fn below(&mut self, n: usize) -> usize {
        Self::below(self, n)
    }
}

#[test]
fn what_is_said_of_a_session_arrives_there_once_and_in_order() {
    each_seed(60, |seed| {
        let mut world = World::new();
        for _ in 0..STEPS {
            world.step(seed);
        }
        world.calm();
        world.check();
        let heard: u64 = world.lives.iter().flat_map(|life| life.heard).sum();
        assert!(heard > 100, "little was said: {heard}");
    });
}

#[test]
fn a_link_that_is_cut_begins_anew_with_nobody_attached() {
    each_seed(60, |seed| {
        let mut world = World::new();
        for _ in 0..STEPS {
            world.step(seed);
            if seed.once_in(50) {
                world.cut(seed);
            }
        }
        world.calm();
        world.check();
    });
}

#[test]
fn who_says_goodbye_still_answers_what_is_in_flight() {
    each_seed(60, |seed| {
        let mut world = World::new();
        for _ in 0..STEPS / 4 {
            world.step(seed);
        }
        world.calm();
        world.leaving = true;
        if seed.once_in(2) {
            world.edge.goaway(Code::SHUTDOWN);
        } else {
            world.worker.goaway(Code::SHUTDOWN);
        }
        for _ in 0..STEPS / 4 {
            match seed.below(4) {
                0 => world.say_up(seed),
                1 => world.say_down(seed),
                2 => world.end_from_edge(seed),
                _ => world.end_from_worker(seed),
            }
            world.pass(seed.below(100));
            let (up, down) = (seed.below(600), seed.below(600));
            world.move_bytes(up, down);
        }
        world.calm();
        world.check();
        assert_eq!(world.edge.attach(&attach("late"), &mut Vec::new()), Err(Refusal::NotOpen));
    });
}

#[test]
fn a_number_is_one_session_until_both_sides_let_go_of_it() {
    each_seed(2, |seed| {
        let mut world = World::crowded();
        for _ in 0..2 * STEPS {
            world.step(seed);
        }
        world.calm();
        world.check();
        assert!(world.lives.len() > 20, "few numbers came free: {}", world.lives.len());
    });
}

#[test]
fn a_pipe_that_stands_still_ends_the_link_after_two_keep_alives() {
    each_seed(20, |seed| {
        let mut world = World::new();
        for _ in 0..STEPS / 4 {
            world.step(seed);
        }
        world.calm();
        // Both were heard within the last keep-alive: who is silent for longer was asked.
        let keep_alive = Duration::from_secs(u64::from(limits::LINK_KEEP_ALIVE_S));
        let (early, late) = (keep_alive, 2 * keep_alive + Duration::from_secs(1));
        let since = world.now;
        while world.now < since.after(late) {
            let over = world.edge.close_reason().or(world.worker.close_reason());
            assert!(over.is_none() || world.now > since.after(early), "{over:?} too early");
            world.pass(seed.below(900) + 100);
        }
        assert_eq!(world.edge.close_reason(), Some(Code::DEADLINE));
        assert_eq!(world.worker.close_reason(), Some(Code::DEADLINE));
    });
}

#[test]
fn any_sequence_of_operations_does_what_the_model_does() {
    each_seed(300, |seed| {
        let data: Vec<u8> = (0..seed.below(3000)).map(|_| seed.next().to_le_bytes()[3]).collect();
        let done = world::run(&data);
        assert!(done * 40 >= data.len(), "{done} operations of {} bytes", data.len());
    });
}

#[test]
fn the_seeds_for_fuzzing_are_sequences_that_live() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/session_link");
    let mut seeds = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let done = world::run(&std::fs::read(&path).unwrap());
        assert!(done >= 8, "{}: {done} operations", path.display());
        seeds += 1;
    }
    assert_eq!(seeds, 5);
}
