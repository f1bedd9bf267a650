//! `ringmill compare` as its users meet it: whole runs of Ringmill's own drivers, ends that come early, bad input.
//!
//! No verdict on times: only that what was measured is there and adds up. The other servers are not built here.
#![cfg(feature = "cli")]

mod common;

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use common::program::{Program, ringmill, run_within};
use common::{Directory, eventually, on_both_drivers};
use ringmill::{Config, DriverChoice};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A run of many short loads, on a machine that may be busy with other tests.
const RUN_PATIENCE: Duration = Duration::from_secs(240);

/// Runs it to its end: exit code, standard output, standard error.
#[track_caller]
fn compare(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = ringmill();
    command.arg("compare").args(arguments);
    run_within(RUN_PATIENCE, command)
}

/// One server and one profile under the load of another program.
#[track_caller]
fn compare_with(load: &str, out: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let one = ["--only", "ringmill-poll", "--profile", "keep-alive-64", "--duration", "100ms"];
    compare(&[one.as_slice(), &["--load", load, "--out", out.to_str().unwrap()], more].concat())
}

#[track_caller]
fn results(out: &Path) -> Value {
    let text = std::fs::read_to_string(out.join("results.json")).expect("results.json");
    serde_json::from_str(&text).expect("JSON")
}

/// A program in place of `ringmill load`.
fn fake_load(folder: &Path, script: &str) -> String {
    let path = folder.join("load.sh");
    std::fs::write(&path, format!("#!/bin/sh\ncd '{}' || exit 1\n{script}\n", folder.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

const GOOD: &str = r#"echo '{"requests":1000,"requests_per_second":5000.0,"errors":0,"latency_us":
{"p50":1.0,"p90":2.0,"p99":3.0,"p99_9":4.0,"p99_99":5.0,"max":6.0}}'"#;

/// Waits for a file, with more patience than for a single step.
#[track_caller]
fn wait_for(path: &Path) {
    let deadline = Instant::now() + RUN_PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < deadline, "no {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes whose parent this one is, by id.
fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent_field =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parent_field == Some(parent)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// A zombie counts as gone: nobody may wait for an orphan here.
fn is_gone(pid: &u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn both_drivers_are_compared_from_start_to_report() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let out = directory.0.join("out");
        let (only, rows) = match driver {
            DriverChoice::Uring => ("ringmill,ringmill-poll", 2),
            _ => ("ringmill-poll", 1),
        };
        let profiles = "keep-alive-64,mixed,upload,idle";
        let (code, output, errors) = compare(&[
            "--only",
            only,
            "--profile",
            profiles,
            "--pairs",
            "2",
            "--duration",
            "300ms",
            "--idle-connections",
            "50",
            "--mode",
            "shared",
            "--defer-accept",
            "3s",
            "--out",
            out.to_str().unwrap(),
        ]);
        assert!(output.contains("== keep-alive-64") && output.contains("== idle"), "{output}\n{errors}");
        let results = results(&out);
        assert_eq!(results["interrupted"], false);
        assert_eq!(results["settings"]["defer_accept_seconds"], 3);
        assert!(results["command"].as_str().unwrap().contains("compare --only"));
        let measured = results["profiles"].as_array().unwrap();
        assert_eq!(measured.len(), 3);
        for profile in measured {
            assert_eq!(profile["failed"], Value::Null, "{profile:#}");
            assert_eq!(profile["left_out"].as_array().unwrap().len(), 0, "{profile:#}");
            let all = profile["rows"].as_array().unwrap();
            assert_eq!(all.len(), rows);
            for row in all {
                let rounds = row["rounds"].as_array().unwrap();
                assert_eq!(rounds.len(), 2);
                for round in rounds {
                    if let Some(reason) = round["void"].as_str() {
                        // A machine that is busy enough answers no large request in this time; nothing else may void.
                        let is_slow = reason == "not one request was answered within the time";
                        assert!(
                            is_slow && profile["profile"] == "upload",
                            "{}: {reason}",
                            profile["profile"]
                        );
                        continue;
                    }
                    let sample = &round["sample"];
                    let value = |name: &str| sample[name].as_f64().unwrap();
                    assert!(value("requests") > 0.0 && value("cpu_us") > 0.0);
                    assert!(
                        (value("user_us") + value("system_us") - value("cpu_us")).abs()
                            < 1e-6 * value("cpu_us")
                    );
                    assert!(sample["latency_us"]["p50"].as_f64().unwrap() > 0.0);
                }
                assert!(!row["replies"].as_array().unwrap().is_empty());
            }
            let rates = profile["latency"].as_array().unwrap();
            let percents: Vec<u64> = rates.iter().map(|rate| rate["percent"].as_u64().unwrap()).collect();
            // Only here, where it is not asked for everywhere.
            let expected: &[u64] =
                if profile["profile"] == "keep-alive-64" { &[25, 50, 75, 90] } else { &[] };
            assert_eq!(percents, expected);
        }
        let idle = results["idle"]["rows"].as_array().unwrap();
        assert_eq!(idle.len(), rows);
        assert!(idle.iter().all(|row| row["requested"]["bytes"].is_number()), "{idle:?}");
        let page = std::fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.contains("<svg") && page.contains("keep-alive-64"));
        let plot = std::fs::read_to_string(out.join("keep-alive-64.svg")).unwrap();
        assert!(plot.starts_with("<svg ") && plot.contains(" xmlns=\"http://www.w3.org/2000/svg\""));
        assert!(plot.contains("ringmill") && page.contains(&plot[plot.find('>').unwrap()..]), "{plot}");
        // Nothing is left but the two files and the plots.
        let files = std::fs::read_dir(&out).unwrap().map(|file| file.unwrap().path());
        let rest = files.filter(|file| file.extension().is_none_or(|extension| extension != "svg"));
        assert_eq!(rest.count(), 2);
        // Uploads alone may all have been too slow.
        assert!(
            code == Some(0) || errors.contains("error: upload: ") && !errors.contains("\nkeep"),
            "{errors}"
        );
    });
}

#[test]
fn tls_is_compared_with_itself_and_without() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let out = directory.0.join("out");
        let (only, with_plain) = match driver {
            DriverChoice::Uring => ("ringmill,ringmill-plain", 2),
            _ => ("ringmill-poll", 1),
        };
        let profiles = "tls-keep-alive-64,tls-64k,tls-handshake,tls-resumed,tls-idle";
        let options =
            ["--only", only, "--profile", profiles, "--pairs", "1", "--duration", "1s", "--mode", "shared"];
        let more = ["--latency-rounds", "0", "--idle-connections", "50", "--out", out.to_str().unwrap()];
        let (code, output, errors) = compare(&[&options[..], &more].concat());
        let results = results(&out);
        let measured = results["profiles"].as_array().unwrap();
        assert_eq!(measured.len(), 4, "{output} {errors}");
        for profile in measured {
            let (profile_name, rows) = (&profile["profile"], profile["rows"].as_array().unwrap());
            let is_with_plain = profile_name == "tls-keep-alive-64" || profile_name == "tls-64k";
            assert_eq!(rows.len(), if is_with_plain { with_plain } else { 1 }, "{profile:#}");
            for row in rows {
                assert_eq!(row["replies"][0]["status_line"], "HTTP/1.1 200 OK", "{row:#}");
                // Without optimisation, on a busy machine, handshakes may be too slow to resume any. Nothing else may void.
                let round = &row["rounds"][0];
                let reason = round["void"].as_str().unwrap_or_default();
                let is_slow = reason.ends_with(" TLS handshakes 0 were resumed")
                    || reason == "not one request was answered within the time";
                let is_measured = round["sample"]["cpu_us"].as_f64().is_some_and(|cpu| cpu > 0.0);
                assert!(is_measured || is_slow && !is_with_plain, "{profile_name}: {round}");
            }
        }
        let idle = &results["tls_idle"];
        assert_eq!(idle["rows"].as_array().unwrap().len(), 1, "{idle:#}");
        // A handshake leaves something behind, whatever it is.
        assert!(idle["rows"][0]["opened"]["bytes"].as_f64().unwrap() > 500.0, "{idle:#}");
        assert_eq!(results["idle"], Value::Null);
        assert!(output.contains("== tls-idle") && code.is_some(), "{output}");
        // Key and certificate are gone, with the folder they were in.
        let mut files = std::fs::read_dir(&out).unwrap().map(|file| file.unwrap().path());
        assert!(files.all(|file| file.is_file() && file.extension().is_some_and(|kind| kind != "pem")));
    });
}

/// The rows of a profile, each with a round that counts.
#[track_caller]
fn rows<'a>(results: &'a Value, profile: &str) -> &'a Vec<Value> {
    let measured = results["profiles"].as_array().unwrap();
    let measured = measured.iter().find(|measured| measured["profile"] == profile).expect(profile);
    let rows = measured["rows"].as_array().unwrap();
    for row in rows {
        let cpu = row["rounds"][0]["sample"]["cpu_us"].as_f64();
        assert!(cpu.is_some_and(|cpu| cpu > 0.0), "{profile}: {row:#}");
    }
    rows
}

#[test]
fn workers_hosted_by_tokio_are_compared_with_others() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let out = directory.0.join("out");
        let only = match driver {
            DriverChoice::Uring => ["ringmill", "ringmill-hosted"],
            _ => ["ringmill-poll", "ringmill-hosted-poll"],
        };
        let what = ["--only", &only.join(","), "--profile", "keep-alive-64,one-request,nine-fields"];
        let how = ["--pairs", "1", "--duration", "300ms", "--latency-rounds", "0", "--mode", "shared"];
        let (code, output, errors) = compare(&[&what[..], &how, &["--out", out.to_str().unwrap()]].concat());
        assert_eq!(code, Some(0), "{output} {errors}");
        let results = results(&out);
        assert_eq!(rows(&results, "keep-alive-64").len(), 2);
        assert_eq!(rows(&results, "one-request").len(), 2);
        let hosted: Vec<&Value> = rows(&results, "nine-fields").iter().map(|row| &row["contender"]).collect();
        assert_eq!(hosted, only);
        let ratio = &results["profiles"][0]["ratios"][0];
        assert_eq!((&ratio["contender"], &ratio["baseline"]), (&only[1].into(), &only[0].into()));
    });
}

#[test]
fn proxies_are_compared_in_front_of_a_backend() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let out = directory.0.join("out");
        let name = if driver == DriverChoice::Uring { "ringmill" } else { "ringmill-poll" };
        let what =
            ["--only", name, "--profile", "proxy-100,relay-100,proxy-idle", "--idle-connections", "50"];
        let how = ["--pairs", "1", "--duration", "300ms", "--latency-rounds", "0", "--mode", "shared"];
        let (code, output, errors) = compare(&[&what[..], &how, &["--out", out.to_str().unwrap()]].concat());
        assert_eq!(code, Some(0), "{output} {errors}");
        let results = results(&out);
        let reply = &rows(&results, "proxy-100")[0]["replies"][0];
        assert_eq!((&reply["path"], &reply["body_bytes"]), (&"/bytes/100".into(), &100.into()));
        let fields = reply["fields"].as_array().unwrap();
        assert!(fields.iter().any(|field| field == "via"), "it is the proxy that answers: {reply}");
        let relayed = &rows(&results, "relay-100")[0]["replies"][0];
        let is_same =
            relayed["body_bytes"] == 100 && relayed["fields"].as_array().unwrap().len() < fields.len();
        assert!(is_same, "a relay adds nothing: {relayed}");
        let idle = &results["proxy_idle"]["rows"][0];
        assert!(idle["requested"]["bytes"].is_number() && idle["opened"]["bytes"].is_number(), "{idle:#}");
    });
}

#[test]
fn websockets_are_compared_by_message_by_delivery_and_by_memory() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let out = directory.0.join("out");
        let name = if driver == DriverChoice::Uring { "ringmill" } else { "ringmill-poll" };
        let profiles = "ws-echo-64,ws-pipelined-16,ws-fan-1000,ws-fan-1000-deflate,ws-idle,ws-subscribed";
        let what = ["--only", name, "--profile", profiles, "--idle-connections", "50"];
        let how = ["--pairs", "1", "--duration", "300ms", "--latency-rounds", "0", "--mode", "shared"];
        let (code, output, errors) = compare(&[&what[..], &how, &["--out", out.to_str().unwrap()]].concat());
        assert_eq!(code, Some(0), "{output} {errors}");
        let results = results(&out);
        for profile in ["ws-echo-64", "ws-pipelined-16", "ws-fan-1000", "ws-fan-1000-deflate"] {
            let row = &rows(&results, profile)[0];
            let topic = profile.starts_with("ws-fan");
            let reply = &row["replies"][0];
            assert_eq!(reply["path"], if topic { "/ws/compare" } else { "/ws" });
            assert!(reply["status_line"].to_string().contains(" 101 "), "{reply}");
            if topic {
                let requests = row["rounds"][0]["sample"]["requests"].as_u64().unwrap();
                assert_eq!(requests % 1000, 0, "each message has reached each of them: {row:#}");
            }
        }
        for idle in ["ws_idle", "ws_subscribed"] {
            let row = &results[idle]["rows"][0];
            assert!(row["requested"]["bytes"].is_number() && row["opened"]["bytes"].is_number(), "{row:#}");
        }
    });
}

#[test]
fn without_bun_it_is_said_what_to_install() {
    let directory = Directory::new();
    let mut command = ringmill();
    command.args(["compare", "--only", "bun", "--profile", "ws-echo-64", "--out"]);
    command.arg(directory.0.join("out")).env("PATH", "/nonesuch");
    let (code, _, errors) = common::program::run(command);
    assert_eq!(code, Some(1));
    assert!(errors.contains("bun: bun is not installed (npm install --global bun)"), "{errors}");
}

/// Peers whose program for the app is this very test, told to be it.
fn peers_of_this_test(folder: &Path) -> String {
    let programs = folder.join("target/release");
    std::fs::create_dir_all(&programs).unwrap();
    std::fs::write(folder.join("Cargo.toml"), "[package]\nname = \"ringmill-peers\"\n").unwrap();
    std::fs::write(folder.join("Cargo.lock"), "version = 4\n").unwrap();
    let program = programs.join("ringmill_app");
    // It is called with --listen ADDR --workers N --driver NAME.
    let script = format!(
        "#!/bin/sh\nAPP_LISTEN=$2 APP_DRIVER=$6 exec '{}' --exact the_app_is_served_where_it_is_asked_for\n",
        std::env::current_exe().unwrap().display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder.to_str().unwrap().to_owned()
}

/// Not a test, unless `peers_of_this_test` runs it: as much of the app as profiles ask for that are about it alone.
#[test]
fn the_app_is_served_where_it_is_asked_for() {
    let (Ok(listen), Ok(driver)) = (std::env::var("APP_LISTEN"), std::env::var("APP_DRIVER")) else { return };
    let pending = async || {
        tokio::task::yield_now().await;
        "Hello, World!"
    };
    let echo = async |message: Bytes| ([("content-type", "application/grpc")], message);
    let app = Router::new().route("/pending", get(pending)).route("/site.Texts/Echo", post(echo));
    let config = Config { workers: Some(1), driver: driver.parse().unwrap(), ..Config::default() };
    ringmill::serve(listen.as_str(), app).config(config).run().unwrap();
}

#[test]
fn what_only_the_app_can_is_measured_over_http1_and_http2() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let (out, peers) = (directory.0.join("out"), peers_of_this_test(&directory.0.join("peers")));
        let name = if driver == DriverChoice::Uring { "ringmill-axum" } else { "ringmill-axum-poll" };
        let what =
            ["--only", name, "--profile", "pending,pending-idle,grpc-unary", "--idle-connections", "50"];
        let how = ["--pairs", "1", "--duration", "300ms", "--latency-rounds", "1", "--mode", "shared"];
        let from = ["--peers", &peers, "--no-build", "--out", out.to_str().unwrap()];
        let (code, output, errors) = compare(&[&what[..], &how, &from].concat());
        let results = results(&out);
        assert_eq!(rows(&results, "pending")[0]["replies"][0]["path"], "/pending");
        let idle = &results["pending_idle"]["rows"][0];
        assert!(idle["requested"]["bytes"].is_number() && idle["opened"]["bytes"].is_number(), "{idle:#}");
        let of_calls = results["profiles"].as_array().unwrap().last().unwrap();
        if Command::new("h2load").arg("--version").output().is_err() {
            eprintln!("gRPC was not measured: h2load is not installed");
            assert!(output.contains("h2load is not installed"), "{output} {errors}");
            return;
        }
        assert_eq!(code, Some(0), "{output} {errors}");
        let row = &rows(&results, "grpc-unary")[0];
        assert_eq!(
            (&row["replies"][0]["body_bytes"], &row["replies"][0]["path"]),
            (&20.into(), &"/site.Texts/Echo".into())
        );
        assert!(row["rounds"][0]["sample"]["latency_us"]["p99"].as_f64().unwrap() > 0.0);
        assert_eq!(of_calls["latency"].as_array().unwrap().len(), 0, "h2load cannot time what is late");
        assert!(output.contains("== pending-idle"), "{output}");
    });
}

#[test]
fn without_h2load_it_is_said_what_to_install() {
    let directory = Directory::new();
    let (out, peers) = (directory.0.join("out"), peers_of_this_test(&directory.0.join("peers")));
    let mut command = ringmill();
    command.args([
        "compare",
        "--only",
        "ringmill-axum",
        "--profile",
        "grpc-unary",
        "--no-build",
        "--peers",
        &peers,
    ]);
    command.arg("--out").arg(&out).env("PATH", "/nonesuch");
    let (code, _, errors) = common::program::run(command);
    assert_eq!(code, Some(1));
    let expected = "ringmill-axum: h2load is not installed (on Debian: apt-get install nghttp2-client)";
    assert!(errors.contains(expected), "{errors}");
}

#[test]
fn an_error_of_the_load_voids_and_is_told() {
    let directory = Directory::new();
    let load = fake_load(&directory.0, &GOOD.replace("\"errors\":0", "\"errors\":2"));
    let out = directory.0.join("out");
    let (code, output, errors) = compare_with(&load, &out, &["--pairs", "2"]);
    assert_eq!(code, Some(1));
    assert!(output.contains("void: ringmill-poll, round 2: 2 errors"), "{output}");
    assert!(errors.contains("every round is void"), "{errors}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("Void: ringmill-poll, round 1: 2 errors"));
    let rounds = &results(&out)["profiles"][0]["rows"][0]["rounds"];
    assert!(rounds[1]["void"].as_str().unwrap().contains("2 errors"));
}

#[test]
fn a_server_that_answers_less_than_the_rate_is_told() {
    let directory = Directory::new();
    // It always says 5,000 a second; the rates that follow are 1,250 to 4,500, and then a rate of half is said.
    let slow = GOOD.replace("5000.0", "'$said'");
    let script = format!("said=5000.0\ncase \"$*\" in *--rate*) said=600.0;; esac\n{slow}");
    let load = fake_load(&directory.0, &script);
    let out = directory.0.join("out");
    let (code, output, _) = compare_with(&load, &out, &["--pairs", "1"]);
    assert_eq!(code, Some(0));
    assert!(output.contains("at 1250/s, round 1: it did not keep up: 600/s of 1250/s"), "{output}");
}

#[test]
fn ctrl_c_keeps_what_was_measured_and_leaves_nobody_behind() {
    let directory = Directory::new();
    // The warm-up and two rounds, then one that does not end.
    let script = format!(
        "echo >> runs\nif [ $(wc -l < runs) -gt 3 ]; then echo > stalled; exec sleep 600; fi\n{GOOD}"
    );
    let load = fake_load(&directory.0, &script);
    let out = directory.0.join("out");
    let mut command = ringmill();
    command.args([
        "compare",
        "--only",
        "ringmill-poll",
        "--profile",
        "keep-alive-64,pipelined-16",
        "--pairs",
        "5",
    ]);
    command.args(["--duration", "100ms", "--load", &load, "--out"]).arg(&out);
    let mut run = Program::start(command, "contenders: ");
    wait_for(&directory.0.join("stalled"));
    let running = children(run.pid());
    // The server and the client.
    assert_eq!(running.len(), 2);
    run.signal(libc::SIGINT);
    assert_eq!(run.wait().code(), Some(1));
    assert!(running.iter().all(is_gone));
    eventually(true, || run.line_with("interrupted; what was measured until then is in").is_some());
    let results = results(&out);
    assert_eq!(results["interrupted"], true);
    let rounds = results["profiles"][0]["rows"][0]["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    assert!(rounds[1]["sample"]["cpu_us"].is_number());
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("The run was interrupted"));
}

#[test]
fn nobody_survives_a_kill() {
    let directory = Directory::new();
    let load = fake_load(&directory.0, "echo > stalled; exec sleep 600");
    let out = directory.0.join("out");
    let mut command = ringmill();
    command.args([
        "compare",
        "--only",
        "ringmill-poll",
        "--profile",
        "keep-alive-64",
        "--load",
        &load,
        "--out",
    ]);
    command.arg(&out);
    let mut run = Program::start(command, "contenders: ");
    wait_for(&directory.0.join("stalled"));
    let running = children(run.pid());
    assert_eq!(running.len(), 2);
    run.signal(libc::SIGKILL);
    run.wait();
    eventually(true, || running.iter().all(is_gone));
}

#[test]
fn a_program_is_pinned() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap();
    let last = allowed.rsplit([',', '-']).next().unwrap();
    let mut command = ringmill();
    command.args(["run-pinned", "--cpus", last, "--", "grep", "Cpus_allowed_list", "/proc/self/status"]);
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("Cpus_allowed_list:\t{last}\n"));
    let mut late = ringmill();
    late.args(["run-pinned", "--cpus", last, "--parent", "1", "--", "true"]);
    let is_init = std::process::id() == 1;
    assert!(is_init || !late.status().unwrap().success(), "its starter is another process");
}

#[test]
fn the_list_says_who_cannot_do_what() {
    let (code, output, _) = compare(&["--list"]);
    assert_eq!(code, Some(0));
    for words in ["ringmill-poll", "axum", "keep-alive-512", "not in udp-echo: it is an HTTP server"] {
        assert!(output.contains(words), "{words}: {output}");
    }
}

#[test]
fn bad_input_is_told_in_a_line_and_writes_nothing() {
    let directory = Directory::new();
    let out = directory.0.join("out");
    let file = directory.0.join("file");
    std::fs::write(&file, "").unwrap();
    let check = |arguments: &[&str], expected_code, words: &str| {
        let (code, output, errors) = compare(&[&["--out", out.to_str().unwrap()], arguments].concat());
        assert_eq!((code, output.as_str()), (Some(expected_code), ""), "{arguments:?}: {errors}");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
        assert!(!out.join("report.html").exists());
    };
    check(&["--only", "express"], 2, "there is no such contender; there are: ringmill");
    check(&["--profile", "fast"], 2, "there is no such profile; there are: keep-alive-64");
    check(&["--quick", "--full"], 2, "cannot be used with");
    check(&["--pairs", "0"], 2, "--pairs");
    check(&["--duration", "soon"], 2, "expected a duration");
    check(&["--mode", "alone"], 2, "split");
    check(&["--defer-accept", "0s"], 2, "expected whole seconds, at least one");
    check(&["--defer-accept", "500ms"], 2, "expected whole seconds, at least one");
    check(&["--only", "hyper", "--peers", "/"], 1, "not the folder of the peers");
    check(&["--only", "nginx", "--profile", "upload"], 1, "no contender is left");
    check(&["--only", "ringmill", "--profile", "grpc-unary"], 1, "ringmill: it does not serve the app");
    check(&["--only", "ringmill", "--congestion", "nonesuch"], 1, "no congestion control \"nonesuch\"");
    let inside = file.join("out");
    let (code, _, errors) = compare(&["--only", "ringmill", "--out", inside.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("cannot create"), "{errors}");
    let missing: Command = {
        let mut command = ringmill();
        command.args(["run-pinned", "--cpus", "0", "--", "/nonesuch"]);
        command
    };
    let (code, _, errors) = common::program::run(missing);
    assert_eq!(code, Some(1));
    assert!(errors.contains("/nonesuch"), "{errors}");
}
