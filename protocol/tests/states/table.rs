//! The tables as the specification has them: rows become one case for each state and each input they name.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What comes in: a message with what is particular about it, or something that happens.
#[derive(Clone, Debug)]
pub struct Input {
    pub from_worker: bool,
    pub kind: Option<String>,
    pub what: String,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub state: String,
    pub input: Input,
    output: String,
    next: String,
    /// The row, to find it by.
    pub line: String,
}

/// What a row says must come of it; `None`: it does not say.
#[derive(Debug)]
pub struct Want {
    pub said: Vec<String>,
    pub told: Option<u16>,
    pub handed: Option<bool>,
    pub read: Option<bool>,
    pub next: String,
}

pub struct Spec {
    text: String,
    kinds: BTreeMap<u8, String>,
}

impl Input {
    pub fn message(kind: &str) -> Self {
        Self { from_worker: false, kind: Some(kind.to_owned()), what: String::new() }
    }

    /// Is it that kind as it usually is? A FAULT is one for the session.
    pub fn is_usual(&self, kind: &str) -> bool {
        let usual = self.what.is_empty() || (kind, &*self.what) == ("FAULT", "session");
        usual && !self.from_worker && self.kind.as_deref() == Some(kind)
    }
}

impl Case {
    pub fn unexpected(state: &str, kind: &str) -> Self {
        Self {
            state: state.to_owned(),
            input: Input::message(kind),
            output: "C, 104".to_owned(),
            next: "Closed".to_owned(),
            line: "no row names it".to_owned(),
        }
    }

    /// `farewell`: the message the machine tells a code by.
    pub fn want(&self, farewell: &str) -> Want {
        let (said, prose) = self.output.split_once(':').unwrap_or((&self.output, ""));
        let mut want = Want {
            said: Vec::new(),
            told: None,
            handed: None,
            read: None,
            next: self.next.clone(),
        };
        let mut words = said.split(", ").map(str::trim).filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            match word {
                "C" => {
                    want.told = Some(words.next().unwrap().parse().unwrap());
                    want.said.push(farewell.to_owned());
                }
                "the same" => want.said.extend(self.input.kind.clone()),
                "to the client" => {}
                kind => {
                    assert!(kind.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{kind}");
                    want.said.push(kind.to_owned());
                }
            }
        }
        let says = |words: &[&str]| words.iter().any(|word| prose.contains(word));
        if says(&["handed on"]) {
            want.handed = Some(true);
        } else if says(&["dropped", "kept, not decoded", "not read"]) {
            want.handed = Some(false);
        }
        want.read = says(&["kept, not decoded", "not read"]).then_some(false);
        want
    }
}

impl Spec {
    pub fn read() -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../spec/protocol.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut kinds = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("| ")) {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            for pair in cells.windows(2) {
                if let (true, Ok(number)) = (is_kind(pair[0]), pair[1].parse()) {
                    kinds.insert(number, pair[0].to_owned());
                }
            }
            if line.starts_with("| CHANGED |") {
                break;
            }
        }
        Self { text, kinds }
    }

    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.kinds.values().map(String::as_str)
    }

    pub fn kind(&self, number: u8) -> &str {
        &self.kinds[&number]
    }

    /// The rows of a section's table.
    fn lines(&self, section: &str) -> impl Iterator<Item = &str> {
        let heading = format!("\n### {section} ");
        let rest = self.text.split_once(&heading).unwrap().1;
        let rows = rest.split("\n### ").next().unwrap().lines();
        rows.filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).skip(1)
    }

    /// The same by their cells.
    pub fn rows(&self, section: &str) -> Vec<Vec<String>> {
        let cells = |line: &str| {
            let line = line.trim_start_matches('|').trim_end_matches('|');
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        self.lines(section).map(cells).collect()
    }

    /// The cases of a section's table that are about one end, where it has a column for that.
    pub fn cases(&self, section: &str, end: &str) -> Vec<Case> {
        self.lines(section).flat_map(|line| self.row(line, end)).collect()
    }

    fn row(&self, line: &str, end: &str) -> Vec<Case> {
        let plain = without_brackets(line);
        let mut cells = plain.trim_matches('|').split('|').map(str::trim);
        if !end.is_empty() && !["both", end].contains(&cells.next().unwrap()) {
            return Vec::new();
        }
        let cells: Vec<_> = cells.collect();
        let [states, inputs, output, next] = cells[..] else { panic!("not a row: {line}") };
        let mut cases = Vec::new();
        for state in states.split(", ") {
            for input in self.inputs(inputs) {
                let (state, output, next) = (state.into(), output.into(), next.into());
                cases.push(Case { state, input, output, next, line: line.into() });
            }
        }
        cases
    }

    fn inputs(&self, cell: &str) -> Vec<Input> {
        let from_worker = cell.starts_with("from the worker: ");
        let cell = cell.trim_start_matches("from the worker: ");
        let mut inputs = Vec::new();
        for alternative in cell.split("; ") {
            let words: Vec<_> = alternative.split(", ").collect();
            let kind_of = |word: &str| {
                let first = word.split(' ').next().unwrap_or_default();
                self.kinds.values().any(|kind| kind == first).then(|| first.to_owned())
            };
            let kinds: Vec<_> = words.iter().map_while(|word| kind_of(word)).collect();
            let behind = |kind: &str| {
                alternative
                    .split_once(kind)
                    .map_or("", |(_, rest)| rest.trim_start_matches([',', ' ']))
                    .to_owned()
            };
            match &kinds[..] {
                [] => {
                    inputs.push(Input { from_worker, kind: None, what: alternative.to_owned() });
                }
                [kind] => {
                    inputs.push(Input { from_worker, what: behind(kind), kind: Some(kind.clone()) })
                }
                many => {
                    assert_eq!(many.len(), words.len(), "{cell}");
                    inputs.extend(many.iter().map(|kind| Input {
                        from_worker,
                        kind: Some(kind.clone()),
                        what: String::new(),
                    }));
                }
            }
        }
        inputs
    }
}

fn is_kind(word: &str) -> bool {
    word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// Words in brackets explain, and say nothing else.
fn without_brackets(line: &str) -> String {
    let mut depth = 0;
    let plain: String = line
        .chars()
        .filter(|&c| {
            depth += i32::from(c == '(');
            let inside = depth > 0;
            depth -= i32::from(c == ')');
            !inside
        })
        .collect();
    plain.replace("  ", " ").replace(" ;", ";").replace(" ,", ",")
}
