//! Interleaved rounds: every contender is loaded once a round, in an order that turns round each time.
//!
//! Figures are compared only within a round, where the machine was in the same state; a round that the client reports
//! errors for is void and takes part in no figure.

use std::fmt::Write;

use anyhow::Result;
use serde_json::json;

use crate::Settings;
use crate::contender::{Contender, Kind};
use crate::process::{self, MachineTime};
use crate::profile::{Comparison, Measured};
use crate::statistics::{Summary, median};

const WARM_UP_SECONDS: u32 = 1;
/// Above this many CPUs kept busy by others, a sample is told to be disturbed.
const QUIET_CPUS_MAX: f64 = 0.1;

/// One contender in one round.
struct Sample {
    requests: u64,
    seconds: f64,
    /// Server CPU time a request, in microseconds.
    cpu_us: f64,
    user_us: f64,
    system_us: f64,
    /// CPUs that other programs kept busy meanwhile.
    others_cpus: f64,
}

/// A contender with what was measured: one entry a round, an error text where the round is void.
struct Row {
    contender: Contender,
    samples: Vec<Result<Sample, String>>,
}

/// Starts the contenders, warms them up, measures them in turns and sums up.
pub fn compare(settings: &Settings, comparison: &Comparison) -> Result<Measured> {
    let mut rows = Vec::new();
    for &kind in comparison.contenders {
        if kind.is_ringmill() && settings.ringmill.is_none() {
            continue;
        }
        rows.push(Row {
            contender: Contender::start(kind, settings, comparison.client)?,
            samples: Vec::new(),
        });
    }
    for row in &rows {
        // A warm-up that fails shows again in the rounds, where it is reported.
        let _ = comparison
            .client
            .run(settings, row.contender.target, WARM_UP_SECONDS);
    }
    for round in 0..settings.pairs {
        let count = rows.len();
        for turn in 0..count {
            let index = if round % 2 == 0 { turn } else { count - 1 - turn };
            let row = &mut rows[index];
            let sample = sample(settings, comparison, &mut row.contender);
            if process::interrupted() {
                sample?;
                continue;
            }
            row.samples.push(sample.map_err(|error| format!("{error:#}")));
        }
    }
    Ok(sum_up(settings, comparison, &rows))
}

fn sample(settings: &Settings, comparison: &Comparison, contender: &mut Contender) -> Result<Sample> {
    contender.process.expect_running()?;
    let machine_before = MachineTime::read()?;
    let before = contender.process.cpu_time()?;
    let completed = comparison
        .client
        .run(settings, contender.target, settings.seconds)?;
    contender.process.expect_running()?;
    let after = contender.process.cpu_time()?;
    let cpu_ns = after.total_ns.saturating_sub(before.total_ns);
    let others_cpus = MachineTime::read()?.others_since(machine_before, cpu_ns);
    let requests = completed.requests as f64;
    let ticks_us = |ticks: u64| (ticks * process::tick_ns()) as f64 / 1000.0 / requests;
    Ok(Sample {
        requests: completed.requests,
        seconds: completed.seconds,
        cpu_us: cpu_ns as f64 / 1000.0 / requests,
        user_us: ticks_us(after.user_ticks.saturating_sub(before.user_ticks)),
        system_us: ticks_us(after.system_ticks.saturating_sub(before.system_ticks)),
        others_cpus,
    })
}

fn sum_up(settings: &Settings, comparison: &Comparison, rows: &[Row]) -> Measured {
    let mut report = format!(
        "== {}: {} rounds of {} s, server on CPU {}, client on CPU {}\n",
        comparison.name,
        settings.pairs,
        settings.seconds,
        settings.server_cpu(),
        settings.client_cpu()
    );
    line(
        &mut report,
        format_args!(
            "{:<14} {:>10} {:>8} {:>9} {:>10} {:>7} {:>5}",
            "contender", "us/request", "user us", "system us", "requests/s", "reply B", "void"
        ),
    );
    for row in rows {
        write_row(&mut report, row);
    }
    for row in rows {
        for (round, sample) in row.samples.iter().enumerate() {
            if let Err(reason) = sample {
                let name = row.contender.kind.name();
                line(
                    &mut report,
                    format_args!("void: {name}, round {}: {reason}", round + 1),
                );
            }
        }
    }
    let others: Vec<f64> = rows
        .iter()
        .flat_map(|row| row.samples.iter().flatten())
        .map(|sample| sample.others_cpus)
        .collect();
    if let Some(others) = Summary::of(&others) {
        line(
            &mut report,
            format_args!(
                "other programs kept {:.2} CPUs busy meanwhile (median; at most {:.2}){}",
                others.median,
                others.max,
                if others.max > QUIET_CPUS_MAX {
                    ": not a quiet machine, repeat before quoting"
                } else {
                    ""
                }
            ),
        );
    }
    let mut ratios = Vec::new();
    for &(numerator, denominator) in comparison.ratios {
        let name = format!("{}/{}", numerator.name(), denominator.name());
        let Some((values, summary)) = paired_ratios(rows, numerator, denominator) else {
            continue;
        };
        line(
            &mut report,
            format_args!(
                "{name:<26} {:.3}  (min {:.3}, max {:.3}; 95% {:.3} to {:.3}; {} pairs)",
                summary.median,
                summary.min,
                summary.max,
                summary.interval.0,
                summary.interval.1,
                summary.count
            ),
        );
        ratios.push(json!({
            "ratio": name,
            "median": summary.median,
            "min": summary.min,
            "max": summary.max,
            "interval_95": [summary.interval.0, summary.interval.1],
            "pairs": values,
        }));
    }
    let contenders: Vec<_> = rows.iter().map(row_json).collect();
    Measured {
        report,
        json: json!({ "profile": comparison.name, "contenders": contenders, "ratios": ratios }),
    }
}

/// A contender whose rounds are all void has no figures: NaN.
fn write_row(report: &mut String, row: &Row) {
    let column = |value: fn(&Sample) -> f64| {
        let values: Vec<f64> = row.samples.iter().flatten().map(value).collect();
        median(&values).unwrap_or(f64::NAN)
    };
    line(
        report,
        format_args!(
            "{:<14} {:>10.3} {:>8.3} {:>9.3} {:>10.0} {:>7} {:>5}",
            row.contender.kind.name(),
            column(|sample| sample.cpu_us),
            column(|sample| sample.user_us),
            column(|sample| sample.system_us),
            column(|sample| sample.requests as f64 / sample.seconds),
            row.contender.reply_bytes,
            row.samples.iter().filter(|sample| sample.is_err()).count()
        ),
    );
}

/// The ratios of the rounds in which both were measured; none if there is no such round.
fn paired_ratios(rows: &[Row], numerator: Kind, denominator: Kind) -> Option<(Vec<f64>, Summary)> {
    let samples = |kind| {
        let row = rows.iter().find(|row| row.contender.kind == kind)?;
        Some(&row.samples)
    };
    let values: Vec<f64> = samples(numerator)?
        .iter()
        .zip(samples(denominator)?)
        .filter_map(|pair| match pair {
            (Ok(above), Ok(below)) => Some(above.cpu_us / below.cpu_us),
            _ => None,
        })
        .collect();
    let summary = Summary::of(&values)?;
    Some((values, summary))
}

fn row_json(row: &Row) -> serde_json::Value {
    let samples: Vec<_> = row
        .samples
        .iter()
        .map(|sample| match sample {
            Ok(sample) => json!({
                "requests": sample.requests,
                "seconds": sample.seconds,
                "cpu_us": sample.cpu_us,
                "user_us": sample.user_us,
                "system_us": sample.system_us,
                "others_cpus": sample.others_cpus,
            }),
            Err(reason) => json!({ "void": reason }),
        })
        .collect();
    json!({
        "contender": row.contender.kind.name(),
        "reply_bytes": row.contender.reply_bytes,
        "rounds": samples,
    })
}

fn line(report: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(report, "{arguments}").expect("writing to a String cannot fail");
}
