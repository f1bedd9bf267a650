//! The load: wrk, load_churn and load_udp as child processes, and what they report.
//!
//! The size of a request is never guessed: the client is run once against a listener of ours that reads what it sends.

use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::Settings;
use crate::process::{self, Process};

pub const LOAD_PROGRAMS: &[&str] = &["load_churn", "load_udp", "load_idle"];

/// How long a client may take beyond its duration.
const OVERTIME: Duration = Duration::from_secs(15);
/// UDP may lose: up to one datagram in this many leaves a round valid. A server that another program keeps off its CPU
/// for 100 ms is enough to lose a window.
const LOST_REQUESTS_RATIO: u64 = 1000;
/// How long the capture waits for the first byte, and how long a pause means that all has come.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(10);
const CAPTURE_QUIET: Duration = Duration::from_millis(300);
const CAPTURE_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Wrk { connections: u32, pipeline: u32 },
    Churn { connections: u32 },
    Udp { flows: u32, window: u32, bytes: u32 },
}

/// What a client says it completed.
pub struct Completed {
    pub requests: u64,
    pub seconds: f64,
}

impl Client {
    /// Runs the client for `seconds`. An error voids the round: it was not answered in full or not in time.
    pub fn run(self, settings: &Settings, target: SocketAddrV4, seconds: u32) -> Result<Completed> {
        let script = self.script()?;
        let mut command = self.command(settings, target, seconds, script.as_ref());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::start(command, settings.client_cpu())?;
        let ended = process.finish(Duration::from_secs(seconds.into()) + OVERTIME);
        // A client that is still running would keep the pipe open.
        if ended.is_err() {
            let _ = process.child.kill();
        }
        let stderr = read_all(process.child.stderr.take())?;
        ended.map_err(|error| match stderr.trim() {
            "" => error,
            said => error.context(said.to_string()),
        })?;
        let output = read_all(process.child.stdout.take())?;
        match self {
            Client::Wrk { .. } => parse_wrk(&output),
            Client::Churn { .. } | Client::Udp { .. } => parse_json(&output),
        }
    }

    /// Bytes of one request as this client sends it to a server on `port`.
    pub fn request_bytes(self, settings: &Settings, port: u16) -> Result<usize> {
        let (captured, captured_port) = self.capture(settings)?;
        let requests = captured.windows(4).filter(|bytes| bytes == b"\r\n\r\n").count();
        let expected = match self {
            Client::Wrk { pipeline, .. } => pipeline as usize,
            Client::Churn { .. } => 1,
            Client::Udp { .. } => bail!("UDP has no requests to capture"),
        };
        ensure!(
            requests == expected && captured.ends_with(b"\r\n\r\n") && captured.len() % requests == 0,
            "expected {expected} equal requests, captured {:?}",
            String::from_utf8_lossy(&captured)
        );
        let in_host_field = format!("Host: 127.0.0.1:{captured_port}\r\n");
        ensure!(
            String::from_utf8_lossy(&captured).matches(&in_host_field).count() == requests,
            "the requests do not name the port as expected: {:?}",
            String::from_utf8_lossy(&captured)
        );
        // The requests name the port, so its number of digits counts.
        let digits = |port: u16| port.to_string().len();
        Ok(captured.len() / requests + digits(port) - digits(captured_port))
    }

    /// What the client sends on one connection before it needs a reply, and the port it was sent to.
    fn capture(self, settings: &Settings) -> Result<(Vec<u8>, u16)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let single = match self {
            Client::Wrk { pipeline, .. } => Client::Wrk {
                connections: 1,
                pipeline,
            },
            Client::Churn { .. } => Client::Churn { connections: 1 },
            Client::Udp { .. } => self,
        };
        let script = single.script()?;
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let mut command = single.command(settings, target, 2, script.as_ref());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let _process = Process::start(command, settings.client_cpu())?;
        let end = Instant::now() + CAPTURE_TIMEOUT;
        // wrk first opens and closes a connection to see whether anybody listens; it carries no bytes.
        while Instant::now() < end {
            match listener.accept() {
                Ok((stream, _)) => {
                    let captured = read_until_quiet(stream)?;
                    if !captured.is_empty() {
                        return Ok((captured, port));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => process::pause()?,
                Err(error) => return Err(error).context("cannot accept the client"),
            }
        }
        bail!("the client sent nothing")
    }

    fn command(
        self,
        settings: &Settings,
        target: SocketAddrV4,
        seconds: u32,
        script: Option<&TemporaryFile>,
    ) -> Command {
        let mut command = match self {
            Client::Wrk { connections, .. } => {
                let mut command = Command::new("wrk");
                command
                    .arg("-t1")
                    .arg(format!("-c{connections}"))
                    .arg(format!("-d{seconds}s"));
                if let Some(script) = script {
                    command.arg("-s").arg(&script.path);
                }
                command.arg(format!("http://{target}/plaintext"));
                command
            }
            Client::Churn { connections } => {
                let mut command = Command::new(settings.peers.join("load_churn"));
                command.arg("--connect").arg(target.to_string());
                command.arg("--connections").arg(connections.to_string());
                command.arg("--duration").arg(seconds.to_string());
                command.arg("--path").arg("/plaintext");
                command
            }
            Client::Udp { flows, window, bytes } => {
                let mut command = Command::new(settings.peers.join("load_udp"));
                command.arg("--connect").arg(target.to_string());
                command.arg("--flows").arg(flows.to_string());
                command.arg("--window").arg(window.to_string());
                command.arg("--bytes").arg(bytes.to_string());
                command.arg("--duration").arg(seconds.to_string());
                command
            }
        };
        command.stdin(Stdio::null());
        command
    }

    /// The Lua script that makes wrk pipeline, if it shall.
    fn script(self) -> Result<Option<TemporaryFile>> {
        match self {
            Client::Wrk { pipeline, .. } if pipeline > 1 => TemporaryFile::create(&format!(
                "local burst\n\
                 function init(args)\n\
                 \x20 local requests = {{}}\n\
                 \x20 for i = 1, {pipeline} do requests[i] = wrk.format(nil, \"/plaintext\") end\n\
                 \x20 burst = table.concat(requests)\n\
                 end\n\
                 function request() return burst end\n"
            ))
            .map(Some),
            _ => Ok(None),
        }
    }
}

pub fn wrk_is_installed() -> bool {
    let mut command = Command::new("wrk");
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Its exit status is 1 even then: only whether it starts counts.
    command.status().is_ok()
}

fn read_all(pipe: Option<impl Read>) -> Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_until_quiet(mut stream: TcpStream) -> Result<Vec<u8>> {
    // Linux does not pass O_NONBLOCK on to accepted sockets; say so all the same, since the timeout needs it.
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(CAPTURE_QUIET))?;
    let mut captured = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while captured.len() < CAPTURE_BYTES_MAX {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => captured.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => process::pause()?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("cannot read what the client sends"),
        }
    }
    Ok(captured)
}

/// Reads wrk's report. Socket errors and statuses other than 2xx and 3xx are errors here.
fn parse_wrk(output: &str) -> Result<Completed> {
    for line in output.lines().map(str::trim) {
        if line.starts_with("Socket errors:") || line.starts_with("Non-2xx or 3xx responses:") {
            bail!("wrk: {line}");
        }
    }
    // For example "  604519 requests in 2.00s, 76.10MB read"; minutes appear from 60 s on ("1.00m").
    let line = output
        .lines()
        .find(|line| line.contains(" requests in "))
        .with_context(|| format!("no request count in wrk's output: {output}"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [requests, "requests", "in", time, ..] = words[..] else {
        bail!("unexpected line from wrk: {line}");
    };
    let requests = requests.parse().with_context(|| line.to_string())?;
    let seconds = parse_wrk_time(time).with_context(|| line.to_string())?;
    complete(requests, seconds)
}

/// Seconds of a time as wrk prints it: a number with a unit of ms, s, m or h, and a comma behind.
fn parse_wrk_time(time: &str) -> Option<f64> {
    let time = time.trim_end_matches(',');
    let unit_start = time.find(|character: char| character.is_ascii_alphabetic())?;
    let (number, unit) = time.split_at(unit_start);
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// Reads the line of JSON that the clients of this package print.
fn parse_json(output: &str) -> Result<Completed> {
    let report: serde_json::Value =
        serde_json::from_str(output.trim()).with_context(|| format!("not JSON: {output}"))?;
    let number = |name: &str| report[name].as_u64();
    let requests = number("requests").context("no request count")?;
    let seconds = report["seconds"].as_f64().context("no duration")?;
    let lost = number("lost").unwrap_or(0);
    ensure!(number("errors") == Some(0), "{output}");
    ensure!(
        lost <= requests / LOST_REQUESTS_RATIO,
        "{lost} of {requests} datagrams lost"
    );
    complete(requests, seconds)
}

fn complete(requests: u64, seconds: f64) -> Result<Completed> {
    ensure!(requests > 0 && seconds > 0.0, "no request was completed");
    Ok(Completed { requests, seconds })
}

/// A file that is removed when this is dropped.
struct TemporaryFile {
    path: PathBuf,
}

impl TemporaryFile {
    fn create(content: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("ringmill-measure-{}.lua", std::process::id()));
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(TemporaryFile { path })
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 2s test @ http://127.0.0.1:1/plaintext\n  1 threads and 64 connections\n\
                       \x20 604519 requests in 2.00s, 76.10MB read\nRequests/sec: 302000.00\n";

    #[test]
    fn wrk_output_without_errors_is_counted() {
        let completed = parse_wrk(WRK).unwrap();
        assert_eq!((completed.requests, completed.seconds), (604_519, 2.0));
        assert_eq!(parse_wrk_time("1.50m,"), Some(90.0));
        assert_eq!(parse_wrk_time("2.10"), None);
    }

    #[test]
    fn wrk_output_with_errors_voids() {
        let errors = "  Socket errors: connect 0, read 3, write 0, timeout 0\n";
        assert!(parse_wrk(&format!("{WRK}{errors}")).is_err());
        assert!(parse_wrk(&format!("{WRK}  Non-2xx or 3xx responses: 5\n")).is_err());
        assert!(parse_wrk("").is_err());
    }

    #[test]
    fn json_output_with_errors_or_many_losses_voids() {
        assert!(parse_json(r#"{"requests":5,"errors":0,"seconds":1.0}"#).is_ok());
        assert!(parse_json(r#"{"requests":5000,"errors":0,"lost":5,"seconds":1.0}"#).is_ok());
        assert!(parse_json(r#"{"requests":5000,"errors":0,"lost":6,"seconds":1.0}"#).is_err());
        assert!(parse_json(r#"{"requests":5,"errors":1,"seconds":1.0}"#).is_err());
        assert!(parse_json(r#"{"requests":0,"errors":0,"seconds":1.0}"#).is_err());
        assert!(parse_json(r#"{"requests":5,"seconds":1.0}"#).is_err());
    }
}
