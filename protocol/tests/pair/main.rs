//! Two sessions against each other, in virtual time, under seeds: what was acknowledged arrives exactly once and in
//! order, nothing new is taken for old, and nothing stands still.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test may fail"
)]

mod both;
mod client;
mod port;
mod seed;
mod upload;
mod worker;
mod world;

use seed::{Seed, each_seed};
use spile_protocol::session::Amount;
use world::{Rules, World};

const CALM: Rules = Rules {
    clients: 1,
    edges: 1,
    spools: false,
    reboots: false,
    flash: true,
    cuts: false,
    links: false,
    crashes: false,
    credit: Amount { events: 1024, bytes: 1 << 20 },
};

fn small_credit(seed: &mut Seed) -> Amount {
    let small = |seed: &mut Seed, most| u32::try_from(seed.below(most)).unwrap();
    Amount { events: small(seed, 40), bytes: small(seed, 2000) }
}

fn live(seed: &mut Seed, rules: Rules) {
    World::new(seed, rules).live(seed, 400);
}

#[test]
fn a_calm_day() {
    each_seed(25, |seed| live(seed, CALM));
}

#[test]
fn a_small_credit_never_stands_still() {
    each_seed(50, |seed| {
        let credit = small_credit(seed);
        live(seed, Rules { credit, ..CALM });
    });
}

#[test]
fn connections_that_are_cut_and_half_cut_are_taken_over() {
    each_seed(100, |seed| {
        let credit = small_credit(seed);
        live(seed, Rules { cuts: true, edges: 2, credit, ..CALM });
    });
}

#[test]
fn a_worker_that_goes_away_and_forgets_what_was_not_synced() {
    each_seed(100, |seed| live(seed, Rules { cuts: true, links: true, crashes: true, ..CALM }));
}

#[test]
fn reboots_with_flash() {
    each_seed(100, |seed| live(seed, Rules { reboots: true, cuts: true, crashes: true, ..CALM }));
}

#[test]
fn reboots_without_flash() {
    each_seed(100, |seed| {
        live(seed, Rules { reboots: true, flash: false, cuts: true, crashes: true, ..CALM })
    });
}

#[test]
fn two_processes_with_one_credential() {
    each_seed(50, |seed| live(seed, Rules { clients: 2, cuts: true, reboots: true, ..CALM }));
}

#[test]
fn a_lane_that_comes_back_by_another_edge() {
    each_seed(150, |seed| {
        let credit = small_credit(seed);
        live(
            seed,
            Rules {
                edges: 3,
                spools: true,
                cuts: true,
                links: true,
                reboots: true,
                crashes: true,
                credit,
                ..CALM
            },
        );
    });
}

#[test]
fn both_ways_at_once_through_narrow_pipes() {
    each_seed(100, both::run);
}

#[test]
fn an_upload_over_cuts_is_what_was_sent() {
    each_seed(50, upload::run);
}
