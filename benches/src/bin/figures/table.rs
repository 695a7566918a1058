//! The lines of the table, and medians. A line that has no "must" only tells.

use std::fmt;

/// One figure.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) measured: String,
    pub(crate) bare: String,
    pub(crate) ratio: String,
    pub(crate) must: String,
    /// Whether the must is reached; `None` where there is none.
    pub(crate) met: Option<bool>,
}

/// All figures of a run, in the order they were measured.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn push(&mut self, row: Row) {
        self.0.push(row);
    }

    /// One line for a log.
    pub(crate) fn summary(&self) -> String {
        let judged = self.0.iter().filter_map(|row| row.met);
        let (musts, met) = (judged.clone().count(), judged.filter(|met| *met).count());
        format!("{} figures measured, {met} of {musts} at their must", self.0.len())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n| what | measured | bare limit, same run | ratio | must | reached |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for Row { what, measured, bare, ratio, must, met } in &self.0 {
            let reached = met.map_or("", |met| if met { "yes" } else { "**no**" });
            writeln!(f, "| {what} | {measured} | {bare} | {ratio} | {must} | {reached} |")?;
        }
        Ok(())
    }
}

/// The middle one; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_the_middle_one_counts() {
        assert_eq!((grouped(7.2), grouped(1_234_567.0)), ("7".into(), "1,234,567".into()));
        assert!((median(vec![9.0, 1.0, 5.0]) - 5.0).abs() < f64::EPSILON);
    }
}
