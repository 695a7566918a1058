//! Clients, edges, a worker, and pipes that delay, split and cut, in virtual time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use spile_protocol::{
    code::Code,
    id::Run,
    session::{
        Amount, Limited, Transmit,
        device::Channel,
        edge::{Admission, Config, Input, Session},
    },
    time::{Instant, Millis},
};

use crate::{
    client::Client,
    port::{Edge, Port},
    seed::Seed,
    worker::{Body, Worker},
};

/// One direction of a connection: what is on its way, and what has arrived.
#[derive(Default)]
struct Pipe {
    way: VecDeque<(Instant, Vec<u8>)>,
    arrived: Vec<u8>,
}

impl Pipe {
    /// Sends bytes in pieces, each with a delay of its own, in order.
    fn send(&mut self, now: Instant, bytes: &[u8], seed: &mut Seed) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((1 + seed.below(200)).min(rest.len()));
            rest = behind;
            let after = now.after(Duration::from_millis(u64::try_from(seed.below(30)).unwrap()));
            let last = self.way.back().map_or(now, |(at, _)| *at);
            self.way.push_back((after.max(last), piece.to_vec()));
        }
    }

    /// What has arrived; at most `most` pieces at once.
    fn arrive(&mut self, now: Instant) -> bool {
        let before = self.arrived.len();
        while let Some((_, piece)) = self.way.pop_front_if(|(at, _)| *at <= now) {
            self.arrived.extend(piece);
        }
        self.arrived.len() > before
    }
}

/// A connection as its two ends see it.
struct Connection {
    client: usize,
    edge: usize,
    session: Session,
    port: Option<Port>,
    up: Pipe,
    down: Pipe,
    /// Does the client's end still stand?
    client_end: bool,
    edge_end: bool,
}

/// What a world is made of.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub clients: usize,
    pub edges: usize,
    pub spools: bool,
    pub reboots: bool,
    pub flash: bool,
    pub cuts: bool,
    pub links: bool,
    pub crashes: bool,
    pub credit: Amount,
}

pub struct World {
    pub rules: Rules,
    pub now: Instant,
    pub worker: Worker,
    pub edges: Vec<Edge>,
    pub clients: Vec<Client>,
    connections: Vec<Connection>,
    next_id: u64,
    runs: u64,
    calm: bool,
}

const OWN: &str = "pump-7";

fn run(number: u64) -> Run {
    Run(number.to_be_bytes())
}

impl World {
    pub fn new(seed: &mut Seed, rules: Rules) -> Self {
        let edges = (0..rules.edges)
            .map(|_| Edge { link: true, spools: rules.spools, ..Edge::default() })
            .collect();
        let mut world = Self {
            rules,
            now: Instant(1_000_000),
            worker: Worker::default(),
            edges,
            clients: Vec::new(),
            connections: Vec::new(),
            next_id: 1,
            runs: 0,
            calm: false,
        };
        for _ in 0..rules.clients {
            let run = world.new_run();
            world.clients.push(Client::new(seed, OWN, run));
        }
        world
    }

    fn new_run(&mut self) -> Run {
        self.runs += 1;
        run(self.runs)
    }

    /// So many steps with everything that may go wrong, then calm until everything has ended.
    pub fn live(&mut self, seed: &mut Seed, steps: usize) {
        for _ in 0..steps {
            self.step(seed);
        }
        self.calm = true;
        for edge in &mut self.edges {
            edge.link = true;
        }
        let deadline = self.now.after(Duration::from_secs(300));
        while !self.is_done() {
            assert!(self.now < deadline, "it stands still: {}", self.stuck());
            self.step(seed);
        }
        self.check_the_end();
    }

    fn is_done(&self) -> bool {
        self.clients.iter().all(|client| client.machine.is_settled())
            && self.worker.durable == self.worker.log.len()
            && !self.clients.iter().any(|client| client.needs_run)
            && self.edges.iter().all(|edge| edge.spool.is_empty())
    }

    fn stuck(&self) -> String {
        let machine = |client: &Client| format!("{:?}", client.machine.in_flight());
        self.clients.iter().map(machine).collect::<Vec<_>>().join(", ")
    }

    fn step(&mut self, seed: &mut Seed) {
        self.now =
            self.now.after(Duration::from_micros(u64::try_from(1 + seed.below(10_000)).unwrap()));
        if !self.calm {
            self.disturb(seed);
            for client in 0..self.clients.len() {
                for _ in 0..seed.below(4) {
                    self.clients[client].publish(self.now, seed, &mut self.next_id);
                }
            }
        }
        self.connect(seed);
        for at in 0..self.connections.len() {
            self.edge_turn(at, seed);
            self.client_turn(at, seed);
        }
        if seed.once_in(3) {
            self.worker.sync();
        }
        for edge in self.edges.iter_mut().filter(|edge| edge.link) {
            edge.spool.forward(&mut self.worker);
        }
        self.connections.retain(|connection| connection.client_end || connection.edge_end);
        self.check_claims();
    }

    fn disturb(&mut self, seed: &mut Seed) {
        let Rules { cuts, reboots, flash, links, crashes, .. } = self.rules;
        if cuts && seed.once_in(60) {
            self.cut(seed);
        }
        if reboots && seed.once_in(120) {
            let (client, run) = (seed.below(self.clients.len()), self.new_run());
            self.cut_client(client);
            self.clients[client].reboot(self.now, flash, run);
        }
        if links && seed.once_in(80) {
            let edge = seed.below(self.edges.len());
            self.edges[edge].link = !self.edges[edge].link;
            if !self.edges[edge].link {
                self.lose_link(edge);
            }
        }
        if crashes && seed.once_in(150) {
            self.worker.crash();
            for edge in 0..self.edges.len() {
                self.lose_link(edge);
            }
        }
    }

    fn lose_link(&mut self, edge: usize) {
        for connection in self.connections.iter_mut().filter(|connection| connection.edge == edge) {
            if let Some(port) = &mut connection.port {
                port.link_lost(&mut connection.session);
            }
        }
    }

    /// One end or both notice that a connection is gone; what is on its way still arrives at the other.
    fn cut(&mut self, seed: &mut Seed) {
        if self.connections.is_empty() {
            return;
        }
        let at = seed.below(self.connections.len());
        let connection = &mut self.connections[at];
        let client = connection.client;
        match seed.below(3) {
            0 => connection.edge_end = false,
            1 => {}
            _ => (connection.edge_end, connection.up.way) = (false, VecDeque::new()),
        }
        if connection.client_end {
            self.cut_client(client);
        }
    }

    fn cut_client(&mut self, client: usize) {
        for connection in
            self.connections.iter_mut().filter(|connection| connection.client == client)
        {
            connection.client_end = false;
        }
        self.clients[client].machine.disconnected();
    }

    fn connect(&mut self, seed: &mut Seed) {
        for client in 0..self.clients.len() {
            let connected = self
                .connections
                .iter()
                .any(|connection| connection.client == client && connection.client_end);
            if connected || !(self.calm || seed.once_in(4)) {
                continue;
            }
            if self.clients[client].needs_run {
                let run = self.new_run();
                self.clients[client].renew(run);
            }
            let edge = seed.below(self.edges.len());
            let config = Config { credit: self.rules.credit, ..Config::default() };
            self.connections.push(Connection {
                client,
                edge,
                session: Session::new(self.now, config),
                port: None,
                up: Pipe::default(),
                down: Pipe::default(),
                client_end: true,
                edge_end: true,
            });
            self.clients[client].machine.connected(self.now, Channel::Tls(None), [7; 16]);
        }
    }

    fn edge_turn(&mut self, at: usize, seed: &mut Seed) {
        let connection = &mut self.connections[at];
        if !connection.edge_end {
            return;
        }
        if connection.session.poll_timeout().is_some_and(|timeout| timeout <= self.now) {
            connection.session.handle_timeout(self.now);
        }
        if connection.up.arrive(self.now) {
            self.edge_input(at);
        }
        let connection = &mut self.connections[at];
        let mut out = Vec::new();
        connection.session.poll_transmit(self.now, &mut out);
        if let Some(port) = &mut connection.port {
            let edge = &self.edges[connection.edge];
            port.poll(self.now, &mut connection.session, edge, &self.worker, &mut out);
        }
        connection.down.send(self.now, &out, seed);
        let session = &connection.session;
        if session.is_closed() {
            let fair = [Code::REPLACED, Code::DEADLINE, Code(0)];
            let code = session.close_reason().unwrap();
            assert!(fair.contains(&code), "the edge ended it: {code} {session:?}");
            connection.edge_end = false;
        }
    }

    fn edge_input(&mut self, at: usize) {
        let arrived = std::mem::take(&mut self.connections[at].up.arrived);
        let mut bytes = &arrived[..];
        loop {
            let connection = &mut self.connections[at];
            let Some(input) = connection.session.handle_input(self.now, &mut bytes) else { break };
            if let Input::Authenticate(_) = input {
                self.admit(at);
                continue;
            }
            if let Some(port) = &mut connection.port {
                let edge = &mut self.edges[connection.edge];
                port.take(self.now, &mut connection.session, input, edge, &mut self.worker);
            }
        }
        self.connections[at].up.arrived = bytes.to_vec();
    }

    /// The newest session of a run wins: spec §5.7.7.
    fn admit(&mut self, at: usize) {
        let (now, run) = (self.now, self.connections[at].session.greeting().run);
        for (other, connection) in self.connections.iter_mut().enumerate() {
            if other != at && connection.port.is_some() && connection.session.greeting().run == run
            {
                connection.port = None;
                connection.session.goaway(now, Code::REPLACED, 0, Duration::ZERO);
            }
        }
        let admission = Admission { tenant: "main".into(), principal: OWN.into(), proof: None };
        let connection = &mut self.connections[at];
        connection.session.admit(now, Millis(1), admission);
        connection.port = Some(Port::new(run, OWN));
    }

    fn client_turn(&mut self, at: usize, seed: &mut Seed) {
        let connection = &mut self.connections[at];
        if !connection.client_end {
            return;
        }
        let client = &mut self.clients[connection.client];
        if client.machine.poll_timeout().is_some_and(|timeout| timeout <= self.now) {
            client.machine.handle_timeout(self.now);
        }
        if connection.down.arrive(self.now) {
            let arrived = std::mem::take(&mut connection.down.arrived);
            let mut bytes = &arrived[..];
            while let Some(event) = client.machine.handle_input(self.now, &mut bytes) {
                client.handle(event);
            }
            connection.down.arrived = bytes.to_vec();
        }
        let mut out = Vec::new();
        let room = 1 + seed.below(4000);
        client.machine.poll_transmit(self.now, &mut Limited::new(&mut out, room));
        assert!(out.room() > 0);
        connection.up.send(self.now, &out, seed);
        let gone = client.machine.is_closed()
            || client.needs_run
            || (!connection.edge_end && connection.down.way.is_empty());
        if gone {
            connection.client_end = false;
            client.machine.disconnected();
        }
    }

    /// Whatever a client was told is so, when it is told.
    fn check_claims(&mut self) {
        for client in &mut self.clients {
            for (lane, number, id) in std::mem::take(&mut client.claims) {
                let stored = self
                    .worker
                    .ended(&lane, number)
                    .first()
                    .filter(|(at, _)| *at == number)
                    .map(|&(_, body)| body);
                let spooled = || self.edges.iter().find_map(|edge| edge.spool.body(&lane, number));
                client.check(&lane, number, id, stored.or_else(spooled));
            }
        }
    }

    /// What is in the log: every lane 1, 2, 3 …, each number what it was given for; what was acked once, and in order.
    fn check_the_end(&self) {
        let given: BTreeMap<_, _> =
            self.clients.iter().flat_map(|client| client.given.clone()).collect();
        let mut next: BTreeMap<_, u64> = BTreeMap::new();
        let mut before: BTreeMap<_, u64> = BTreeMap::new();
        let mut stored: BTreeMap<u64, usize> = BTreeMap::new();
        for record in &self.worker.log {
            let number = next.entry(&record.lane).or_default();
            *number += 1;
            assert_eq!(record.number, *number, "a hole or a double in {:?}", record.lane);
            let id = given[&(record.lane.clone(), record.number)];
            let last = before.entry(&record.lane).or_default();
            assert!(*last < id, "out of order in {:?}", record.lane);
            *last = id;
            match record.body {
                Body::Event(stored_id) => {
                    assert_eq!(stored_id, id, "new taken for old: {record:?}")
                }
                Body::Void(_) => {}
            }
            *stored.entry(id).or_default() += 1;
        }
        for client in &self.clients {
            for id in client.published.iter().filter(|id| !client.lost.contains(id)) {
                let times = stored.get(id).copied().unwrap_or(0);
                let fair = times == 1 || (times > 1 && client.twice.contains(id));
                assert!(fair, "{id} is there {times} times");
            }
        }
    }
}
