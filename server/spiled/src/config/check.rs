//! The rules: from what was read to a [`Config`], or every mistake.
//!
//! A value that is wrong is noted and its default taken, so that one mistake does not hide the next.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use spile_protocol::limits as wire;

use super::keys::RoleName;
use super::mistake::{Mistakes, Source};
use super::reader::{Read, Reader, Row, Wrong};
use super::slots::SlotSet;
use super::state;
use super::units::{parse_duration, parse_size, show_size};
use super::{
    AdminListen, Config, DeviceListen, Durability, EdgeLink, Limits, LogChoice, LogFormat, Role,
    TlsFiles, WorkerLink,
};
use crate::logs;
use crate::names::{is_node, is_tenant, node_rule, tenant_rule};

const EDGE_PORT: u16 = 7450;
const WORKER_PORT: u16 = 7451;
const ADMIN_PORT: u16 = 7460;

/// At most this many workers, as the design allows.
const WORKERS_MAX: usize = wire::WORKERS;
/// At most this many edges a worker lists, and tenants an edge serves; more is a mistake.
const LIST_MAX: usize = 1024;

pub(super) fn check(mut reader: Reader, asked: Option<RoleName>) -> Result<Config, Mistakes> {
    let role = role_name(&mut reader, asked);
    reader.check_keys(role);
    let config = Config {
        name: node_name(&mut reader, role),
        data: reader.path("data").map_or_else(|| PathBuf::from("./spile-data"), |read| read.value),
        admin: admin(&mut reader),
        limits: limits(&mut reader),
        keep: state::kept_topics(&mut reader),
        cache_max_age: state::cache_max_age(&mut reader),
        retention: super::retention::check(&mut reader),
        log: log(&mut reader),
        role: match role {
            RoleName::All => all(&mut reader),
            RoleName::Edge => edge(&mut reader),
            RoleName::Worker => worker(&mut reader),
        },
    };
    one_address_each(&mut reader, &config);
    let mut mistakes = reader.mistakes;
    mistakes.sort_by(|a, b| (place(&a.source), a).cmp(&(place(&b.source), b)));
    mistakes.dedup();
    if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
}

/// The file's mistakes first, by line; then the rest.
fn place(source: &Source) -> usize {
    match source {
        Source::Line(line) => *line,
        Source::Environment(_) | Source::Flag(_) | Source::Default => usize::MAX,
    }
}

fn role_name(reader: &mut Reader, asked: Option<RoleName>) -> RoleName {
    let said = reader.scalar("role", |text| {
        RoleName::from_word(text)
            .ok_or_else(|| wrong(format!("{text:?} is no role"), "write all, edge or worker"))
    });
    match (asked, said) {
        (Some(asked), Some(said)) if asked != said.value => {
            let what = format!("this file is for {}, not {}", said.value.word(), asked.word());
            let start = match said.value {
                RoleName::All => "start spiled --config FILE",
                RoleName::Edge => "start spiled edge --config FILE",
                RoleName::Worker => "start spiled worker --config FILE",
            };
            reader.wrong(said.source, "role", (what, start.to_owned()));
            asked
        }
        (Some(asked), _) => asked,
        (None, Some(said)) => said.value,
        (None, None) => RoleName::All,
    }
}

fn node_name(reader: &mut Reader, role: RoleName) -> String {
    let said = reader.scalar("name", name);
    match (said, role) {
        (Some(read), _) => read.value,
        (None, RoleName::All) => "local".to_owned(),
        (None, RoleName::Edge | RoleName::Worker) => {
            if !reader.mistakes.iter().any(|mistake| mistake.key == "name") {
                let remedy = "add name = \"…\", as its certificate says";
                reader.wrong(Source::Default, "name", wrong("missing", remedy));
            }
            String::new()
        }
    }
}

fn admin(reader: &mut Reader) -> AdminListen {
    let address = reader.scalar("admin.address", address);
    let public = reader.scalar("admin.public", boolean).is_some_and(|read| read.value);
    if let Some(read) = address.as_ref().filter(|read| !public && !read.value.ip().is_loopback()) {
        let what = format!("{} can be reached from other machines", read.value);
        let remedy = "use a loopback address, or say admin.public = true";
        reader.wrong(read.source.clone(), "admin.address", (what, remedy.to_owned()));
    }
    AdminListen { address: or_loopback(address, ADMIN_PORT), public }
}

fn limits(reader: &mut Reader) -> Limits {
    let half_open = count(reader, "limits.half_open", 16, 65_536, wire::HALF_OPEN);
    let quarter = (half_open / 4).max(1);
    Limits {
        sessions: count(reader, "limits.sessions", 1, 1_000_000, 65_536),
        half_open,
        // An address may hold a quarter of what is half open, unless told otherwise.
        half_open_per_address: count(reader, "limits.half_open_per_address", 1, half_open, quarter),
        frame: frame(reader),
        drain: reader.scalar("limits.drain", drain).map_or(Duration::from_secs(8), |r| r.value),
    }
}

fn frame(reader: &mut Reader) -> u32 {
    let [least, most, default] =
        [wire::FRAME_MIN, wire::FRAME_MAX, wire::FRAME_DEFAULT].map(u64::from);
    u32::try_from(size(reader, "limits.frame", least, most, default)).unwrap_or(wire::FRAME_DEFAULT)
}

fn log(reader: &mut Reader) -> LogChoice {
    let format = reader.scalar("log.format", |text| match text {
        "auto" => Ok(LogFormat::Auto),
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        other => Err(wrong(format!("{other:?} is no format"), "write auto, json or text")),
    });
    let filter = reader.scalar("log.filter", |text| match logs::check_filter(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(why) => Err(wrong(why, "write a level, or target=level,…")),
    });
    LogChoice {
        format: format.map_or(LogFormat::Auto, |read| read.value),
        filter: filter.map_or_else(|| "info".to_owned(), |read| read.value),
    }
}

fn all(reader: &mut Reader) -> Role {
    Role::All {
        tenants: tenants(reader),
        listen: device_listen(reader),
        durability: durability(reader),
    }
}

fn edge(reader: &mut Reader) -> Role {
    let tenants = tenants(reader);
    let listen = device_listen(reader);
    let keys = ["listen.cert", "listen.key", "listen.client_ca"];
    let tls = tls_files(reader, keys, !listen.insecure);
    let workers = workers(reader);
    let link_tls = tls_files(reader, LINK_KEYS, true).unwrap_or_else(no_files);
    Role::Edge { tenants, listen, tls, workers, link_tls }
}

fn worker(reader: &mut Reader) -> Role {
    let listen = reader.scalar("links.listen", address);
    let slots = reader.scalar("links.slots", |text| {
        SlotSet::parse(text).map_err(|why| wrong(why, "write slots such as 0-127,200"))
    });
    let edges = edges(reader);
    Role::Worker {
        listen: or_loopback(listen, WORKER_PORT),
        slots: slots.map_or(SlotSet::ALL, |read| read.value),
        edges,
        link_tls: tls_files(reader, LINK_KEYS, true).unwrap_or_else(no_files),
        durability: durability(reader),
    }
}

fn tenants(reader: &mut Reader) -> Vec<String> {
    match reader.texts("tenants") {
        Some(read) => checked_tenants(reader, "tenants", &read.source, read.value),
        None => vec!["main".to_owned()],
    }
}

fn checked_tenants(
    reader: &mut Reader,
    key: &str,
    source: &Source,
    names: Vec<String>,
) -> Vec<String> {
    if names.is_empty() || names.len() > LIST_MAX {
        let what = format!("{} tenants", names.len());
        reader.wrong(source.clone(), key, wrong(what, "name 1 to 1024"));
    }
    for (n, text) in names.iter().enumerate() {
        if let Err(why) = tenant(text) {
            reader.wrong(source.clone(), key, why);
        } else if names.iter().take(n).any(|earlier| earlier == text) {
            reader.wrong(source.clone(), key, wrong(format!("{text:?} twice"), "name it once"));
        }
    }
    names
}

fn device_listen(reader: &mut Reader) -> DeviceListen {
    let address = reader.scalar("listen.address", address);
    let insecure = reader.scalar("listen.insecure", boolean);
    let insecure = match (insecure, &address) {
        (Some(read), Some(at)) if read.value && !at.value.ip().is_loopback() => {
            let what = format!("plaintext on {}, which other machines reach", at.value);
            let remedy = "use a loopback address, or remove insecure";
            reader.wrong(read.source, "listen.insecure", wrong(what, remedy));
            true
        }
        (Some(read), _) => read.value,
        (None, _) => false,
    };
    let slow = reader.scalar("listen.slow", boolean).is_some_and(|read| read.value);
    DeviceListen { address: or_loopback(address, EDGE_PORT), insecure, slow }
}

fn durability(reader: &mut Reader) -> Durability {
    Durability {
        segment: size(reader, "durability.segment", 1 << 20, 1 << 30, 256 << 20),
        chunk_segment: size(reader, "durability.chunk_segment", 1 << 20, 1 << 30, 256 << 20),
        upload_bytes: size(reader, "uploads.largest", 1 << 10, 1 << 40, 1 << 40),
        upload_idle: reader
            .scalar("uploads.forget_after", forget_after)
            .map_or(Duration::from_secs(7 * 86_400), |read| read.value),
    }
}

const LINK_KEYS: [&str; 3] = ["links.cert", "links.key", "links.ca"];

fn tls_files(reader: &mut Reader, keys: [&'static str; 3], needed: bool) -> Option<TlsFiles> {
    let [cert, key, ca] = keys.map(|key| existing_file(reader, key, needed));
    Some(TlsFiles { cert: cert?, key: key?, ca: ca? })
}

fn existing_file(reader: &mut Reader, key: &'static str, needed: bool) -> Option<PathBuf> {
    let Some(read) = reader.path(key) else {
        if needed && !reader.mistakes.iter().any(|mistake| mistake.key == key) {
            let remedy = "name a PEM file; `spiled certs` makes them";
            reader.wrong(Source::Default, key, wrong("missing", remedy));
        }
        return None;
    };
    let opened = File::open(&read.value).and_then(|file| file.metadata());
    let what = match opened {
        Ok(meta) if meta.is_file() => return Some(read.value),
        Ok(_) => format!("{} is no file", read.value.display()),
        Err(why) => format!("{}: {why}", read.value.display()),
    };
    reader.wrong(read.source, key, wrong(what, "name a PEM file that exists and may be read"));
    None
}

fn no_files() -> TlsFiles {
    TlsFiles { cert: PathBuf::new(), key: PathBuf::new(), ca: PathBuf::new() }
}

fn workers(reader: &mut Reader) -> Vec<WorkerLink> {
    let Some(rows) = reader.tables("links.workers") else {
        let remedy = "add [[links.workers]] with name, address, slots";
        if !reader.mistakes.iter().any(|mistake| mistake.key == "links.workers") {
            reader.wrong(Source::Default, "links.workers", wrong("missing", remedy));
        }
        return Vec::new();
    };
    let mut workers: Vec<(WorkerLink, usize)> = Vec::new();
    let whole = rows.value.len();
    for row in rows.value {
        if let Some(worker) = worker_link(reader, &row) {
            apart_from(reader, &workers, &worker, row.line);
            workers.push((worker, row.line));
        }
    }
    if whole > WORKERS_MAX {
        let wrong = wrong(format!("{whole} workers"), "name at most 32");
        reader.wrong(rows.source.clone(), "links.workers", wrong);
    }
    let workers: Vec<WorkerLink> = workers.into_iter().map(|(worker, _)| worker).collect();
    let sets: Vec<SlotSet> = workers.iter().map(|worker| worker.slots).collect();
    // With a row that could not be read, a hole would only repeat that row's mistake.
    if let Some(missing) = SlotSet::missing(&sets).filter(|_| workers.len() == whole) {
        let wrong = wrong(format!("no worker has slots {missing}"), "give them to a worker");
        reader.wrong(rows.source, "links.workers", wrong);
    }
    workers
}

fn worker_link(reader: &mut Reader, row: &Row) -> Option<WorkerLink> {
    let name = row.text(reader, "name").and_then(|read| keep(reader, "links.workers", read, name));
    let address =
        row.text(reader, "address").and_then(|read| keep(reader, "links.workers", read, endpoint));
    let slots = row.text(reader, "slots").and_then(|read| {
        keep(reader, "links.workers", read, |text| {
            SlotSet::parse(text).map_err(|why| wrong(why, "write slots such as 0-127,200"))
        })
    });
    Some(WorkerLink { name: name?, address: address?, slots: slots? })
}

/// Names and slots of a worker are its own.
fn apart_from(
    reader: &mut Reader,
    earlier: &[(WorkerLink, usize)],
    worker: &WorkerLink,
    line: usize,
) {
    for (other, other_line) in earlier {
        if other.name == worker.name {
            let what = format!("{:?} is the name on line {other_line} too", worker.name);
            let wrong = wrong(what, "give each worker its own name");
            reader.wrong(Source::Line(line), "links.workers.name", wrong);
        }
        if let Some(shared) = other.slots.shared_with(&worker.slots) {
            let what = format!("slots {shared} are on line {other_line} too");
            let wrong = wrong(what, "give each slot to one worker");
            reader.wrong(Source::Line(line), "links.workers.slots", wrong);
        }
    }
}

fn edges(reader: &mut Reader) -> Vec<EdgeLink> {
    let Some(rows) = reader.tables("links.edges") else {
        if !reader.mistakes.iter().any(|mistake| mistake.key == "links.edges") {
            let remedy = "add [[links.edges]] with name and tenants";
            reader.wrong(Source::Default, "links.edges", wrong("missing", remedy));
        }
        return Vec::new();
    };
    if rows.value.len() > LIST_MAX {
        let wrong = wrong(format!("{} edges", rows.value.len()), "name at most 1024");
        reader.wrong(rows.source, "links.edges", wrong);
    }
    let mut edges: Vec<EdgeLink> = Vec::new();
    for row in rows.value {
        let Some(edge) = edge_link(reader, &row) else { continue };
        if edges.iter().any(|other| other.name == edge.name) {
            let wrong = wrong(format!("{:?} is named twice", edge.name), "list each edge once");
            reader.wrong(Source::Line(row.line), "links.edges.name", wrong);
        }
        edges.push(edge);
    }
    edges
}

fn edge_link(reader: &mut Reader, row: &Row) -> Option<EdgeLink> {
    let name = row.text(reader, "name").and_then(|read| keep(reader, "links.edges", read, name));
    let tenants = match row.item("tenants") {
        Some(item) => {
            let texts = reader.texts_of("links.edges.tenants", item)?;
            checked_tenants(reader, "links.edges.tenants", &Source::Line(item.line), texts)
        }
        None => vec!["main".to_owned()],
    };
    Some(EdgeLink { name: name?, tenants })
}

fn one_address_each(reader: &mut Reader, config: &Config) {
    let other = match &config.role {
        Role::All { listen, .. } | Role::Edge { listen, .. } => listen.address,
        Role::Worker { listen, .. } => *listen,
    };
    if other == config.admin.address && other.port() != 0 {
        let wrong = wrong(format!("{other} is taken by the other listener"), "use another port");
        reader.wrong(Source::Default, "admin.address", wrong);
    }
}

fn keep<T>(
    reader: &mut Reader,
    key: &str,
    read: Read<String>,
    parse: impl FnOnce(&str) -> Result<T, Wrong>,
) -> Option<T> {
    match parse(&read.value) {
        Ok(value) => Some(value),
        Err(wrong) => {
            reader.wrong(read.source, key, wrong);
            None
        }
    }
}

pub(super) fn wrong(what: impl ToString, remedy: impl ToString) -> Wrong {
    (what.to_string(), remedy.to_string())
}

fn name(text: &str) -> Result<String, Wrong> {
    if is_node(text) {
        return Ok(text.to_owned());
    }
    Err(wrong(format!("{text:?} is no name"), format!("use {}", node_rule())))
}

fn tenant(text: &str) -> Result<String, Wrong> {
    if is_tenant(text) {
        return Ok(text.to_owned());
    }
    Err(wrong(format!("{text:?} is no tenant"), format!("use {}", tenant_rule())))
}

fn address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        wrong(format!("{text:?} is no address"), "write IP:PORT, such as 127.0.0.1:7450")
    })
}

fn endpoint(text: &str) -> Result<String, Wrong> {
    let whole = text.rsplit_once(':').filter(|(host, port)| {
        !host.is_empty()
            && !host.contains(char::is_whitespace)
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    match whole {
        Some(_) => Ok(text.to_owned()),
        None => {
            Err(wrong(format!("{text:?} is no endpoint"), "write HOST:PORT, such as worker-a:7451"))
        }
    }
}

fn boolean(text: &str) -> Result<bool, Wrong> {
    text.parse().map_err(|_| wrong(format!("{text:?} is no yes or no"), "write true or false"))
}

fn forget_after(text: &str) -> Result<Duration, Wrong> {
    match parse_duration(text) {
        Some(idle) if idle >= Duration::from_secs(60) => Ok(idle),
        Some(_) => Err(wrong(format!("{text} is below 1m"), "write at least 1m")),
        None => Err(wrong(format!("{text:?} is no duration"), "write such as 12h or 7d")),
    }
}

fn drain(text: &str) -> Result<Duration, Wrong> {
    // The process ends within 10 s of SIGTERM, and needs the last second for its own end.
    let most = Duration::from_secs(9);
    match parse_duration(text) {
        Some(drain) if drain <= most => Ok(drain),
        Some(_) => Err(wrong(format!("{text} is above 9s"), "write at most 9s")),
        None => Err(wrong(format!("{text:?} is no duration"), "write such as 500ms or 8s")),
    }
}

fn count(reader: &mut Reader, key: &'static str, least: u32, most: u32, default: u32) -> u32 {
    let read = reader.scalar(key, |text| match text.parse::<u32>() {
        Ok(count) if (least..=most).contains(&count) => Ok(count),
        Ok(_) | Err(_) => Err(wrong(
            format!("{text:?} is out of range"),
            format!("write a whole number from {least} to {most}"),
        )),
    });
    read.map_or(default, |read| read.value)
}

fn size(reader: &mut Reader, key: &'static str, least: u64, most: u64, default: u64) -> u64 {
    let range = format!("from {} to {}", show_size(least), show_size(most));
    let read = reader.scalar(key, |text| match parse_size(text) {
        Some(size) if (least..=most).contains(&size) => Ok(size),
        Some(_) => Err(wrong(format!("{text} is out of range"), format!("write {range}"))),
        None => {
            let remedy = format!("write such as 512, 4KiB or 10MiB, {range}");
            Err(wrong(format!("{text:?} is no size"), remedy))
        }
    });
    read.map_or(default, |read| read.value)
}

fn or_loopback(read: Option<Read<SocketAddr>>, port: u16) -> SocketAddr {
    read.map_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)), |read| read.value)
}
