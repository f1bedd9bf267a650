//! Interleaved rounds: every contender is loaded once a round, in an order that turns round each time.
//!
//! Figures are compared only within a round, where the machine was in the same state. A round with an error is void: it
//! takes part in no figure, and its reason is kept. This is the only place that measures.

use super::load::Clients;
use super::order::Order;
use super::proc::{MachineTime, Usage};
use super::process::Interrupted;
use super::profile::Profile;
use super::results::{
    Limit, Metric, ProfileResult, RateResult, RateRow, Ratio, Round, Row, Sample, Settings, Syscalls, Tool,
};
use super::server::Server;
use super::syscalls;
use anyhow::{Result, ensure};
use ringmill_console::statistics::{Summary, Verdict};
use std::time::Duration;

/// The rates of the latency runs, in percent of the slowest contender's peak.
pub(super) const PERCENTS: [u32; 4] = [25, 50, 75, 90];
/// A server that answers less than this part of the asked rate did not keep up: its latencies are those of a queue.
const KEPT_UP: f64 = 0.98;
/// Before the first round: caches, branch predictors, allocators.
const WARM_UP: Duration = Duration::from_millis(500);

/// What all profiles have in common.
pub(super) struct Bench<'a> {
    pub(super) clients: &'a Clients,
    pub(super) settings: &'a Settings,
    /// How system calls are counted; else why they are not.
    pub(super) tool: &'a Result<Tool, String>,
    /// What the servers pass requests on to.
    pub(super) backend: Option<u32>,
    /// Whether latency at fixed rates is measured as well.
    pub(super) latency: bool,
    /// Tells what is going on.
    pub(super) say: &'a dyn Fn(&str),
}

/// Which contender's turn it is: forwards in even rounds, backwards in odd ones, so that nobody always comes first.
fn order(round: u32, count: usize) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..count).collect() } else { (0..count).rev().collect() }
}

/// Runs `measure` once for every contender in every round; stops only when the user interrupts, and then keeps what there
/// is.
fn interleave(
    rounds: u32,
    contenders: usize,
    mut measure: impl FnMut(u32, usize) -> Result<Sample>,
) -> (Vec<Vec<Round>>, Result<()>) {
    let mut all: Vec<Vec<Round>> = vec![Vec::new(); contenders];
    for round in 0..rounds {
        for index in order(round, contenders) {
            match measure(round, index) {
                Ok(sample) => all[index].push(Round::Sample(sample)),
                Err(error) if error.is::<Interrupted>() => return (all, Err(error)),
                Err(error) => all[index].push(Round::Void(format!("{error:#}"))),
            }
        }
    }
    (all, Ok(()))
}

impl Bench<'_> {
    /// Measures running servers. An error is an interrupt: what was measured until then is in `result`.
    pub(super) fn run(
        &self,
        profile: Profile,
        servers: &mut [Server],
        result: &mut ProfileResult,
    ) -> Result<()> {
        let Some(shape) = profile.shape() else { return Ok(()) };
        let plan = |server: &Server, duration, rate| {
            let is_secure = server.identity.is_some();
            let pid = Some(server.process.pid());
            Order { shape, target: server.target, is_secure, duration, rate, server: pid }
        };
        let duration = Duration::from_secs_f64(self.settings.seconds);
        for server in servers.iter() {
            // A warm-up that fails shows again in the rounds, where it is reported.
            let _ = self.clients.run(&plan(server, WARM_UP.min(duration), None));
            self.clients.interrupt.check()?;
        }
        let pairs = self.settings.pairs;
        let (rounds, ended) = interleave(pairs, servers.len(), |round, index| {
            let server = &mut servers[index];
            (self.say)(&format!("round {} of {pairs}: {}", round + 1, server.contender.name));
            self.sample(server, &plan(server, duration, None))
        });
        for (server, rounds) in servers.iter().zip(rounds) {
            result.rows.push(Row {
                contender: server.contender.name,
                replies: server.replies.clone(),
                rounds,
                syscalls: Syscalls::NotCounted { reason: "the run ended before".to_owned() },
            });
        }
        result.ratios = ratios(&result.rows, self.settings);
        ended?;
        self.latency(servers, result, &plan)?;
        for (server, row) in servers.iter().zip(&mut result.rows) {
            row.syscalls = match self.tool {
                Ok(tool) => {
                    (self.say)(&format!("system calls: {}", server.contender.name));
                    let short = duration.min(Duration::from_secs(1));
                    syscalls::count(*tool, self.clients, server, &plan(server, short, None))?
                }
                Err(reason) => Syscalls::NotCounted { reason: reason.clone() },
            };
        }
        for server in servers {
            server.expect_alone()?;
        }
        Ok(())
    }

    /// Every contender at the same rates, which follow from the slowest one's peak.
    fn latency(
        &self,
        servers: &mut [Server],
        result: &mut ProfileResult,
        plan: &dyn Fn(&Server, Duration, Option<f64>) -> Order,
    ) -> Result<()> {
        if !self.latency {
            result.no_latency = Some("not asked for".to_owned());
            return Ok(());
        }
        let peaks: Vec<Option<Summary>> =
            result.rows.iter().map(|row| row.summary(|sample| sample.requests_per_second)).collect();
        let slowest = peaks.iter().flatten().map(|peak| peak.median).min_by(f64::total_cmp);
        let Some(slowest) = slowest else {
            result.no_latency = Some("no contender has a peak".to_owned());
            return Ok(());
        };
        let duration = Duration::from_secs_f64(self.settings.seconds);
        for percent in PERCENTS {
            let rate = (slowest * f64::from(percent) / 100.0).max(1.0).round();
            let (rounds, ended) = interleave(self.settings.latency_rounds, servers.len(), |round, index| {
                let server = &mut servers[index];
                (self.say)(&format!("{rate}/s, round {}: {}", round + 1, server.contender.name));
                let sample = self.sample(server, &plan(server, duration, Some(rate)))?;
                ensure!(
                    sample.requests_per_second >= KEPT_UP * rate,
                    "it did not keep up: {:.0}/s of {rate}/s",
                    sample.requests_per_second
                );
                Ok(sample)
            });
            let rows = servers.iter().zip(rounds);
            let rows =
                rows.map(|(server, rounds)| RateRow { contender: server.contender.name, rounds }).collect();
            result.latency.push(RateResult { percent, requests_per_second: rate, rows });
            ended?;
        }
        Ok(())
    }

    fn sample(&self, server: &mut Server, order: &Order) -> Result<Sample> {
        self.clients.interrupt.check()?;
        server.expect_running()?;
        let machine_before = MachineTime::read()?;
        let backend = || self.backend.map_or(Ok(Usage::default()), Usage::of);
        let (before, backend_before) = (Usage::of(server.process.pid())?, backend()?);
        let loaded = self.clients.run(order)?;
        server.expect_running()?;
        let used = Usage::of(server.process.pid())?.since(before);
        let behind_ns = backend()?.since(backend_before).cpu_ns;
        let machine = MachineTime::read()?;
        let requests = loaded.requests as f64;
        let cpu_us = loaded.server_cpu_ns.unwrap_or(used.cpu_ns) as f64 / 1000.0 / requests;
        // The exact time divides as the ticks do.
        let ticks = (used.user_ticks + used.system_ticks).max(1) as f64;
        let user_us = cpu_us * used.user_ticks as f64 / ticks;
        // The client's start and end are in the elapsed time, but its load is what fills a CPU.
        let loading_ns = order.duration.as_nanos().max(1) as f64;
        Ok(Sample {
            requests: loaded.requests,
            requests_per_second: loaded.requests_per_second,
            cpu_us,
            user_us,
            system_us: cpu_us - user_us,
            voluntary_switches: used.voluntary_switches as f64 / requests,
            involuntary_switches: used.involuntary_switches as f64 / requests,
            server_cpus: used.cpu_ns as f64 / loading_ns,
            client_cpus: (machine.children_since(machine_before) * machine.ns_since(machine_before)
                + behind_ns as f64)
                / loading_ns,
            others_cpus: machine.others_since(machine_before, used.cpu_ns + behind_ns),
            latency_us: loaded.latency_us,
        })
    }
}

/// All contenders against the baseline; against the first one where that took no part.
fn ratios(rows: &[Row], settings: &Settings) -> Vec<Ratio> {
    let baseline = rows.iter().find(|row| row.contender == super::contender::BASELINE).or(rows.first());
    let Some(baseline) = baseline else { return Vec::new() };
    let mut all = Vec::new();
    for row in rows.iter().filter(|row| row.contender != baseline.contender) {
        all.extend(ratio(row, baseline, Metric::Cpu, |sample| sample.cpu_us));
        // A peak that the client set says nothing of the server.
        let is_own = |row: &Row| !matches!(row.limit(settings), Some(Limit::Client | Limit::Neither) | None);
        if is_own(row) && is_own(baseline) {
            all.extend(ratio(row, baseline, Metric::Rate, |sample| sample.requests_per_second));
        }
    }
    all
}

/// The ratios of the rounds in which both were measured; none if there is no such round.
fn ratio(row: &Row, baseline: &Row, metric: Metric, value: fn(&Sample) -> f64) -> Option<Ratio> {
    let both = row.rounds.iter().zip(&baseline.rounds).filter_map(|pair| match pair {
        (Round::Sample(above), Round::Sample(below)) => Some(value(above) / value(below)),
        _ => None,
    });
    let pairs: Vec<f64> = both.collect();
    let summary = Summary::of(&pairs)?;
    let verdict = Verdict::of(&summary);
    Some(Ratio { contender: row.contender, baseline: baseline.contender, metric, pairs, summary, verdict })
}

#[cfg(test)]
mod tests {
    use super::super::results::{Latency, ListenerOptions, Mode, samples};
    use super::*;
    use anyhow::bail;

    fn sample(cpu_us: f64) -> Sample {
        let latency_us = Latency { p50: 1.0, p90: 1.0, p99: 1.0, p99_9: 1.0, p99_99: 1.0, max: 1.0 };
        Sample {
            requests: 1,
            requests_per_second: 1000.0 / cpu_us,
            cpu_us,
            user_us: 0.0,
            system_us: cpu_us,
            voluntary_switches: 0.0,
            involuntary_switches: 0.0,
            server_cpus: 0.5,
            client_cpus: 0.5,
            others_cpus: 0.0,
            latency_us,
        }
    }

    #[test]
    fn rounds_turn_round_and_everybody_has_a_turn() {
        assert_eq!(order(0, 3), [0, 1, 2]);
        assert_eq!(order(1, 3), [2, 1, 0]);
        assert_eq!(order(2, 3), [0, 1, 2]);
        let mut turns = Vec::new();
        let (rounds, ended) = interleave(3, 2, |round, index| {
            turns.push((round, index));
            Ok(sample(1.0))
        });
        ended.unwrap();
        assert_eq!(turns, [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]);
        assert!(rounds.iter().all(|rounds| rounds.len() == 3));
    }

    #[test]
    fn an_error_voids_its_round_alone() {
        let (rounds, ended) = interleave(2, 2, |round, index| match (round, index) {
            (1, 0) => bail!("reset"),
            _ => Ok(sample(1.0)),
        });
        ended.unwrap();
        assert!(matches!(&rounds[0][..], [Round::Sample(_), Round::Void(reason)] if reason == "reset"));
        assert_eq!(samples(&rounds[1]).count(), 2);
    }

    #[test]
    fn an_interrupt_ends_and_keeps_what_there_is() {
        let (rounds, ended) = interleave(5, 2, |round, index| match (round, index) {
            (1, 0) => Err(Interrupted.into()),
            _ => Ok(sample(1.0)),
        });
        assert!(ended.unwrap_err().is::<Interrupted>());
        assert_eq!((rounds[0].len(), rounds[1].len()), (1, 2));
    }

    fn row(contender: &'static str, cpu_us: &[Option<f64>]) -> Row {
        let round = |cpu_us: &Option<f64>| match cpu_us {
            Some(cpu_us) => Round::Sample(sample(*cpu_us)),
            None => Round::Void("reset".to_owned()),
        };
        let rounds = cpu_us.iter().map(round).collect();
        let syscalls = Syscalls::NotCounted { reason: String::new() };
        Row { contender, replies: Vec::new(), rounds, syscalls }
    }

    fn settings(mode: Mode) -> Settings {
        Settings {
            extent: "custom",
            mode,
            server_cpu: 0,
            client_cpus: vec![1],
            pairs: 3,
            seconds: 1.0,
            latency_rounds: 0,
            idle_connections: 1,
            listener: ListenerOptions::default(),
        }
    }

    #[test]
    fn ratios_pair_the_rounds_that_both_have() {
        let rows = [
            row("hyper", &[Some(4.0), None, Some(6.0), Some(8.0)]),
            row("ringmill", &[Some(2.0), Some(1.0), None, Some(2.0)]),
        ];
        let found = ratios(&rows, &settings(Mode::Shared));
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].contender, found[0].baseline, found[0].metric),
            ("hyper", "ringmill", Metric::Cpu)
        );
        assert_eq!(found[0].pairs, [2.0, 4.0]);
        assert_eq!(found[0].verdict, Verdict::TooFewPairs);
        assert_eq!((found[1].metric, found[1].pairs.clone()), (Metric::Rate, vec![0.5, 0.25]));
    }

    #[test]
    fn a_peak_that_nobody_limited_is_not_compared() {
        let rows = [row("ringmill", &[Some(2.0)]), row("hyper", &[Some(4.0)])];
        let metrics: Vec<Metric> =
            ratios(&rows, &settings(Mode::Split)).iter().map(|ratio| ratio.metric).collect();
        assert_eq!(metrics, [Metric::Cpu]);
    }

    #[test]
    fn without_ringmill_the_first_is_the_measure() {
        let rows = [row("axum", &[Some(2.0)]), row("hyper", &[Some(1.0)])];
        let found = ratios(&rows, &settings(Mode::Shared));
        assert_eq!((found[0].contender, found[0].baseline), ("hyper", "axum"));
        assert!(ratios(&[], &settings(Mode::Shared)).is_empty());
    }
}
