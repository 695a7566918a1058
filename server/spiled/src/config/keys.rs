//! Every key a configuration may have, and which role it is for.
//!
//! The one list: the reader refuses what is not in it, suggests from it, and derives environment names from it.

/// What a `spiled` process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleName {
    /// Edge and worker in one process.
    All,
    /// Devices and operators on one side, workers on the other.
    Edge,
    /// Links on one side, the log on the other.
    Worker,
}

impl RoleName {
    /// The word for it, as in the command line and in `role = "…"`.
    pub fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Edge => "edge",
            Self::Worker => "worker",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::All, Self::Edge, Self::Worker].into_iter().find(|role| role.word() == word)
    }
}

/// One key and the roles that read it.
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) roles: &'static [RoleName],
}

const ANY: &[RoleName] = &[RoleName::All, RoleName::Edge, RoleName::Worker];
const FRONT: &[RoleName] = &[RoleName::All, RoleName::Edge];
const STORE: &[RoleName] = &[RoleName::All, RoleName::Worker];
const EDGE: &[RoleName] = &[RoleName::Edge];
const WORKER: &[RoleName] = &[RoleName::Worker];
const SPLIT: &[RoleName] = &[RoleName::Edge, RoleName::Worker];

const fn key(path: &'static str, roles: &'static [RoleName]) -> Key {
    Key { path, roles }
}

pub(super) const KEYS: &[Key] = &[
    key("role", ANY),
    key("name", ANY),
    key("tenants", FRONT),
    key("data", ANY),
    key("listen.address", FRONT),
    key("listen.insecure", FRONT),
    key("listen.slow", FRONT),
    key("listen.cert", EDGE),
    key("listen.key", EDGE),
    key("listen.client_ca", EDGE),
    key("admin.address", ANY),
    key("admin.public", ANY),
    key("links.workers", EDGE),
    key("links.listen", WORKER),
    key("links.slots", WORKER),
    key("links.edges", WORKER),
    key("links.cert", SPLIT),
    key("links.key", SPLIT),
    key("links.ca", SPLIT),
    key("limits.sessions", FRONT),
    key("limits.half_open", FRONT),
    key("limits.half_open_per_address", FRONT),
    key("limits.frame", ANY),
    key("limits.drain", ANY),
    key("durability.segment", STORE),
    key("durability.chunk_segment", STORE),
    key("uploads.largest", STORE),
    key("uploads.forget_after", STORE),
    key("state.keep", STORE),
    key("state.cache_max_age", FRONT),
    key("retention.every", STORE),
    key("retention.rules", STORE),
    key("log.format", ANY),
    key("log.filter", ANY),
];

/// Keys inside lists of tables.
pub(super) const LIST_KEYS: &[(&str, &[&str])] = &[
    ("links.workers", &["name", "address", "slots"]),
    ("links.edges", &["name", "tenants"]),
    ("retention.rules", &["filter", "max_age", "max_bytes"]),
];

/// Short environment names beside the derived ones.
pub(super) const SHORT: &[(&str, &str)] = &[
    ("SPILED_LISTEN", "listen.address"),
    ("SPILED_ADMIN", "admin.address"),
    ("SPILED_LOG", "log.filter"),
];

/// Variables of this family that are not keys.
const OTHER: &[&str] = &["SPILED_CONFIG"];

pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

pub(super) fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.split_once('.').is_some_and(|(section, _)| section == path))
}

/// The environment variable of a key: `listen.address` is `SPILED_LISTEN_ADDRESS`.
pub(super) fn variable(path: &str) -> String {
    format!("SPILED_{}", path.replace('.', "_").to_ascii_uppercase())
}

/// The key an environment variable is for, or `None` when there is none.
pub(super) fn of_variable(name: &str) -> Option<&'static str> {
    let short = SHORT.iter().find(|(short, _)| *short == name).map(|(_, path)| *path);
    short.or_else(|| KEYS.iter().map(|key| key.path).find(|path| variable(path) == name))
}

/// The variable that a mistyped one is meant to be, if it is near one.
pub(super) fn meant_variable(name: &str) -> Option<String> {
    let typed = name.strip_prefix("SPILED_")?;
    let known: Vec<String> = KEYS.iter().map(|key| variable(key.path)).collect();
    let known = known.iter().filter_map(|name| name.strip_prefix("SPILED_"));
    nearest(typed, known).map(|near| format!("SPILED_{near}"))
}

pub(super) fn is_other_variable(name: &str) -> bool {
    OTHER.contains(&name)
}

/// The known word nearest to a mistyped one, if it is near enough to be meant.
pub(super) fn nearest<'w>(typed: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    known
        .map(|word| (distance(typed, word), word))
        .filter(|(far, word)| *far <= 1 + word.len() / 4)
        .min()
        .map(|(_, word)| word)
}

/// How many letters must change to make one word the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(b.chars()) {
            let changed = diagonal + usize::from(ca != cb);
            diagonal = *cell;
            left = changed.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshtein() {
        for (a, b, far) in [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), far, "{a} {b}");
        }
    }

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        let known = || KEYS.iter().map(|key| key.path);
        assert_eq!(nearest("listen.adress", known()), Some("listen.address"));
        assert_eq!(nearest("wibble", known()), None);
    }

    #[test]
    fn variables_lead_back_to_their_keys() {
        for key in KEYS {
            assert_eq!(of_variable(&variable(key.path)), Some(key.path));
        }
        assert_eq!(of_variable("SPILED_LISTEN"), Some("listen.address"));
        assert_eq!(of_variable("SPILED_NONSENSE"), None);
    }

    #[test]
    fn a_mistyped_variable_is_seen_and_a_clusters_own_is_let_be() {
        assert_eq!(meant_variable("SPILED_DATE").as_deref(), Some("SPILED_DATA"));
        for theirs in ["SPILED_PORT", "SPILED_SERVICE_HOST", "SPILED_PORT_7450_TCP_ADDR"] {
            assert_eq!(meant_variable(theirs), None, "{theirs}");
        }
    }
}
