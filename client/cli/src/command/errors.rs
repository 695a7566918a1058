//! `spile errors [CODE]`: cause and remedy of a code, the wire's or our own.

use serde::Serialize;
use spile_protocol::code::{Code, TABLE};

use crate::args::Errors;
use crate::failure::Failure;
use crate::local_code;
use crate::output::Output;

#[derive(Serialize)]
struct Explained {
    code: &'static str,
    number: Option<u16>,
    class: &'static str,
    retry: bool,
    cause: &'static str,
    remedy: &'static str,
}

pub(crate) fn run(args: &Errors, output: &mut Output) -> Result<(), Failure> {
    let Some(code) = &args.code else {
        return all().try_for_each(|explained| output.result(&explained, line));
    };
    let wanted = code.trim().trim_matches(['(', ')']).to_lowercase();
    let found = all().find(|known| known.code == wanted || is_number(known, &wanted));
    let explained = found.ok_or_else(|| {
        Failure::code(format!("explain {code}"), Code::NOT_FOUND, "there is no such code")
            .remedy("see `spile errors` for all of them")
    })?;
    output.result(&explained, whole)
}

fn is_number(known: &Explained, wanted: &str) -> bool {
    known.number.is_some_and(|number| wanted.parse() == Ok(number))
}

fn all() -> impl Iterator<Item = Explained> {
    let wire = TABLE.iter().map(|entry| Explained {
        code: entry.name,
        number: Some(entry.code.0),
        class: entry.class.name(),
        retry: entry.retry,
        cause: entry.cause,
        remedy: entry.remedy,
    });
    let local = local_code::ALL.iter().map(|code| Explained {
        code: code.name,
        number: None,
        class: code.class,
        retry: code.exit == crate::failure::Exit::Unreachable,
        cause: code.cause,
        remedy: code.remedy,
    });
    wire.chain(local)
}

fn line(explained: &Explained) -> String {
    let number = explained.number.map_or_else(|| "   ".to_owned(), |number| number.to_string());
    format!("{number}  {:<16} {:<13} {}", explained.code, explained.class, explained.cause)
}

fn whole(explained: &Explained) -> String {
    let number = explained.number.map_or_else(String::new, |number| format!("{number} "));
    let again = if explained.retry { "the same may be tried again" } else { "not as it is" };
    format!(
        "{number}{} ({})\ncause:  {}\nremedy: {}\nretry:  {again}",
        explained.code, explained.class, explained.cause, explained.remedy
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_name_and_a_whole_explanation() {
        let names: Vec<_> = all().map(|explained| explained.code).collect();
        let mut once = names.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), names.len());
        assert!(all().all(|explained| !explained.cause.is_empty() && !explained.remedy.is_empty()));
    }
}
