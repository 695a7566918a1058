//! What help, error texts and documents tell people to type can be typed: each `spile …` and `spiled …` is looked up in
//! what the binaries themselves say they do.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::spile;

/// Named where it is told that they are not there yet, and what only looks like one. One that is named nowhere any more
/// goes from here.
const EXCEPTIONS: &[&str] = &[
    "spile retention set",
    "spile device quota",
    "spile device add --token",
    "spile audit tail",
    "spile registry 1",
];

/// The programs, and the help of each of their commands that was asked for.
#[derive(Default)]
struct Helps(BTreeMap<Vec<String>, String>);

impl Helps {
    /// What `--help` behind these words prints.
    fn of(&mut self, words: &[String]) -> &str {
        self.0.entry(words.to_vec()).or_insert_with(|| {
            let (program, rest) = words.split_first().unwrap();
            let spiled = Path::new(env!("CARGO_BIN_EXE_spiled"));
            let mut help = Command::new(if program == "spile" { spile::binary() } else { spiled });
            let help = help.args(rest).arg("--help").stdin(Stdio::null()).output().unwrap();
            String::from_utf8(help.stdout).unwrap()
        })
    }

    fn commands(&mut self, words: &[String]) -> Vec<String> {
        section(self.of(words), "Commands:").iter().map(|line| first(line).to_owned()).collect()
    }

    fn takes_words(&mut self, words: &[String]) -> bool {
        !section(self.of(words), "Arguments:").is_empty()
    }

    /// What of a line as people type it is not there.
    fn missing(&mut self, typed: &str) -> Option<String> {
        let mut all = typed.split_whitespace();
        let mut at = vec![all.next()?.to_owned()];
        let mut rest = Vec::new();
        for word in all {
            let commands = self.commands(&at);
            if !rest.is_empty() || commands.is_empty() || word.starts_with('-') {
                rest.push(word);
                continue;
            }
            // `ls|show|rm` names three.
            let named: Vec<_> = word.split('|').filter(|one| is_word(one)).collect();
            let unknown = named.iter().find(|one| !commands.iter().any(|known| known == *one));
            match (named.as_slice(), unknown) {
                (_, Some(unknown)) if !self.takes_words(&at) => {
                    return Some(format!("{} has no {unknown}", at.join(" ")));
                }
                ([one], None) => at.push((*one).to_owned()),
                _ => rest.push(word),
            }
        }
        if at.get(1).is_some_and(|command| command == "help") {
            return None;
        }
        let help = self.of(&at).to_owned();
        let flags = rest.iter().take_while(|word| **word != "|").filter_map(|word| flag(word));
        let known = |flag: &str| {
            help.split(|c: char| !c.is_ascii_lowercase() && c != '-').any(|word| word == flag)
        };
        let unknown = flags.into_iter().find(|flag| !known(flag))?;
        Some(format!("{} has no {unknown}", at.join(" ")))
    }
}

/// The indented lines under a heading, those that name something.
fn section<'t>(help: &'t str, heading: &str) -> Vec<&'t str> {
    let behind = help.lines().skip_while(|line| *line != heading).skip(1);
    let inside = behind.take_while(|line| line.starts_with(' ') || line.is_empty());
    inside.filter(|line| line.starts_with("  ") && !line.starts_with("   ")).collect()
}

fn first(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

fn flag(word: &str) -> Option<&str> {
    let named = word.trim_start_matches('[').split(['=', ']', '|']).next()?;
    named.strip_prefix("--").filter(|name| is_word(name)).map(|_| named)
}

/// What a text tells people to type: in backquotes, also over a line's end, and as a line of an example.
fn typed(text: &str) -> Vec<String> {
    let bare = |line: &str| line.trim().trim_start_matches(['/', '!']).trim().to_owned();
    let lines: Vec<_> = text.lines().map(bare).collect();
    let paragraphs = lines.split(String::is_empty).map(|lines| lines.join(" "));
    let mut found: Vec<_> = paragraphs.flat_map(|paragraph| quoted(&paragraph)).collect();
    let mut fenced = !text.contains("```");
    for line in &lines {
        fenced ^= line.starts_with("```");
        let example = line.trim_start_matches("Example: ").trim_start_matches("$ ");
        if fenced && !line.contains('`') && is_typed(example) {
            found.push(example.to_owned());
        }
    }
    found
}

fn quoted(paragraph: &str) -> Vec<String> {
    let parts = paragraph.split('`').skip(1).step_by(2);
    parts.filter(|part| is_typed(part)).map(str::to_owned).collect()
}

fn is_typed(text: &str) -> bool {
    let mut words = text.split_whitespace();
    matches!(words.next(), Some("spile" | "spiled"))
        && words.next().is_some_and(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
}

fn texts(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let own = path.ends_with("tests/commands/named.rs");
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "corpus" | "artifacts" | "spile-data") {
                texts(&path, found);
            }
        } else if [".rs", ".md"].iter().any(|end| name.ends_with(end)) && !own {
            // Another's editor may move a file away between listing and reading it.
            if let Ok(text) = fs::read_to_string(&path) {
                found.push((path, text));
            }
        }
    }
}

#[test]
fn every_command_that_is_named_anywhere_is_there() {
    let (mut helps, mut all) = (Helps::default(), Vec::new());
    texts(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), &mut all);
    let (mut named, mut wrong, mut excepted) = (0, Vec::new(), Vec::new());
    for (path, text) in &all {
        for typed in typed(text) {
            named += 1;
            if let Some(exception) = EXCEPTIONS.iter().find(|one| typed.starts_with(**one)) {
                excepted.push(*exception);
            } else if let Some(why) = helps.missing(&typed) {
                wrong.push(format!("{}: `{typed}`: {why}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(named > 150, "{named} commands are named");
    let stale: Vec<_> = EXCEPTIONS.iter().filter(|one| !excepted.contains(one)).collect();
    assert!(stale.is_empty(), "named nowhere: {stale:?}");
    for exception in EXCEPTIONS {
        assert!(
            helps.missing(exception).is_some(),
            "`{exception}` is there: no exception any more"
        );
    }
}

#[test]
fn every_remedy_of_a_code_names_commands_that_are_there() {
    let mut helps = Helps::default();
    for entry in spile_protocol::code::TABLE {
        for typed in typed(entry.remedy) {
            assert_eq!(helps.missing(&typed), None, "{}: `{typed}`", entry.name);
        }
    }
}

#[test]
fn a_command_that_is_not_there_is_found() {
    let mut helps = Helps::default();
    for (typed, there) in [
        ("spile publish telemetry/temp 21.5 --key sensor-7", true),
        ("spile blob ls|show|rm", true),
        ("spile upload FILE…|ls|cancel", true),
        ("spile upload trace.bin --key pump-7", true),
        ("spile device", true),
        ("spile help publish", true),
        ("spiled log verify|dump|rebuild DIR", true),
        ("spile policy check", false),
        ("spile blob ls|show|mv", false),
        ("spile publish telemetry/temp --keys k", false),
        ("spile device add d --device-keys", false),
        ("spiled log accept", false),
    ] {
        assert_eq!(helps.missing(typed).is_none(), there, "{typed}: {:?}", helps.missing(typed));
    }
}
