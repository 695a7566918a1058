//! Bytes on the wire and on disk are drawn in spec/ and nowhere else, so that no drawing goes stale.
//!
//! A heuristic: frames of cells, bit rulers, and tables of offsets. Drawings of rooms and ways are welcome everywhere.

use super::SourceFile;

pub(crate) fn complaints(files: &[SourceFile]) -> Vec<String> {
    files
        .iter()
        .filter(|file| !file.path.starts_with("spec/") && !file.path.contains("tests/tidy/"))
        .flat_map(|file| {
            let lines = file.text.lines().enumerate().filter(|(_, line)| is_layout(line));
            lines.map(|(n, _)| {
                let path = &file.path;
                format!("{path}:{}: draws a layout of bytes; move it to spec/ and cite it", n + 1)
            })
        })
        .collect()
}

fn is_layout(line: &str) -> bool {
    let squeezed: String = line.chars().filter(|c| !c.is_whitespace()).collect();
    squeezed.contains("01234567890123") && line.contains("0 1 2 3")
        || is_ruled(line)
        || is_celled(line)
        || is_table_of_offsets(line)
}

/// `+----+--------+`: at least two cells.
fn is_ruled(line: &str) -> bool {
    line.split_whitespace().any(|word| {
        word.starts_with("+-")
            && word.ends_with("-+")
            && word.matches('+').count() >= 3
            && word.chars().all(|c| matches!(c, '+' | '-' | '='))
    })
}

/// `┌────┬────┬────┐`: at least three cells in a row.
fn is_celled(line: &str) -> bool {
    line.split_whitespace().any(|word| {
        word.starts_with(['┌', '├', '└'])
            && word.ends_with(['┐', '┤', '┘'])
            && word.matches(['┬', '┼', '┴']).count() >= 2
    })
}

/// `| offset | size | field |`.
fn is_table_of_offsets(line: &str) -> bool {
    let row = line.trim_start_matches(['/', '!', ' ']).to_ascii_lowercase();
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    row.starts_with('|')
        && cells.contains(&"offset")
        && cells.iter().any(|cell| matches!(*cell, "size" | "bytes" | "length" | "len"))
}

#[test]
fn a_layout_outside_the_specification_is_found() {
    for (text, fails) in [
        ("//! +------+--------+-----+", true),
        ("    +-+-+-+-+", true),
        ("//! ┌──────┬────────┬─────┐", true),
        ("//! ├──────┼────────┼─────┤", true),
        ("//  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5", true),
        ("| offset | size | field |", true),
        ("//! | Offset | Bytes | What |", true),
        ("┌───────────────┐  TLS 1.3  ┌───────┐", false),
        ("edge ──▶ worker", false),
        ("| date | commit | result |", false),
        ("| --- | --- |", false),
        ("let x = a +- b;", false),
    ] {
        let found = complaints(&[SourceFile::sample("docs/x.md", text)]);
        assert_eq!(!found.is_empty(), fails, "{text}");
        let found = complaints(&[SourceFile::sample("spec/log.md", text)]);
        assert!(found.is_empty(), "spec/ is where drawings belong");
    }
}
