//! Configurations as people write them: what is taken, what is refused, and with which words.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use spiled::config::{Config, ConfigError, Overrides, Role, RoleName, SlotSet};
use tempfile::TempDir;

/// A folder with the PEM files that an edge and a worker name; only their being there is checked here.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        for file in ["cert.pem", "key.pem", "ca.pem"] {
            fs::write(folder.path().join(file), "x").unwrap();
        }
        Self(folder)
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("spiled.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, text: &str, role: Option<RoleName>) -> Result<Config, String> {
        Config::load(Some(&self.write(text)), &Overrides::default(), role)
            .map_err(|error| error.to_string())
    }
}

const EDGE: &str = r#"
role = "edge"
name = "edge-1"
[listen]
cert = "cert.pem"
key = "key.pem"
client_ca = "ca.pem"
[links]
cert = "cert.pem"
key = "key.pem"
ca = "ca.pem"
workers = [
  { name = "a", address = "worker-a:7451", slots = "0-127" },
  { name = "b", address = "10.0.0.3:7451", slots = "128-255" },
]
"#;

const WORKER: &str = r#"
role = "worker"
name = "a"
data = "store"
[links]
listen = "0.0.0.0:7451"
slots = "0-127"
cert = "cert.pem"
key = "key.pem"
ca = "ca.pem"
[[links.edges]]
name = "edge-1"
tenants = ["main", "north"]
[durability]
segment = "16MiB"
[uploads]
largest = "10GiB"
forget_after = "12h"
[state]
keep = ["state/#", "settings/+"]
[retention]
every = "30s"
[[retention.rules]]
filter = "debug/#"
max_age = "2d"
max_bytes = "10GiB"
[[retention.rules]]
filter = "telemetry/#"
"#;

#[test]
fn nothing_said_is_all_in_one_with_the_defaults() {
    let config = Config::load(None, &Overrides::default(), None).unwrap();
    assert_eq!(config.data, PathBuf::from("./spile-data"));
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:7460");
    assert_eq!(config.limits.half_open, 4096);
    assert_eq!(config.limits.half_open_per_address, 1024);
    assert_eq!(config.limits.drain, Duration::from_secs(8));
    let Role::All { tenants, listen, .. } = config.role else { panic!("not all-in-one") };
    assert_eq!(tenants, ["main"]);
    assert_eq!(listen.address.to_string(), "127.0.0.1:7450");
    assert!(!listen.insecure && !listen.slow);
}

#[test]
fn topics_that_cannot_be_kept_are_mistakes() {
    let folder = Folder::new();
    for wrong in ["a//b", "$registry/#", "a/#/b"] {
        let text = WORKER.replace("settings/+", wrong);
        let mistakes = folder.load(&text, None).unwrap_err().to_string();
        assert!(mistakes.contains("state.keep") && mistakes.contains(wrong), "{mistakes}");
    }
}

#[test]
fn how_old_an_answer_of_the_cache_may_be_is_bounded() {
    let folder = Folder::new();
    let edge = |age: &str| format!("{EDGE}\n[state]\ncache_max_age = \"{age}\"\n");
    for (age, want) in [("0s", 0), ("250ms", 250), ("1m", 60_000)] {
        let config = folder.load(&edge(age), None).unwrap();
        assert_eq!(config.cache_max_age, Duration::from_millis(want));
    }
    for wrong in ["61s", "often"] {
        let mistakes = folder.load(&edge(wrong), None).unwrap_err().to_string();
        assert!(mistakes.contains("state.cache_max_age") && mistakes.contains(wrong), "{mistakes}");
    }
    let config = Config::load(None, &Overrides::default(), None).unwrap();
    assert_eq!(config.cache_max_age, Duration::from_secs(5));
}

#[test]
fn rules_of_retention_that_say_nothing_sound_are_mistakes() {
    let folder = Folder::new();
    for (said, wrong, key) in [
        ("debug/#", "$audit/#", "retention.rules.filter"),
        ("debug/#", "a//b", "retention.rules.filter"),
        ("2d", "soon", "retention.rules.max_age"),
        ("10GiB\"\n[[", "much\"\n[[", "retention.rules.max_bytes"),
        ("30s", "10ms", "retention.every"),
        ("max_age", "max_years", "max_years"),
    ] {
        let mistakes = folder.load(&WORKER.replace(said, wrong), None).unwrap_err();
        assert!(mistakes.contains(key), "{wrong}: {mistakes}");
    }
    assert!(Config::load(None, &Overrides::default(), None).unwrap().retention.rules.is_empty());
}

#[test]
fn an_edge_and_a_worker_are_read() {
    let folder = Folder::new();
    let edge = folder.load(EDGE, Some(RoleName::Edge)).unwrap();
    let Role::Edge { workers, tls, .. } = edge.role else { panic!("no edge") };
    assert_eq!(workers.len(), 2);
    assert_eq!(workers[1].slots, SlotSet::parse("128-255").unwrap());
    assert_eq!(tls.unwrap().cert, folder.0.path().join("cert.pem"));

    let worker = folder.load(WORKER, None).unwrap();
    assert_eq!(worker.data, folder.0.path().join("store"));
    assert_eq!(worker.keep, ["state/#", "settings/+"]);
    assert_eq!(worker.retention.every, Duration::from_secs(30));
    let [debug, telemetry] = &worker.retention.rules[..] else { panic!("no two rules") };
    assert_eq!((debug.filter.as_str(), debug.max_bytes), ("debug/#", Some(10 << 30)));
    assert_eq!(debug.max_age, Some(Duration::from_secs(2 * 86_400)));
    assert_eq!((telemetry.max_age, telemetry.max_bytes), (None, None));
    let Role::Worker { listen, edges, durability, .. } = worker.role else { panic!("no worker") };
    assert_eq!(listen.port(), 7451);
    assert_eq!(edges[0].tenants, ["main", "north"]);
    assert_eq!(durability.segment, 16 << 20);
    assert_eq!(durability.upload_bytes, 10 << 30);
    assert_eq!(durability.upload_idle, Duration::from_secs(12 * 3600));
}

#[test]
fn what_is_shown_reads_as_the_same() {
    let folder = Folder::new();
    let placed = |text| format!("data = \"data\"\n{text}");
    let slow = "[listen]\nslow = true\n";
    assert!(folder.load(slow, None).unwrap().role.is_slow());
    for text in [placed(""), placed(slow), placed(EDGE), WORKER.to_owned()] {
        let config = folder.load(&text, None).unwrap();
        let shown = config.to_toml();
        let again = folder.load(&shown, None).unwrap_or_else(|why| panic!("{why}\n{shown}"));
        assert_eq!(again, config);
    }
}

/// Each text has exactly these mistakes, in this order.
#[test]
fn every_mistake_is_told_with_its_line() {
    let folder = Folder::new();
    let edge = |from: &str, to: &str| EDGE.replace(from, to);
    for (text, expected) in [
        ("nmae = \"a\"".to_owned(), vec!["line 1: nmae: unknown key; did you mean name?"]),
        (
            "\n[listen]\nadress = \"x\"\n".to_owned(),
            vec!["line 3: listen.adress: unknown key; did you mean listen.address?"],
        ),
        (
            "[listen]\naddress = \"localhost\"\n[admin]\naddress = \"0.0.0.0:7460\"\n".to_owned(),
            vec![
                "line 2: listen.address: \"localhost\" is no address; write IP:PORT",
                "line 4: admin.address: 0.0.0.0:7460 can be reached from other machines; use a",
            ],
        ),
        (
            "[listen]\naddress = \"0.0.0.0:7450\"\ninsecure = true\n".to_owned(),
            vec!["line 3: listen.insecure: plaintext on 0.0.0.0:7450"],
        ),
        (
            "[limits]\nframe = \"1 MB\"\ndrain = \"soon\"\nsessions = 0\nhalf_open = \"many\"\n"
                .to_owned(),
            vec![
                "line 2: limits.frame: \"1 MB\" is no size; write such as 512, 4KiB or 10MiB",
                "line 3: limits.drain: \"soon\" is no duration",
                "line 4: limits.sessions: \"0\" is out of range; write a whole number from 1 to",
                "line 5: limits.half_open: \"many\" is out of range",
            ],
        ),
        (
            "[limits]\ndrain = \"1m\"\nframe = \"1GiB\"\n".to_owned(),
            vec![
                "line 2: limits.drain: 1m is above 9s; write at most 9s",
                "line 3: limits.frame: 1GiB is out of range; write from 512 to 1MiB",
            ],
        ),
        (
            "name = 1.5\ntenants = \"main\"\n[log]\nformat = \"xml\"\nfilter = \"=x=\"".to_owned(),
            vec![
                "line 1: name: a fraction stands here; write one value",
                "line 2: tenants: not a list; write",
                "line 4: log.format: \"xml\" is no format; write auto, json or text",
                "line 5: log.filter: \"=x=\"",
            ],
        ),
        (
            "tenants = [\"a\", \"a\", \"b c\"]".to_owned(),
            vec![
                "line 1: tenants: \"a\" twice",
                "line 1: tenants: \"b c\" is no tenant; use 1 to 32",
            ],
        ),
        (
            "[links]\nlisten = \"127.0.0.1:1\"".to_owned(),
            vec!["line 2: links.listen: is for role worker, and this is all; remove it"],
        ),
        (
            "[listen]\naddress = \"127.0.0.1:7460\"".to_owned(),
            vec!["default: admin.address: 127.0.0.1:7460 is taken by the other listener"],
        ),
        (
            edge("0-127", "0-130").replace("128-255", "128-250"),
            vec![
                "line 12: links.workers: no worker has slots 251-255; give them to a worker",
                "line 14: links.workers.slots: slots 128-130 are on line 13 too; give each slot",
            ],
        ),
        (
            edge("\"b\"", "\"a\"").replace("worker-a:7451", "worker-a"),
            vec!["line 13: links.workers: \"worker-a\" is no endpoint; write HOST:PORT"],
        ),
        (
            edge("slots = \"0-127\"", "slot = \"0-127\""),
            vec![
                "line 13: links.workers.slot: unknown key; did you mean slots?",
                "line 13: links.workers.slots: missing; add slots",
            ],
        ),
        (edge("\"key.pem\"\nclient", "\"gone.pem\"\nclient"), vec!["line 6: listen.key: "]),
        (
            "role = \"edge\"".to_owned(),
            vec![
                "default: links.ca: missing",
                "default: links.cert: missing; name a PEM file; `spiled certs` makes them",
                "default: links.key: missing",
                "default: links.workers: missing; add [[links.workers]]",
                "default: listen.cert: missing",
                "default: listen.client_ca: missing",
                "default: listen.key: missing",
                "default: name: missing; add name",
            ],
        ),
        (
            "name = \"a\nrole = \"all\"\n[limits]\nframe = 1\n".to_owned(),
            vec!["line 1: ", "line 4: limits.frame: 1 is out of range"],
        ),
    ] {
        let shown = folder.load(&text, None).unwrap_err();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{text}\ngave\n{shown}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{text}\ngave  {line}\nnot   {expected}");
        }
    }
}

#[test]
fn a_file_for_another_role_is_refused_with_the_command_to_use() {
    let folder = Folder::new();
    let shown = folder.load(WORKER, Some(RoleName::Edge)).unwrap_err();
    let expected = "line 2: role: this file is for worker, not edge; start spiled worker --config";
    assert!(shown.lines().any(|line| line.starts_with(expected)), "{shown}");
}

#[test]
fn flag_beats_environment_beats_file() {
    let folder = Folder::new();
    let path = folder.write("[listen]\naddress = \"127.0.0.1:1\"\n[limits]\nsessions = 7\n");
    let environment = vec![
        ("SPILED_LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
        ("SPILED_LIMITS_SESSIONS".to_owned(), "8".to_owned()),
        ("SPILED_TENANTS".to_owned(), "main, north".to_owned()),
        ("SPILED_CONFIG".to_owned(), "elsewhere".to_owned()),
        ("HOME".to_owned(), "/".to_owned()),
    ];
    let mut over = Overrides { environment, flags: Vec::new() };
    let config = Config::load(Some(&path), &over, None).unwrap();
    let Role::All { listen, tenants, .. } = config.role else { panic!("not all-in-one") };
    assert_eq!(listen.address.port(), 2);
    assert_eq!(config.limits.sessions, 8);
    assert_eq!(tenants, ["main", "north"]);

    over.flags = vec![("--listen", "listen.address", "127.0.0.1:3".to_owned())];
    let config = Config::load(Some(&path), &over, None).unwrap();
    let Role::All { listen, .. } = config.role else { panic!("not all-in-one") };
    assert_eq!(listen.address.port(), 3);
}

#[test]
fn mistakes_in_environment_and_flags_say_where_they_are() {
    let over = Overrides {
        flags: vec![("--listen", "listen.address", "nonsense".to_owned())],
        environment: vec![("SPILED_LIMIT_FRAME".to_owned(), "1".to_owned())],
    };
    let Err(ConfigError::Mistakes(mistakes)) = Config::load(None, &over, None) else {
        panic!("taken")
    };
    let shown = mistakes.to_string();
    assert!(shown.contains("--listen: listen.address: \"nonsense\" is no address"), "{shown}");
    assert!(
        shown.contains(
            "SPILED_LIMIT_FRAME: no key has this variable; did you mean SPILED_LIMITS_FRAME?"
        ),
        "{shown}"
    );
}

#[test]
fn files_that_cannot_be_read_are_refused_by_name() {
    let folder = Folder::new();
    let gone = folder.0.path().join("gone.toml");
    let error = Config::load(Some(&gone), &Overrides::default(), None).unwrap_err().to_string();
    assert!(error.contains("gone.toml"), "{error}");
    let large = folder.write(&"#".repeat((1 << 20) + 1));
    let error = Config::load(Some(&large), &Overrides::default(), None).unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "{error}");
}
