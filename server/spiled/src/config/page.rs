//! docs/configuration.md against what is: every key has its row there, nothing else has one, and what a row says is so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::keys::{self, KEYS, LIST_KEYS, RoleName};
use super::{Config, ConfigError, reader, show};

const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// What the page says of a key.
pub(crate) struct Row {
    pub(crate) key: &'static str,
    pub(crate) flag: &'static str,
    roles: &'static str,
    default: &'static str,
    variable: &'static str,
}

/// The rows of all its tables.
pub(crate) fn rows() -> Vec<Row> {
    let said = |cell: &'static str| cell.trim_matches('`');
    let row = |line: &'static str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", key, roles, _kind, default, variable, flag, _meaning, ""] = cells[..] else {
            panic!("not seven cells: {line}");
        };
        let [key, variable, flag] = [key, variable, flag].map(said);
        Row { key, flag, roles, default, variable }
    };
    PAGE.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

#[test]
fn every_key_has_its_row_and_nothing_else_has() {
    let of = |path: String, roles: &[RoleName], variable: String| {
        let roles: Vec<_> = roles.iter().map(|role| role.word()).collect();
        (path, roles.join(" "), variable)
    };
    let list = |path: &str| LIST_KEYS.iter().find(|(list, _)| *list == path);
    let known: BTreeSet<_> = (KEYS.iter())
        .flat_map(|key| {
            let below = list(key.path).map(|(_, below)| *below).unwrap_or_default();
            // A list of tables stands in the file only.
            let variable =
                list(key.path).map_or_else(|| keys::variable(key.path), |_| String::new());
            let itself = of(key.path.to_owned(), key.roles, variable);
            let below = below
                .iter()
                .map(|name| of(format!("{}.{name}", key.path), key.roles, String::new()));
            std::iter::once(itself).chain(below)
        })
        .collect();
    let told = rows().into_iter();
    let told: Vec<_> = told
        .map(|row| (row.key.to_owned(), row.roles.to_owned(), row.variable.to_owned()))
        .collect();
    let once: BTreeSet<_> = told.iter().cloned().collect();
    assert_eq!(once, known);
    assert_eq!(told.len(), once.len(), "a key has two rows");
}

#[test]
fn other_names_of_variables_are_told() {
    for (short, path) in keys::SHORT {
        let (short, long) = (format!("`{short}`"), format!("`{}`", keys::variable(path)));
        assert!(PAGE.contains(&short) && PAGE.contains(&long), "{short}");
    }
}

/// A file of the least that a role must be told, with its lists given as `lists`.
fn least(role: RoleName, lists: &str) -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let links = format!("[links]\ncert = {file:?}\nkey = {file:?}\nca = {file:?}\n");
    let front = format!("[listen]\ncert = {file:?}\nkey = {file:?}\nclient_ca = {file:?}\n");
    let worker = "[[links.workers]]\nname = \"a\"\naddress = \"h:1\"\nslots = \"0-255\"\n";
    match role {
        RoleName::All => lists.to_owned(),
        RoleName::Edge => format!("name = \"n\"\n{front}{links}{worker}"),
        RoleName::Worker => {
            format!("name = \"n\"\n{links}[[links.edges]]\nname = \"e\"\n{lists}")
        }
    }
}

fn load(role: RoleName, text: &str) -> Result<Config, ConfigError> {
    let file = Some((Path::new("spiled.toml"), text));
    Ok(super::check::check(reader::Reader::new(file, &reader::Overrides::default()), Some(role))?)
}

/// What `check-config` prints, by key; of a list of tables the first one's.
fn shown(role: RoleName, lists: &str) -> BTreeMap<String, toml::Value> {
    fn flatten(way: &str, value: &toml::Value, into: &mut BTreeMap<String, toml::Value>) {
        if let Some(first) = value.as_array().and_then(|items| items.first()) {
            flatten(way, first, into);
        }
        for (name, value) in value.as_table().into_iter().flatten() {
            let below = if way.is_empty() { name.clone() } else { format!("{way}.{name}") };
            flatten(&below, value, into);
        }
        if !value.is_table() {
            into.insert(way.to_owned(), value.clone());
        }
    }
    let config = load(role, &least(role, lists)).unwrap_or_else(|why| panic!("{why}"));
    let mut found = BTreeMap::new();
    flatten("", &toml::Value::Table(show::show(&config).parse().unwrap()), &mut found);
    found
}

/// The keys that a role misses, of a file with nothing and of empty tables in each list.
fn missing(role: RoleName) -> BTreeSet<String> {
    let lists = match role {
        RoleName::All => "[[retention.rules]]",
        RoleName::Edge => "[[links.workers]]",
        RoleName::Worker => "[[links.edges]]\n[[retention.rules]]",
    };
    let missed = |text| match load(role, text) {
        Err(ConfigError::Mistakes(mistakes)) => mistakes.0,
        Ok(_) | Err(_) => Vec::new(),
    };
    let all = missed("").into_iter().chain(missed(lists));
    all.filter(|mistake| mistake.what == "missing").map(|mistake| mistake.key).collect()
}

/// The value in a cell, as it is written in a file.
fn literal(cell: &str) -> Option<toml::Value> {
    let text = cell.split('`').nth(1).filter(|_| cell.starts_with('`'))?;
    let mut table: toml::Table = format!("it = {text}").parse().unwrap();
    table.remove("it")
}

#[test]
fn defaults_and_what_is_required_are_as_the_page_says() {
    const RULES: &str = "[[retention.rules]]\nfilter = \"x/#\"\n";
    for role in [RoleName::All, RoleName::Edge, RoleName::Worker] {
        let (missing, plain, with_rules) = (missing(role), shown(role, ""), shown(role, RULES));
        for row in rows().iter().filter(|row| row.roles.split(' ').any(|it| it == role.word())) {
            let (key, cell, word) = (row.key, row.default, role.word());
            let below = key.starts_with("retention.rules.");
            let found = if below { &with_rules } else { &plain }.get(key);
            match literal(cell) {
                _ if missing.contains(key) => {
                    assert!(cell.contains("required"), "{key} is required of {word}: {cell}");
                }
                // The command says the role.
                Some(_) if key == "role" && role != RoleName::All => {}
                Some(toml::Value::String(path)) if key == "data" => {
                    let whole = std::path::absolute(path).unwrap().to_string_lossy().into_owned();
                    assert_eq!(found, Some(&toml::Value::String(whole)), "{key} of {word}");
                }
                Some(value) => assert_eq!(found, Some(&value), "{key} of {word}"),
                None => assert_eq!((cell, found), ("none", None), "{key} of {word}"),
            }
        }
    }
}
