//! The load: `ringmill load` as a child process, and what it reports.
//!
//! Any error it reports voids the run. The size of a request is never guessed: the client is run once against a listener
//! of ours that reads what it sends.

use super::h2load;
use super::order::{Loaded, Order};
use super::pinned::Starter;
use super::process::{Interrupt, Launcher, Process, log_end};
use super::profile::{Ask, DATAGRAM_BYTES, Handshakes, Shape, UPLOAD_BYTES};
use super::results::Latency;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a client may take beyond its duration.
const OVERTIME: Duration = Duration::from_secs(30);
/// Addresses that short connections come from.
const SOURCES: u32 = 32;
/// How long the capture waits for the first byte, and how long a pause means that all has come.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(10);
const CAPTURE_QUIET: Duration = Duration::from_millis(300);
const CAPTURE_BYTES_MAX: usize = 64 * 1024;

/// Where clients run and what they are.
pub(super) struct Clients {
    pub(super) launcher: Launcher,
    pub(super) cpus: Vec<usize>,
    /// Another program with the same options and the same JSON; the default is `ringmill load`.
    pub(super) program: Option<PathBuf>,
    /// The certificate of servers with TLS.
    pub(super) cert: Option<PathBuf>,
    /// A folder for request files and logs.
    pub(super) scratch: PathBuf,
    pub(super) interrupt: Interrupt,
}

impl Clients {
    /// Runs the client to its end.
    pub(super) fn run(&self, order: &Order) -> Result<Loaded> {
        self.run_command(self.command(order, Starter::Us)?, order)
    }

    /// As `run`, with a command that may be wrapped in another program: what counts is its standard output.
    pub(super) fn run_command(&self, mut command: Command, order: &Order) -> Result<Loaded> {
        let is_http2 = order.shape.ask == Ask::Unary;
        let out = self.scratch.join("load.json");
        let log = self.scratch.join("load.log");
        // Files and not pipes: nothing has to be read while it runs.
        command.stdout(fs::File::create(&out).with_context(|| out.display().to_string())?);
        command.stderr(fs::File::create(&log).with_context(|| log.display().to_string())?);
        let mut process = Process::start(command, "the load generator")?;
        let ended = process.wait(order.duration + OVERTIME, &self.interrupt)?;
        let said = fs::read_to_string(&out).with_context(|| out.display().to_string())?;
        if is_http2 && ended.success() {
            return h2load::loaded(&said, &self.scratch, order);
        }
        // Where there is a report it tells more than the exit status.
        match parse(&said, order) {
            Ok(loaded) if ended.success() => Ok(loaded),
            Err(error) if !said.trim().is_empty() && !is_http2 => Err(error),
            _ => bail!("the load generator failed ({ended}): {}", log_end(&log)),
        }
    }

    /// The command line, with all arguments.
    pub(super) fn command(&self, order: &Order, starter: Starter) -> Result<Command> {
        if order.shape.ask == Ask::Unary {
            return h2load::command(&self.launcher, &self.cpus, &self.scratch, order, starter);
        }
        let mut command = match &self.program {
            Some(program) => self.launcher.command(&self.cpus, program, starter),
            None => {
                let mut command = self.launcher.ringmill(&self.cpus, starter);
                command.arg("load");
                command
            }
        };
        let Order { shape, target, .. } = *order;
        let scheme = match shape.ask {
            Ask::Datagram => "udp",
            ask if ask.is_websocket() => "ws",
            _ if order.is_secure => "https",
            _ => "http",
        };
        let path = match shape.ask {
            Ask::Datagram => String::new(),
            Ask::Mixed => "/".to_owned(),
            _ => shape.ask.paths().remove(0),
        };
        command.arg(format!("{scheme}://{target}{path}"));
        let cpus: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
        let workers = u32::try_from(self.cpus.len()).unwrap_or(1).min(shape.connections);
        let is_fan = matches!(shape.ask, Ask::FanOut | Ask::FanOutDeflated);
        command.arg(if is_fan { "--fan" } else { "--connections" }).arg(shape.connections.to_string());
        command.arg("--workers").arg(workers.to_string());
        command.arg("--duration").arg(format!("{}ms", order.duration.as_millis()));
        command.args(["--warmup", "0s", "--pin", &cpus.join(",")]);
        if shape.pipeline > 1 {
            command.arg("--pipeline").arg(shape.pipeline.to_string());
        }
        if let Some(requests) = shape.requests_per_connection {
            command.arg("--requests-per-connection").arg(requests.to_string());
            // A closed connection holds its port for a minute; one address has some 28,000.
            command.arg("--sources").arg(SOURCES.to_string());
        }
        if let Some(cert) = self.cert.as_ref().filter(|_| order.is_secure) {
            command.arg("--cacert").arg(cert);
            if shape.handshakes == Handshakes::Full {
                command.arg("--no-resume");
            }
        }
        if let Some(rate) = order.rate {
            command.arg("--rate").arg(format!("{rate:.0}"));
        }
        for field in shape.fields {
            command.arg("--header").arg(field);
        }
        match shape.ask {
            Ask::Mixed => {
                // What each path must answer was checked to the last byte at the start.
                command.arg("--expect-same");
                for path in shape.ask.paths() {
                    command.arg("--raw").arg(self.request_file(&path)?);
                }
            }
            Ask::Upload => {
                command.arg("--body").arg(self.file("upload.body", &vec![b'x'; UPLOAD_BYTES])?);
                command.arg("--expect-body").arg(UPLOAD_BYTES.to_string());
            }
            Ask::Datagram => {
                command.arg("--size").arg(DATAGRAM_BYTES.to_string());
            }
            Ask::Echo | Ask::FanOut | Ask::FanOutDeflated => {
                command.arg("--size").arg(shape.ask.message_bytes().to_string());
                if shape.ask.is_compressed() {
                    command.arg("--deflate");
                }
                if let Some(server) = order.server.filter(|_| is_fan) {
                    command.arg("--cpu-of").arg(server.to_string());
                }
            }
            Ask::Small | Ask::Large | Ask::Huge | Ask::Download => {
                let path = shape.ask.paths().remove(0);
                command.arg("--expect-body").arg(self.file("expected.body", &shape.ask.expected(&path))?);
            }
            Ask::Plaintext | Ask::Json | Ask::Pending | Ask::Unary => {
                let body = shape.ask.expected("");
                command.arg("--expect-body").arg(String::from_utf8(body).context("text")?);
            }
        }
        command.arg("--json").stdin(Stdio::null());
        Ok(command)
    }

    /// A request as it goes over the wire, for one path of a mix.
    fn request_file(&self, path: &str) -> Result<PathBuf> {
        let file = self.scratch.join(format!("request{}.http", path.replace('/', "-")));
        let request = format!("GET {path} HTTP/1.1\r\nHost: {{host}}\r\n\r\n");
        fs::write(&file, request).with_context(|| file.display().to_string())?;
        Ok(file)
    }

    /// The name of a file with these bytes, as an option value: `@FILE`.
    fn file(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let file = self.scratch.join(name);
        fs::write(&file, bytes).with_context(|| file.display().to_string())?;
        Ok(format!("@{}", file.display()))
    }

    /// Bytes of one request as the client sends it to a server on `port`.
    pub(super) fn request_bytes(&self, shape: Shape, port: u16) -> Result<usize> {
        let (captured, captured_port) = self.capture(shape)?;
        let requests = captured.windows(4).filter(|bytes| bytes == b"\r\n\r\n").count();
        let text = String::from_utf8_lossy(&captured);
        let expected = shape.requests_per_connection.map_or(shape.pipeline, |most| shape.pipeline.min(most));
        ensure!(
            requests == expected as usize
                && captured.ends_with(b"\r\n\r\n")
                && captured.len() % requests == 0,
            "expected {expected} equal requests of the client, captured {text:?}"
        );
        let in_host_field = format!("Host: 127.0.0.1:{captured_port}\r\n");
        ensure!(
            text.matches(&in_host_field).count() == requests,
            "the client's requests do not name the port as expected: {text:?}"
        );
        // The requests name the port, so its number of digits counts.
        let digits = |port: u16| port.to_string().len();
        Ok(captured.len() / requests + digits(port) - digits(captured_port))
    }

    /// What the client sends on one connection before it needs a reply, and the port it was sent to.
    fn capture(&self, shape: Shape) -> Result<(Vec<u8>, u16)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let order = Order {
            shape: Shape { connections: 1, ..shape },
            target: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            is_secure: false,
            duration: CAPTURE_TIMEOUT,
            rate: None,
            server: None,
        };
        let mut command = self.command(&order, Starter::Us)?;
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::start(command, "the load generator")?;
        let end = Instant::now() + CAPTURE_TIMEOUT;
        while Instant::now() < end {
            match listener.accept() {
                Ok((stream, _)) => {
                    // A client may first look whether anybody listens; such a connection carries no bytes.
                    let captured = read_until_quiet(stream)?;
                    if !captured.is_empty() {
                        return Ok((captured, port));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    process.expect_running()?;
                    self.interrupt.pause()?;
                }
                Err(error) => return Err(error).context("cannot accept the client"),
            }
        }
        bail!("the client sent nothing")
    }
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
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("cannot read what the client sends"),
        }
    }
    Ok(captured)
}

/// What is read of the client's JSON; it says more.
#[derive(Deserialize)]
struct Report {
    requests: u64,
    /// With those whose answer came after the end: what the server's cost is spread over.
    #[serde(default)]
    requests_total: u64,
    requests_per_second: f64,
    errors: u64,
    #[serde(default)]
    errors_by_kind: serde_json::Value,
    #[serde(default)]
    first_error: Option<String>,
    latency_us: Latency,
    #[serde(default)]
    tls: Option<Tls>,
    #[serde(default)]
    fan: Option<Fan>,
}

/// A fan-out.
#[derive(Deserialize)]
struct Fan {
    watched_cpu_seconds: Option<f64>,
}

/// Handshakes, in all.
#[derive(Deserialize)]
struct Tls {
    handshakes_total: u64,
    resumed_total: u64,
}

/// Reads the JSON. Errors of the client, no request at all, and handshakes of the wrong kind are errors here.
fn parse(output: &str, order: &Order) -> Result<Loaded> {
    let report: Report = serde_json::from_str(output.trim())
        .with_context(|| format!("the load generator's report was not understood: {}", output.trim()))?;
    ensure!(
        report.errors == 0,
        "{} errors: {} {}",
        report.errors,
        report.errors_by_kind,
        report.first_error.unwrap_or_default()
    );
    ensure!(
        report.requests > 0 && report.requests_per_second > 0.0,
        "not one request was answered within the time"
    );
    if let Some(tls) = report.tls.filter(|_| order.is_secure) {
        let Tls { handshakes_total, resumed_total } = tls;
        let is_right = match order.shape.handshakes {
            Handshakes::Any => true,
            Handshakes::Full => resumed_total == 0,
            // The first ones are full: what they bring is there for the next.
            Handshakes::Resumed => {
                let later = handshakes_total.saturating_sub(order.shape.connections.into());
                resumed_total > 0 && 10 * resumed_total >= 9 * later
            }
        };
        ensure!(is_right, "of {handshakes_total} TLS handshakes {resumed_total} were resumed");
    }
    Ok(Loaded {
        requests: report.requests.max(report.requests_total),
        requests_per_second: report.requests_per_second,
        latency_us: report.latency_us,
        server_cpu_ns: report
            .fan
            .and_then(|fan| fan.watched_cpu_seconds)
            .map(|seconds| (seconds * 1e9) as u64),
    })
}

/// The folder of a run for what it needs on the way; removed at the end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(parent: &Path) -> Result<Scratch> {
        let folder = parent.join(format!(".compare-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
        Ok(Scratch(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left over if it cannot be removed: nothing in it matters.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::Profile;
    use super::*;

    const GOOD: &str = r#"{"requests":1000,"requests_per_second":500.0,"errors":0,"more":[1],
        "latency_us":{"p50":1.0,"p90":2.0,"p99":3,"p99_9":4.0,"p99_99":5.0,"max":6.5,"mean":1.2}}"#;

    fn order(profile: Profile) -> Order {
        Order {
            shape: profile.shape().unwrap(),
            target: "127.0.0.1:80".parse().unwrap(),
            is_secure: profile.is_tls(),
            duration: Duration::from_millis(1500),
            rate: None,
            server: Some(77),
        }
    }

    fn parse(output: &str) -> Result<Loaded> {
        super::parse(output, &order(Profile::KeepAlive64))
    }

    #[test]
    fn handshakes_of_the_wrong_kind_void() {
        let check = |profile, resumed: u64, expected: bool| {
            let tls = format!(r#""tls":{{"handshakes_total":1064,"resumed_total":{resumed}}},"errors""#);
            let report = GOOD.replace("\"errors\"", &tls);
            let said = super::parse(&report, &order(profile)).map_err(|error| error.to_string());
            assert_eq!(said.is_ok(), expected, "{resumed}: {said:?}");
        };
        check(Profile::TlsResumed, 1000, true);
        check(Profile::TlsResumed, 900, true);
        check(Profile::TlsResumed, 899, false);
        check(Profile::TlsResumed, 0, false);
        check(Profile::TlsHandshake, 0, true);
        check(Profile::TlsHandshake, 1, false);
        check(Profile::TlsKeepAlive64, 1, true);
    }

    #[test]
    fn a_good_report_is_read() {
        let loaded = parse(GOOD).unwrap();
        assert_eq!((loaded.requests, loaded.requests_per_second), (1000, 500.0));
        assert_eq!(loaded.latency_us.named()[3], ("p99.9", 4.0));
        let loaded = parse(&GOOD.replace("\"errors\"", "\"requests_total\":1003,\"errors\"")).unwrap();
        assert_eq!((loaded.requests, loaded.server_cpu_ns), (1003, None));
        let fan = GOOD.replace("\"errors\"", "\"fan\":{\"watched_cpu_seconds\":0.25},\"errors\"");
        assert_eq!(parse(&fan).unwrap().server_cpu_ns, Some(250_000_000));
    }

    #[test]
    fn errors_and_silence_void() {
        let bad = GOOD.replace("\"errors\":0", "\"errors\":3,\"first_error\":\"reset by peer\"");
        let error = parse(&bad).unwrap_err().to_string();
        assert!(error.contains("3 errors") && error.contains("reset by peer"), "{error}");
        assert!(parse(&GOOD.replace("1000", "0")).is_err());
        assert!(parse("").is_err());
        assert!(parse("{}").is_err());
    }

    #[test]
    fn the_command_says_all_that_a_profile_is() {
        let clients = Clients {
            launcher: Launcher { ringmill: "ringmill".into() },
            cpus: vec![1],
            program: None,
            cert: Some("cert.pem".into()),
            scratch: std::env::temp_dir(),
            interrupt: Interrupt::default(),
        };
        let check = |profile: Profile, rate, expected: &str| {
            let order = Order { rate, ..order(profile) };
            let command = clients.command(&order, Starter::Us).unwrap();
            let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            let at = words.iter().position(|word| word == "load").unwrap();
            assert_eq!(words[at..].join(" "), expected);
        };
        check(
            Profile::KeepAlive64,
            None,
            "load http://127.0.0.1:80/plaintext --connections 64 --workers 1 --duration 1500ms --warmup 0s --pin 1 \
             --expect-body Hello, World! --json",
        );
        check(
            Profile::TenRequests,
            Some(1234.4),
            "load http://127.0.0.1:80/plaintext --connections 64 --workers 1 --duration 1500ms --warmup 0s --pin 1 \
             --requests-per-connection 10 --sources 32 --rate 1234 --expect-body Hello, World! --json",
        );
        check(
            Profile::TlsHandshake,
            None,
            "load https://127.0.0.1:80/plaintext --connections 64 --workers 1 --duration 1500ms --warmup 0s --pin 1 \
             --requests-per-connection 1 --sources 32 --cacert cert.pem --no-resume --expect-body Hello, World! --json",
        );
        check(
            Profile::TlsKeepAlive64,
            None,
            "load https://127.0.0.1:80/plaintext --connections 64 --workers 1 --duration 1500ms --warmup 0s --pin 1 \
             --cacert cert.pem --expect-body Hello, World! --json",
        );
        let fields: Vec<String> = Profile::NineFields
            .shape()
            .unwrap()
            .fields
            .iter()
            .map(|field| format!("--header {field} "))
            .collect();
        let expected = format!(
            "load http://127.0.0.1:80/plaintext --connections 64 --workers 1 --duration 1500ms --warmup 0s --pin 1 \
             {}--expect-body Hello, World! --json",
            fields.concat()
        );
        check(Profile::NineFields, None, &expected);
        check(
            Profile::WsPipelined16,
            None,
            "load ws://127.0.0.1:80/ws --connections 64 --workers 1 --duration 1500ms --warmup 0s --pin 1 --pipeline 16 \
             --size 20 --json",
        );
        check(
            Profile::WsFanDeflate,
            None,
            "load ws://127.0.0.1:80/ws/compare --fan 1001 --workers 1 --duration 1500ms --warmup 0s --pin 1 \
             --size 512 --deflate --cpu-of 77 --json",
        );
        check(
            Profile::UdpEcho,
            None,
            "load udp://127.0.0.1:80 --connections 256 --workers 1 --duration 1500ms --warmup 0s --pin 1 --size 64 --json",
        );
    }
}
