//! The tables of spec §17 against the machines: each row is read out of spec/protocol.md and done to the machine it is
//! about, and every kind of message that no row of a state names is UNEXPECTED there. A row that says another thing than the
//! code, or that nobody can do, is a failure that names its line.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a test may fail"
)]

mod device;
mod edge;
mod frames;
mod lane;
mod link;
mod table;

use table::{Case, Input, Spec, Want};

/// What came of an input.
#[derive(Debug, Default)]
pub struct Came {
    /// The messages that were said, by the names of their kinds.
    pub said: Vec<String>,
    /// The code of the FAULT (session) or GOAWAY among them.
    pub told: Option<u16>,
    /// Was something given to the machine's user, other than that it is over?
    pub handed: bool,
    /// Was any of what came read?
    pub read: bool,
}

/// A machine in one of its states.
pub trait World {
    fn state(&self) -> &'static str;
    fn act(&mut self, input: &Input) -> Came;
}

/// A machine's name in a table's column `end`, how it tells a code, and how it gets into a state for an input.
struct Machine<'a> {
    end: &'a str,
    /// How many rows there are, each counted for each of its states and inputs: one that is gone is missed.
    cases: usize,
    farewell: &'a str,
    begin: &'a dyn Fn(&str, &Input) -> Box<dyn World>,
}

impl Machine<'_> {
    /// What is wrong with a row, or nothing.
    fn wrong(&self, case: &Case, input: &Input, want: &Want) -> Option<String> {
        let mut world = (self.begin)(&case.state, input);
        if world.state() != case.state {
            return Some(format!("{}: the machine is {} before it", case.line, world.state()));
        }
        let came = world.act(input);
        let next = if want.next == "the same" { &case.state } else { &want.next };
        let same = came.said == want.said
            && (want.told.is_none() || came.told == want.told)
            && want.handed.is_none_or(|handed| handed == came.handed)
            && want.read.is_none_or(|read| read == came.read)
            && world.state() == *next;
        (!same).then(|| {
            format!(
                "{} {}: {}: {input:?}\n  wants {want:?}\n  is    {came:?}, then {}",
                self.end,
                case.state,
                case.line,
                world.state()
            )
        })
    }

    fn check(&self, spec: &Spec, section: &str) {
        let cases: Vec<_> = spec.cases(section, self.end);
        let mut wrong = Vec::new();
        for case in &cases {
            wrong.extend(self.wrong(case, &case.input, &case.want(self.farewell)));
        }
        let mut states: Vec<_> = cases.iter().map(|case| case.state.clone()).collect();
        states.sort();
        states.dedup();
        let mut unnamed = 0;
        for state in states {
            let here: Vec<_> = cases.iter().filter(|case| case.state == state).collect();
            let any = here.iter().find(|case| case.input.what == "any frame");
            for kind in spec.kinds() {
                let named = here.iter().any(|case| case.input.is_usual(kind));
                let input = Input::message(kind);
                let case = match any {
                    Some(any) => (*any).clone(),
                    None if named => continue,
                    None => Case::unexpected(&state, kind),
                };
                unnamed += 1;
                wrong.extend(self.wrong(&case, &input, &case.want(self.farewell)));
            }
        }
        assert!(wrong.is_empty(), "spec §{section}, {} rows:\n{}", wrong.len(), wrong.join("\n"));
        assert_eq!(cases.len(), self.cases, "spec §{section}: rows are gone, or new");
        assert!(unnamed > 60, "{unnamed} kinds that no row names");
    }
}

#[test]
fn the_client_does_what_its_table_says() {
    let machine = Machine { end: "", cases: 115, farewell: "GOAWAY", begin: &device::begin };
    machine.check(&Spec::read(), "17.1");
}

#[test]
fn the_servers_side_of_a_client_does_what_its_table_says() {
    let machine = Machine { end: "", cases: 155, farewell: "FAULT", begin: &edge::begin };
    machine.check(&Spec::read(), "17.3");
}

#[test]
fn the_edges_end_of_a_link_does_what_the_table_says() {
    let machine = Machine { end: "edge", cases: 61, farewell: "FAULT", begin: &link::edge };
    machine.check(&Spec::read(), "17.4");
}

#[test]
fn the_workers_end_of_a_link_does_what_the_table_says() {
    let machine = Machine { end: "worker", cases: 65, farewell: "FAULT", begin: &link::worker };
    machine.check(&Spec::read(), "17.4");
}

#[test]
fn the_kinds_are_those_of_their_table() {
    let spec = Spec::read();
    assert_eq!(spec.kinds().count(), 33);
    assert_eq!(spec.kind(6), "FAULT");
}
