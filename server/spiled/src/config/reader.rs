//! From text to values with places: one file, the environment and flags, read by key.
//!
//! Flag beats environment beats file. Nothing here knows what a value means; it knows where it stands, and gathers
//! every mistake instead of stopping at the first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, RoleName};
use super::mistake::{Mistake, Source};

/// The value of one key as it stands in a file.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(String),
    Bool(bool),
    List(Vec<Item>),
    Table(Vec<(String, Item)>),
    Other(&'static str),
}

/// A value and its line.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// A value that was read, and from where.
#[derive(Debug, Clone)]
pub(super) struct Read<T> {
    pub(super) value: T,
    pub(super) source: Source,
}

/// What a value must be, said in one place: what is wrong, and the remedy.
pub(super) type Wrong = (String, String);

/// What is given beside the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Flags: name as typed, key, value.
    pub flags: Vec<(&'static str, &'static str, String)>,
    /// The environment's variables; only `SPILED_…` are looked at.
    pub environment: Vec<(String, String)>,
}

pub(super) struct Reader {
    file: BTreeMap<String, Item>,
    over: BTreeMap<&'static str, (Source, String)>,
    base: PathBuf,
    pub(super) mistakes: Vec<Mistake>,
}

impl Reader {
    /// Parses the file's text and lays environment and flags over it.
    pub(super) fn new(file: Option<(&Path, &str)>, overrides: &Overrides) -> Self {
        let mut reader = Self {
            file: BTreeMap::new(),
            over: BTreeMap::new(),
            base: PathBuf::new(),
            mistakes: Vec::new(),
        };
        if let Some((path, text)) = file {
            reader.base = path.parent().unwrap_or(Path::new("")).to_owned();
            reader.parse(text);
        }
        reader.lay_over(overrides);
        reader
    }

    fn parse(&mut self, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            let what = error.message().lines().next().unwrap_or("not TOML").to_owned();
            self.wrong(Source::Line(line), "", (what, "mend the TOML there".to_owned()));
        }
        for (name, item) in items(text, table.get_ref()) {
            match item.value {
                Value::Table(inner) if keys::is_section(&name) => {
                    for (key, item) in inner {
                        self.file.insert(format!("{name}.{key}"), item);
                    }
                }
                Value::Text(_)
                | Value::Integer(_)
                | Value::Bool(_)
                | Value::List(_)
                | Value::Table(_)
                | Value::Other(_) => {
                    self.file.insert(name, item);
                }
            }
        }
    }

    fn lay_over(&mut self, overrides: &Overrides) {
        for (name, value) in &overrides.environment {
            if !name.starts_with("SPILED_") || keys::is_other_variable(name) {
                continue;
            }
            let source = Source::Environment(name.clone());
            match (keys::of_variable(name), keys::meant_variable(name)) {
                (Some(path), _) => drop(self.over.insert(path, (source, value.clone()))),
                (None, Some(near)) => self.wrong(source, "", unknown_variable(&near)),
                // Others name variables too: a cluster gives SPILED_PORT to all beside a service `spiled`.
                (None, None) => {}
            }
        }
        for (flag, path, value) in &overrides.flags {
            self.over.insert(path, (Source::Flag(flag), value.clone()));
        }
    }

    /// Refuses what no key is called, and keys that another role reads.
    pub(super) fn check_keys(&mut self, role: RoleName) {
        let given: Vec<(String, Source)> = (self.file.iter())
            .map(|(path, item)| (path.clone(), Source::Line(item.line)))
            .chain(self.over.iter().map(|(path, (source, _))| ((*path).to_owned(), source.clone())))
            .collect();
        for (path, source) in given {
            match keys::find(&path) {
                None => self.wrong(source, &path, unknown_key(&path)),
                Some(key) if !key.roles.contains(&role) => {
                    self.wrong(source, &path, other_role(key.roles, role));
                }
                Some(_) => {}
            }
        }
    }

    pub(super) fn wrong(&mut self, source: Source, key: &str, (what, remedy): Wrong) {
        self.mistakes.push(Mistake { source, key: key.to_owned(), what, remedy });
    }

    /// Reads a scalar through `parse`; a wrong one is a mistake and reads as absent.
    pub(super) fn scalar<T>(
        &mut self,
        path: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Read<T>> {
        let (source, text) = self.raw(path)?;
        match parse(&text) {
            Ok(value) => Some(Read { value, source }),
            Err(wrong) => {
                self.wrong(source, path, wrong);
                None
            }
        }
    }

    fn raw(&mut self, path: &'static str) -> Option<(Source, String)> {
        if let Some((source, text)) = self.over.get(path) {
            return Some((source.clone(), text.clone()));
        }
        let item = self.file.get(path)?;
        let source = Source::Line(item.line);
        match &item.value {
            Value::Text(text) | Value::Integer(text) => Some((source, text.clone())),
            Value::Bool(value) => Some((source, value.to_string())),
            Value::List(_) => self.no_scalar(path, source, "a list"),
            Value::Table(_) => self.no_scalar(path, source, "a table"),
            Value::Other(kind) => {
                let kind = *kind;
                self.no_scalar(path, source, kind)
            }
        }
    }

    fn no_scalar(&mut self, path: &str, source: Source, kind: &str) -> Option<(Source, String)> {
        self.wrong(source, path, (format!("{kind} stands here"), "write one value".to_owned()));
        None
    }

    /// Reads a path; one from the file is meant from the file's own folder.
    pub(super) fn path(&mut self, path: &'static str) -> Option<Read<PathBuf>> {
        let base = self.base.clone();
        let read = self.scalar(path, |text| match text {
            "" => Err(("an empty path".to_owned(), "name a file or folder".to_owned())),
            text => Ok(PathBuf::from(text)),
        })?;
        let value = match read.source {
            Source::Line(_) => base.join(read.value),
            Source::Flag(_) | Source::Environment(_) | Source::Default => read.value,
        };
        Some(Read { value, source: read.source })
    }

    /// Reads a list of texts; from a flag or the environment, they are separated by commas.
    pub(super) fn texts(&mut self, path: &'static str) -> Option<Read<Vec<String>>> {
        if let Some((source, text)) = self.over.get(path) {
            let value = text.split(',').map(|part| part.trim().to_owned()).collect();
            return Some(Read { value, source: source.clone() });
        }
        let item = self.file.get(path)?.clone();
        let source = Source::Line(item.line);
        let value = self.texts_of(path, &item)?;
        Some(Read { value, source })
    }

    /// The texts of a list item.
    pub(super) fn texts_of(&mut self, path: &str, item: &Item) -> Option<Vec<String>> {
        let Value::List(list) = &item.value else {
            let remedy = "write [\"…\", \"…\"]".to_owned();
            self.wrong(Source::Line(item.line), path, ("not a list".to_owned(), remedy));
            return None;
        };
        let mut texts = Vec::with_capacity(list.len());
        for item in list {
            if let Value::Text(text) = &item.value {
                texts.push(text.clone());
            } else {
                let wrong = ("not a text".to_owned(), "put it in quotes".to_owned());
                self.wrong(Source::Line(item.line), path, wrong);
            }
        }
        Some(texts)
    }

    /// Reads a list of tables; unknown keys inside are mistakes.
    pub(super) fn tables(&mut self, path: &'static str) -> Option<Read<Vec<Row>>> {
        if let Some((source, _)) = self.over.get(path) {
            let wrong = ("a list of tables".to_owned(), "write it in the file".to_owned());
            self.wrong(source.clone(), path, wrong);
            return None;
        }
        let item = self.file.get(path)?.clone();
        let source = Source::Line(item.line);
        let Value::List(list) = item.value else {
            let wrong = ("not a list".to_owned(), format!("write [[{path}]] above each"));
            self.wrong(source, path, wrong);
            return None;
        };
        let value = list.into_iter().filter_map(|item| self.row(path, item)).collect();
        Some(Read { value, source })
    }

    fn row(&mut self, path: &'static str, item: Item) -> Option<Row> {
        let line = item.line;
        let Value::Table(entries) = item.value else {
            let wrong = ("not a table".to_owned(), format!("write [[{path}]] above each"));
            self.wrong(Source::Line(line), path, wrong);
            return None;
        };
        let known = keys::LIST_KEYS.iter().find(|(list, _)| *list == path);
        let known = known.map(|(_, keys)| *keys).unwrap_or_default();
        for (key, item) in &entries {
            if !known.contains(&key.as_str()) {
                let remedy = match keys::nearest(key, known.iter().copied()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("known here: {}", known.join(", ")),
                };
                let wrong = ("unknown key".to_owned(), remedy);
                self.wrong(Source::Line(item.line), &format!("{path}.{key}"), wrong);
            }
        }
        Some(Row { path, line, entries })
    }
}

/// One table of a list.
pub(super) struct Row {
    path: &'static str,
    pub(super) line: usize,
    entries: Vec<(String, Item)>,
}

impl Row {
    /// The text under a key; its absence is a mistake.
    pub(super) fn text(&self, reader: &mut Reader, key: &str) -> Option<Read<String>> {
        let path = format!("{}.{key}", self.path);
        let Some(item) = self.item(key) else {
            let wrong = ("missing".to_owned(), format!("add {key} = \"…\""));
            reader.wrong(Source::Line(self.line), &path, wrong);
            return None;
        };
        if let Value::Text(text) = &item.value {
            return Some(Read { value: text.clone(), source: Source::Line(item.line) });
        }
        let wrong = ("not a text".to_owned(), "put it in quotes".to_owned());
        reader.wrong(Source::Line(item.line), &path, wrong);
        None
    }

    pub(super) fn item(&self, key: &str) -> Option<&Item> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, item)| item)
    }
}

fn unknown_key(path: &str) -> Wrong {
    let remedy = match keys::nearest(path, keys::KEYS.iter().map(|key| key.path)) {
        Some(near) => format!("did you mean {near}?"),
        None => "remove it".to_owned(),
    };
    ("unknown key".to_owned(), remedy)
}

fn unknown_variable(near: &str) -> Wrong {
    ("no key has this variable".to_owned(), format!("did you mean {near}?"))
}

fn other_role(roles: &[RoleName], role: RoleName) -> Wrong {
    let words: Vec<&str> = roles.iter().map(|role| role.word()).collect();
    (
        format!("is for role {}, and this is {}", words.join(" or "), role.word()),
        "remove it, or start the other role".to_owned(),
    )
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}

fn items(text: &str, table: &DeTable<'_>) -> Vec<(String, Item)> {
    let mut items: Vec<(String, Item)> = table
        .iter()
        .map(|(key, value)| {
            let line = line_of(text, key.span().start);
            (key.get_ref().to_string(), Item { line, value: value_of(text, value) })
        })
        .collect();
    items.sort_by_key(|(_, item)| item.line);
    items
}

fn value_of(text: &str, value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(value) => Value::Text(value.to_string()),
        DeValue::Integer(value) => Value::Integer(value.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Array(list) => Value::List(
            list.iter()
                .map(|item| Item {
                    line: line_of(text, item.span().start),
                    value: value_of(text, item),
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(items(text, table)),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
    }
}
