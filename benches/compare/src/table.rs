//! The figures as text for a terminal.

use super::results::{
    IdleResult, Memory, Metric, ProfileResult, Ratio, Results, Row, Sample, Settings, Syscalls,
};
use std::fmt::Write;

/// Above this many CPUs kept busy by others, a run is told to be disturbed.
pub(super) const QUIET_CPUS_MAX: f64 = 0.1;

/// Digits that suit the size: three or four that count.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => group(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A whole number with commas.
fn group(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// `1.36 (1.31 to 1.42)`.
pub(super) fn ratio(ratio: &Ratio) -> String {
    let (low, high) = ratio.summary.interval_95;
    format!("{:.3} ({low:.3} to {high:.3})", ratio.summary.median)
}

/// The columns of one contender, as text: used by the table and the report.
pub(super) fn columns(row: &Row, settings: &Settings) -> Vec<(&'static str, String)> {
    let median = |value: fn(&Sample) -> f64| {
        row.summary(value).map_or_else(|| "-".to_owned(), |summary| number(summary.median))
    };
    let syscalls = match &row.syscalls {
        Syscalls::Counted { per_request, .. } => number(*per_request),
        Syscalls::NotCounted { .. } => "not counted".to_owned(),
    };
    let interval = row.summary(|sample| sample.cpu_us).map_or_else(
        || "-".to_owned(),
        |cpu| format!("{} to {}", number(cpu.interval_95.0), number(cpu.interval_95.1)),
    );
    vec![
        ("CPU us/request", median(|sample| sample.cpu_us)),
        ("95% interval", interval),
        ("user", median(|sample| sample.user_us)),
        ("system", median(|sample| sample.system_us)),
        ("requests/s", median(|sample| sample.requests_per_second)),
        ("limited by", row.limit(settings).map_or("-", super::results::Limit::text).to_owned()),
        ("switches/request", median(|sample| sample.voluntary_switches + sample.involuntary_switches)),
        ("syscalls/request", syscalls),
        ("p50 us", median(|sample| sample.latency_us.p50)),
        ("p99 us", median(|sample| sample.latency_us.p99)),
        ("server CPU", median(|sample| sample.server_cpus)),
        ("client CPU", median(|sample| sample.client_cpus)),
        ("void", row.void_count().to_string()),
    ]
}

/// Everything that was measured, for a terminal.
pub(super) fn profile(result: &ProfileResult, settings: &Settings) -> String {
    let mut text = format!("\n== {}: {}\n", result.profile.name(), result.profile.what());
    let mut add = |line: String| writeln!(text, "{line}").expect("writing to a String cannot fail");
    if let Some(failed) = &result.failed {
        add(format!("failed: {failed}"));
    }
    let mut lines = Vec::new();
    for row in &result.rows {
        let cells = columns(row, settings);
        if lines.is_empty() {
            let names = cells.iter().map(|(name, _)| (*name).to_owned());
            lines.push(std::iter::once("contender".to_owned()).chain(names).collect());
        }
        let values = cells.into_iter().map(|(_, value)| value);
        lines.push(std::iter::once(row.contender.to_owned()).chain(values).collect());
    }
    aligned(&lines).into_iter().for_each(&mut add);
    for found in &result.ratios {
        let what = match found.metric {
            Metric::Cpu => "CPU a request",
            Metric::Rate => "requests/s",
        };
        add(format!(
            "{} / {}, {what}: {} of {} pairs: {}",
            found.contender,
            found.baseline,
            ratio(found),
            found.pairs.len(),
            found.verdict.text()
        ));
    }
    for rate in &result.latency {
        add(format!(
            "-- latency at {}/s ({}% of the slowest peak)",
            number(rate.requests_per_second),
            rate.percent
        ));
        let mut lines = Vec::new();
        for row in &rate.rows {
            let percentiles = row.percentiles().unwrap_or_default();
            if lines.is_empty() && !percentiles.is_empty() {
                let names = percentiles.iter().map(|(name, _)| format!("{name} us"));
                lines.push(std::iter::once("contender".to_owned()).chain(names).collect());
            }
            let values = percentiles.iter().map(|(_, value)| number(*value));
            lines.push(std::iter::once(row.contender.to_owned()).chain(values).collect());
        }
        aligned(&lines).into_iter().for_each(&mut add);
    }
    for left_out in &result.left_out {
        add(format!("left out: {}: {}", left_out.contender, left_out.reason));
    }
    for void in result.voids() {
        add(format!("void: {void}"));
    }
    let reasons = result.rows.iter().filter_map(|row| match &row.syscalls {
        Syscalls::NotCounted { reason } => Some((row.contender, reason)),
        Syscalls::Counted { .. } => None,
    });
    for (contender, reason) in reasons {
        add(format!("system calls of {contender} not counted: {reason}"));
    }
    if let Some(others) = result.others() {
        let warning =
            if others.max > QUIET_CPUS_MAX { ": not a quiet machine, repeat before quoting" } else { "" };
        add(format!(
            "other programs kept {:.2} CPUs busy meanwhile (median; at most {:.2}){warning}",
            others.median, others.max
        ));
    }
    text
}

/// Memory of idle connections, for a terminal.
pub(super) fn idle(result: &IdleResult) -> String {
    let mut lines = vec![["contender", "only opened", "after a request"].map(str::to_owned).to_vec()];
    for row in &result.rows {
        lines.push(vec![row.contender.to_owned(), memory(&row.opened), memory(&row.requested)]);
    }
    let mut text = format!(
        "\n== {}: {}, {} connections\n",
        result.profile.name(),
        result.profile.what(),
        result.connections
    );
    for line in aligned(&lines) {
        writeln!(text, "{line}").expect("writing to a String cannot fail");
    }
    for left_out in &result.left_out {
        writeln!(text, "left out: {}: {}", left_out.contender, left_out.reason).expect("as above");
    }
    text
}

pub(super) fn memory(memory: &Memory) -> String {
    match memory {
        Memory::Bytes(bytes) => number(*bytes),
        Memory::Failed(reason) => format!("failed: {reason}"),
    }
}

/// What a reader should know, for a terminal.
pub(super) fn end(results: &Results) -> String {
    let mut text = String::new();
    for left_out in &results.left_out {
        writeln!(text, "left out: {}: {}", left_out.contender, left_out.reason).expect("as above");
    }
    for warning in &results.warnings {
        writeln!(text, "warning: {warning}").expect("as above");
    }
    text
}

/// Columns under each other: the first to the left, the others to the right.
fn aligned(lines: &[Vec<String>]) -> Vec<String> {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |cells: &Vec<String>| {
        let cells = cells.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<0$}", widths[0]),
            _ => format!("{cell:>0$}", widths[column]),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_count() {
        let check = |value, expected: &str| assert_eq!(number(value), expected);
        check(0.1234, "0.123");
        check(3.456, "3.46");
        check(34.56, "34.6");
        check(345.6, "346");
        check(3456.7, "3,457");
        check(1_234_567.0, "1,234,567");
        check(-1500.0, "-1,500");
        check(0.0, "0.000");
    }

    #[test]
    fn columns_are_aligned() {
        let lines = [vec!["a".to_owned(), "long".to_owned()], vec!["bcd".to_owned(), "1".to_owned()]];
        assert_eq!(aligned(&lines), ["a    long", "bcd     1"]);
    }
}
