//! The report holds every figure, and nothing outside itself.

use super::super::environment::Environment;
use super::super::profile::Profile;
use super::super::results::*;
use super::*;
use ringmill_console::statistics::{Summary, Verdict};

fn sample(cpu_us: f64) -> Sample {
    Sample {
        requests: 1000,
        requests_per_second: 250_000.0 / cpu_us,
        cpu_us,
        user_us: cpu_us * 0.25,
        system_us: cpu_us * 0.75,
        voluntary_switches: 0.0125,
        involuntary_switches: 0.0,
        server_cpus: 0.6,
        client_cpus: 0.39,
        others_cpus: 0.01,
        latency_us: Latency { p50: 211.0, p90: 322.0, p99: 433.0, p99_9: 544.0, p99_99: 655.0, max: 766.0 },
    }
}

fn row(contender: &'static str, cpu_us: &[f64]) -> Row {
    let mut rounds: Vec<Round> = cpu_us.iter().map(|cpu_us| Round::Sample(sample(*cpu_us))).collect();
    rounds.push(Round::Void(format!("3 errors of {contender}: <reset>")));
    let reply = Reply {
        path: "/plaintext".to_owned(),
        status_line: "HTTP/1.1 200 OK".to_owned(),
        fields: vec!["server".to_owned(), "date".to_owned()],
        head_bytes: 127,
        body_bytes: 13,
    };
    let syscalls = Syscalls::Counted { per_request: 0.0771, with: Tool::Perf };
    Row { contender, replies: vec![reply], rounds, syscalls }
}

fn results() -> Results {
    let rows = vec![row("ringmill", &[3.01, 3.02, 3.03]), row("hyper", &[4.21, 4.22, 4.23])];
    let pairs = vec![1.41, 1.42, 1.43, 1.44, 1.45];
    let summary = Summary::of(&pairs).unwrap();
    let verdict = Verdict::of(&summary);
    let ratio = |metric| Ratio {
        contender: "hyper",
        baseline: "ringmill",
        metric,
        pairs: pairs.clone(),
        summary: summary.clone(),
        verdict,
    };
    let rate_rows = rows.iter().map(|row| RateRow { contender: row.contender, rounds: row.rounds.clone() });
    let latency = RateResult { percent: 25, requests_per_second: 14_875.0, rows: rate_rows.collect() };
    let left_out = || vec![LeftOut { contender: "nginx", reason: "it cannot count".to_owned() }];
    let profile = ProfileResult {
        profile: Profile::KeepAlive64,
        rows,
        left_out: left_out(),
        ratios: vec![ratio(Metric::Cpu), ratio(Metric::Rate)],
        latency: vec![latency],
        no_latency: None,
        failed: None,
    };
    let idle = IdleResult {
        profile: Profile::Idle,
        connections: 2000,
        rows: vec![
            IdleRow { contender: "ringmill", opened: Memory::Bytes(136.4), requested: Memory::Bytes(141.3) },
            IdleRow {
                contender: "hyper",
                opened: Memory::Bytes(9876.0),
                requested: Memory::Failed("gone".to_owned()),
            },
        ],
        left_out: left_out(),
    };
    let settings = Settings {
        extent: "custom",
        mode: Mode::Shared,
        server_cpu: 0,
        client_cpus: vec![0],
        pairs: 3,
        seconds: 0.5,
        latency_rounds: 1,
        idle_connections: 2000,
        listener: ListenerOptions::default(),
    };
    let entrant = |name| Entrant { name, what: "a server", version: "9.8.7".to_owned() };
    Results {
        began: "2026-11-22T12:00:00Z".to_owned(),
        command: "ringmill compare --only ringmill,hyper".to_owned(),
        settings,
        contenders: vec![entrant("ringmill"), entrant("hyper")],
        left_out: left_out(),
        profiles: vec![profile],
        idle: Some(idle),
        tls_idle: None,
        pending_idle: None,
        ws_idle: None,
        proxy_idle: None,
        ws_subscribed: None,
        environment: Environment { cpu: "Some <CPU>".to_owned(), ..Environment::default() },
        warnings: vec!["noisy & loud".to_owned()],
        interrupted: false,
    }
}

fn page_of(results: &Results) -> String {
    page(results, &serde_json::to_string_pretty(results).unwrap()).unwrap()
}

#[test]
fn every_figure_is_there() {
    let results = results();
    // Without the raw JSON: the figures must be where people read.
    let page = page_of(&results);
    let (page, _) = page.split_once("<h2 id=\"raw\">").unwrap();
    for profile in &results.profiles {
        for row in &profile.rows {
            for (name, value) in table::columns(row, &results.settings) {
                assert!(
                    page.contains(&format!("<td>{}</td>", escape(&value))),
                    "{} {name} {value}",
                    row.contender
                );
            }
        }
        for ratio in &profile.ratios {
            assert!(page.contains(&table::ratio(ratio)) && page.contains(ratio.verdict.text()));
        }
        for rate in &profile.latency {
            assert!(page.contains(&number(rate.requests_per_second)));
            for (name, value) in rate.rows.iter().flat_map(|row| row.percentiles().unwrap()) {
                assert!(page.contains(&format!("<td>{}</td>", number(value))), "{name} {value}");
            }
        }
        for void in profile.voids() {
            assert!(page.contains(&escape(&void)), "{void}");
        }
    }
    for (name, value) in results.environment.named() {
        assert!(page.contains(&escape(&name)) && page.contains(&escape(&value)), "{name}");
    }
    for text in [
        "136",
        "141",
        "9,876",
        "failed: gone",
        "9.8.7",
        "it cannot count",
        "noisy &amp; loud",
        "127",
        "0.077",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(page.contains(&results.command) && page.contains(&results.began));
    // Cost, two ratios, one rate, and memory.
    assert_eq!(page.matches("<svg").count(), 5);
}

#[test]
fn nothing_is_fetched_from_elsewhere() {
    let page = page_of(&results());
    for outside in ["http://", "https://", "src=", "<link", "@import", "url(", "//cdn"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let links = page.split("href=\"").skip(1);
    assert!(links.map(|link| &link[..1]).all(|first| first == "#"));
}

#[test]
fn the_raw_json_is_inside_and_whole() {
    let results = results();
    let page = page_of(&results);
    let (_, json) = page.split_once("<script type=\"application/json\" id=\"results\">").unwrap();
    let (json, _) = json.split_once("</script>").unwrap();
    let inside: serde_json::Value = serde_json::from_str(json).unwrap();
    let raw = serde_json::to_string_pretty(&results).unwrap();
    assert!(json.trim().replace("\\u003c", "<") == raw, "the page holds other JSON than the file");
    assert_eq!(inside["profiles"][0]["rows"][0]["rounds"][0]["sample"]["cpu_us"], 3.01);
    // What others wrote cannot end the element.
    assert!(!json.contains('<'));
}

#[test]
fn an_empty_run_has_a_report_too() {
    let empty = Results { profiles: Vec::new(), idle: None, contenders: Vec::new(), ..results() };
    assert!(page_of(&empty).contains("<h2 id=\"environment\">"));
}
