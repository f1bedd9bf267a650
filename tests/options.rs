//! Times, sizes and rates of all commands: what is too large or no number is refused with the largest value that is taken, and
//! that largest value works. The options are read from `--help`, so a new one is among them.
#![cfg(feature = "cli")]

mod common;

use common::http::{post, receive, undated};
use common::program::{Program, ringmill, run};
use common::{Client, config, connect, connect_to, eventually, ip, on_both_drivers, start};
use ringmill::Config;
use ringmill::http::{self, Limits, Reply, Request, Server};
use std::time::Duration;

/// The options of a command whose value has this name, from `--name <VALUE>` of its help.
#[track_caller]
fn options(command: &str, value: &str) -> Vec<String> {
    let mut help = ringmill();
    help.args([command, "--help"]);
    let (_, help, _) = run(help);
    let named = |line: &str| {
        let option = line.split_whitespace().find(|word| word.starts_with("--"))?;
        line.contains(&format!("{option} <{value}>")).then(|| option.to_owned())
    };
    help.lines().filter(|line| line.trim_start().starts_with('-')).filter_map(named).collect()
}

/// Every option of that kind, with its command.
fn all(value: &str, is_meant: fn(&str) -> bool, at_least: usize) -> Vec<(&'static str, String)> {
    let of = |command: &'static str| {
        options(command, value)
            .into_iter()
            .filter(|option| is_meant(option))
            .map(move |option| (command, option))
    };
    let all: Vec<_> = ["serve", "proxy", "load", "compare", "doctor"].into_iter().flat_map(of).collect();
    assert!(all.len() >= at_least, "{value}: {all:?}");
    all
}

#[track_caller]
fn refused(command: &str, option: &str, value: &str) -> String {
    let mut program = ringmill();
    program.arg(command).arg(format!("{option}={value}"));
    match command {
        "load" => drop(program.arg("http://127.0.0.1:1/")),
        "proxy" => drop(program.args(["127.0.0.1:0", "127.0.0.1:1"])),
        _ => {}
    }
    let (status, output, errors) = run(program);
    assert_eq!((status, output.as_str()), (Some(2), ""), "{command} {option}={value}: {errors}");
    let line = errors.lines().next().unwrap_or_default().to_owned();
    assert!(line.contains(&format!("'{value}' for '{option} ")), "{command} {option}={value}: {errors}");
    line
}

#[track_caller]
fn check(all: &[(&str, String)], values: &[&str], largest: fn(&str) -> &'static str) {
    for (command, option) in all {
        for value in values {
            let line = refused(command, option, value);
            let expected = format!("at most {}", largest(option));
            assert!(line.contains(&expected), "{command} {option}={value}: {line}");
        }
    }
}

const NO_NUMBERS: [&str; 5] = ["NaN", "-1", "", "soon", "1 2"];

#[test]
fn times() {
    let all = all("TIME", |_| true, 11);
    let largest = |option: &str| if option == "--defer-accept" { "8h" } else { "3650d" };
    let too_long =
        ["18446744073709551615s", "1e300", "inf", "315360001", "3651d", "99999999999999999999999d"];
    check(&all, &too_long, largest);
    check(&all, &NO_NUMBERS, largest);
    // A run of no time is no timeout of zero.
    for (command, option) in all.iter().filter(|(_, option)| option == "--duration") {
        for value in ["0", "0s", "1us"] {
            let line = refused(command, option, value);
            assert!(line.contains("a run lasts at least 1ms"), "{command} {option}={value}: {line}");
        }
    }
}

#[test]
fn sizes() {
    let all = all("SIZE", |option| !option.ends_with("-rate"), 4);
    let too_large = ["1e300", "18446744073709551616", "16EiB", "1.1PiB", "99999999999GiB", "inf"];
    check(&all, &too_large, |_| "1PiB");
    check(&all, &NO_NUMBERS, |_| "1PiB");
}

#[test]
fn rates() {
    let sizes = all("SIZE", |option| option.ends_with("-rate"), 2);
    let numbers = all("N", |option| option.ends_with("rate"), 2);
    let all = [sizes, numbers].concat();
    let largest = |option: &str| if option == "--rate" { "1000000000" } else { "4294967295" };
    check(&all, &["1e300", "18446744073709551616", "99999999999", "inf"], largest);
    check(&all, &NO_NUMBERS, largest);
    let all = self::all("RATE", |_| true, 3);
    check(&all, &["1000001/s", "60000001/m", "1e9/s", "18446744073709551616/h", "0/s"], |_| "1000000/s");
    check(&all, &NO_NUMBERS, |_| "1000000/s");
}

#[test]
fn a_list_of_cpus_that_are_not_there_is_summed_up() {
    let mut command = ringmill();
    command.args(["serve", "--listen", "127.0.0.1:0", "--pin", "60000-65535,7000,0"]);
    let (status, _, errors) = run(command);
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("cannot pin to CPU 60000-65535,7000: this process may use "), "{errors}");
}

/// The largest times are taken, and nothing that is reckoned with them overflows.
#[test]
fn the_longest_times_work() {
    on_both_drivers(|driver| {
        let running = start(config(driver), |_| http::server(|_, reply| reply.text("hello")));
        let url = format!("http://{}/", ip(&running.addresses()[0]));
        for times in [["--duration", "3650d", "--warmup", "0"], ["--duration", "1s", "--warmup", "3650d"]] {
            let before = running.stats().total().requests;
            let mut command = ringmill();
            command.args(["load", &url, "--timeout", "3650d", "--connections", "2", "--json"]).args(times);
            command.args(["--driver", &driver.to_string()]);
            let mut load = Program::start(command, "as fast as it goes");
            eventually(true, || running.stats().total().requests > before + 10);
            load.signal(libc::SIGINT);
            load.wait();
            eventually(true, || load.line_with("\"interrupted\": true").is_some());
        }
        let times = options("serve", "TIME").into_iter().filter(|option| option != "--defer-accept");
        let times: Vec<String> = times.flat_map(|option| [option, "3650d".to_owned()]).collect();
        let times: Vec<&str> = times.iter().map(String::as_str).collect();
        let mut server =
            Program::serve(driver, &[&times[..], &["--defer-accept", "8h", "--max-body", "1PiB"]].concat());
        let mut stream = connect_to(server.http());
        stream.send(post("/echo", "hello"));
        assert!(receive(&mut stream).text().ends_with("hello"));
        server.signal(libc::SIGTERM);
        drop(stream);
        assert_eq!(server.wait().code(), Some(0), "{:?}", server.lines());
    });
}

/// The same for whoever embeds the engine, where nothing refuses a time.
#[test]
fn times_of_an_embedder_saturate() {
    on_both_drivers(|driver| {
        let longest = Duration::MAX;
        let config = Config {
            write_timeout: longest,
            connect_timeout: longest,
            linger_timeout: longest,
            accept_retry: longest,
            ..config(driver)
        };
        let limits = Limits {
            head_timeout: longest,
            body_idle_timeout: longest,
            source_timeout: longest,
            keep_alive_timeout: longest,
            drain_grace: longest,
            ..Limits::default()
        };
        let running = start(config, move |_| {
            let handler = |request: &Request<'_>, reply: &mut Reply<'_>| reply.body(request.body());
            Server::new(handler).with_limits(limits.clone())
        });
        let mut client = connect(&running);
        let mut sent = 0;
        let mut drip = |pieces: &[&str]| {
            for piece in pieces {
                client.send(piece);
                sent += piece.len() as u64;
                // Each piece is looked at alone, and its deadline is reckoned.
                eventually(sent, || running.stats().total().received_bytes);
            }
        };
        // Long enough that its length earns it time.
        let long = format!("X: {}\r\n", "x".repeat(600));
        let pieces = ["POST / HTTP/1.1\r\n", &long, "Host: a\r\nContent-Length: 4\r\n", "\r\n", "ab", "cd"];
        drip(&pieces);
        drip(&pieces[..4]);
        running.handle().drain(longest);
        drip(&pieces[4..]);
        let replies = undated(&client.rest());
        assert_eq!(replies.matches("\r\n\r\nabcd").count(), 2, "{replies}");
        assert_eq!(running.stats().total().panics, 0);
    });
}
