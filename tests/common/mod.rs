//! What the integration tests share: both drivers, clients that cannot hang, and programs as child processes.
//!
//! Nothing here waits for a fixed time: `eventually` looks at a condition until it holds or patience ends.
#![allow(dead_code, unused_imports)] // Each test crate uses its own part of this.

pub mod authority;
pub mod frames;
pub mod http;
pub mod names;
pub mod program;
pub mod puppet;
#[cfg(feature = "tls")]
pub mod records;
pub mod site;
#[cfg(feature = "tls")]
pub mod tls;
pub mod tower_site;
pub mod traces;
pub mod upstream;
pub mod ws;

pub use program::{Program, alone, descriptors, rss_anon_bytes};

use ringmill::{Address, Config, DriverChoice, Echo, Engine, Error, Layer, Pin, Running, WorkerContext};
use std::fmt::Debug;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long anything may take before the test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test with each real driver, and names those it fails with. Where the machine has no io_uring, one
/// line on standard error says so, past the capture of the test harness.
pub fn on_both_drivers<F: Fn(DriverChoice)>(test: F) {
    let mut failed = Vec::new();
    for driver in [DriverChoice::Uring, DriverChoice::Poll] {
        match uring_refusal() {
            Some(refusal) if driver == DriverChoice::Uring => {
                say_past_capture(&format!("{}: tested with poll only: {refusal}", program::test_name::<F>()));
            }
            _ if catch_unwind(AssertUnwindSafe(|| test(driver))).is_err() => failed.push(driver.to_string()),
            _ => {}
        }
    }
    assert!(failed.is_empty(), "failed with {}: each is told above", failed.join(" and "));
}

/// Why io_uring cannot be used here. Any other failure to start is one of the tests.
fn uring_refusal() -> Option<&'static str> {
    static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
    let probe = || match Engine::builder()
        .config(config(DriverChoice::Uring))
        .listen("127.0.0.1:0", |_| Echo::default())
        .start()
    {
        Ok(_) => None,
        Err(error @ Error::Driver { .. }) => Some(error.to_string()),
        Err(error) => panic!("an echo server does not start: {error}"),
    };
    REFUSAL.get_or_init(probe).as_deref()
}

/// The test harness shows `eprintln` of failed tests only.
pub fn say_past_capture(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("standard error takes a line");
}

/// One worker that is not pinned: tests run side by side.
pub fn config(driver: DriverChoice) -> Config {
    Config::default().with_driver(driver).with_workers(1).with_pin(Pin::Off)
}

/// A running engine with one protocol on a free port of 127.0.0.1.
pub fn start<P: Layer>(
    config: Config,
    factory: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
) -> Running {
    Engine::builder().config(config).listen("127.0.0.1:0", factory).start().expect("the engine starts")
}

/// Connects to the first listener.
pub fn connect(running: &Running) -> TcpStream {
    connect_to(ip(&running.addresses()[0]))
}

pub fn ip(address: &Address) -> SocketAddr {
    address.ip().expect("an IP address")
}

pub fn connect_to(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server takes a connection");
    with_patience(stream)
}

pub fn with_patience(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Connects with buffers of about `bytes` each way: little output fits between a server and a client that does
/// not read.
pub fn connect_narrow(address: SocketAddr, bytes: usize) -> TcpStream {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.set_send_buffer_size(bytes).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE).expect("the server takes a connection");
    with_patience(socket.into())
}

/// A connection from this address. Where it is closed at once, that may be told by any of the calls.
pub fn connect_from(ip: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(PATIENCE))?;
    Ok(client)
}

/// Also where a test fails: nobody is to wait for what does not come any more.
pub struct SetWhenDropped<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Closes with a reset instead of a FIN.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// The client's side of a conversation; every method fails the test when it cannot do what it says.
pub trait Client: Read + Write {
    #[track_caller]
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.write_all(bytes.as_ref()).expect("the server takes what is sent");
    }

    /// Reads exactly `expected`.
    #[track_caller]
    fn expect(&mut self, expected: impl AsRef<[u8]>) {
        let expected = expected.as_ref();
        let mut actual = vec![0; expected.len()];
        let mut filled = 0;
        while filled < actual.len() {
            match self.read(&mut actual[filled..]) {
                Ok(bytes) if bytes > 0 => filled += bytes,
                end => panic!("{end:?} after {}, expected {}", show(&actual[..filled]), show(expected)),
            }
        }
        assert!(actual == expected, "received {}, expected {}", show(&actual), show(expected));
    }

    /// Sends, and reads exactly `expected`.
    #[track_caller]
    fn ask(&mut self, bytes: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
        self.send(bytes);
        self.expect(expected);
    }

    /// Reads everything up to the end of the stream.
    #[track_caller]
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        if let Err(error) = self.read_to_end(&mut rest) {
            panic!("{error} after {}", show(&rest));
        }
        rest
    }

    #[track_caller]
    fn expect_eof(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "expected the end, received {}", show(&rest));
    }

    /// Reads up to the reset that ends the connection, and returns what came before it.
    #[track_caller]
    fn expect_reset(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let end = self.read_to_end(&mut rest);
        let is_reset = end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        assert!(is_reset, "expected a reset, got {end:?} after {}", show(&rest));
        rest
    }
}

impl<S: Read + Write> Client for S {}

/// Bytes for a failure message: text, cut short.
pub fn show(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(600)];
    let more = if cut.len() < bytes.len() { " ..." } else { "" };
    format!("{} bytes {:?}{more}", bytes.len(), String::from_utf8_lossy(cut))
}

/// Waits until `look` sees `expected`.
#[track_caller]
pub fn eventually<T: PartialEq + Debug>(expected: T, mut look: impl FnMut() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if seen == expected {
            return;
        }
        assert!(Instant::now() < deadline, "after {PATIENCE:?} it is {seen:?}, expected {expected:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `look` sees the same for a while: whatever moves has come to a stop. Returns what it saw.
#[track_caller]
pub fn settled<T: PartialEq + Debug>(mut look: impl FnMut() -> T) -> T {
    let deadline = Instant::now() + 3 * PATIENCE;
    let (mut seen, mut since) = (look(), Instant::now());
    while since.elapsed() < Duration::from_millis(300) {
        assert!(Instant::now() < deadline, "it still moves: {seen:?}");
        std::thread::sleep(Duration::from_millis(5));
        let now = look();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    seen
}

/// `bytes` bytes from offset `from` of a stream in which each position is told from its neighbours: its period
/// is prime, so a lost or doubled block of any usual size shows.
pub fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..251).collect();
    let mut all = period[from % 251..].to_vec();
    while all.len() < bytes {
        all.extend_from_slice(&period);
    }
    all.truncate(bytes);
    all
}

/// Reads `bytes` bytes of the pattern, in order, at most `piece` at a time.
#[track_caller]
pub fn expect_pattern(stream: &mut impl Read, bytes: usize, piece: usize) {
    let mut at = 0;
    while at < bytes {
        let wanted = piece.min(bytes - at);
        expect_pattern_from(stream, at, wanted);
        at += wanted;
    }
}

/// Reads the next `bytes` bytes of the pattern, which begin at offset `from`.
#[track_caller]
pub fn expect_pattern_from(stream: &mut impl Read, from: usize, bytes: usize) {
    let mut buffer = vec![0; bytes];
    if let Err(error) = stream.read_exact(&mut buffer) {
        panic!("{error} in the bytes {from} to {}", from + bytes);
    }
    assert!(buffer == pattern(from, bytes), "bytes {from} to {} are wrong", from + bytes);
}

/// A group that this process may give its files to: its own, or for root one that is not its own.
pub fn a_group() -> u32 {
    let process = std::fs::metadata("/proc/self").expect("proc(5)");
    if process.uid() == 0 { process.gid() + 1 } else { process.gid() }
}

/// A directory of its own for each caller, removed in the end.
pub struct Directory(pub std::path::PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringmill-test-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("temporary paths are text").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
