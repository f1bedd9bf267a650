//! Every limit, timeout and choice of the engine, with its default.

use crate::error::Error;
use crate::gate::Gate;
use std::str::FromStr;
use std::time::Duration;

/// How the engine runs. Start from `Config::default()` and change what matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Worker threads; `None` is one for each CPU this process may use.
    pub workers: Option<usize>,
    /// Which CPU each worker is pinned to.
    pub pin: Pin,
    /// io_uring, epoll, or what the machine allows.
    pub driver: DriverChoice,
    /// Connections a worker serves at once; further ones wait. Most wait in the kernel's queue, but what one turn
    /// accepted waits here, unread, each with a descriptor: up to the backlog of each listener on io_uring, 64 on
    /// epoll. `None` is the descriptor limit divided by the workers, less a reserve for those and everything else: 64, the
    /// backlogs of the stream listeners and two for each of `splice_pipes`, but at most a quarter. Out of descriptors, accepting pauses.
    pub connections_max: Option<usize>,
    /// Receive buffers a worker. The kernel takes them in order, so large input passes through all of them: together they
    /// should fit the second-level cache.
    pub recv_buffers: u16,
    /// Bytes of each receive buffer.
    pub recv_buffer_bytes: usize,
    /// Bytes one connection may receive in a turn before the others have theirs.
    pub turn_bytes_max: u32,
    /// Unconsumed input of one connection, in bytes; beyond it the connection is closed.
    pub input_bytes_max: usize,
    /// Pipes a worker may have at once for bytes that go from one connection to another unseen ([`Io::splice`](crate::Io::splice)), each
    /// with two descriptors and at most 256 KiB of the kernel's memory. One is in use only while it has bytes in it, which wait for the
    /// connection that they go to; who finds none copies. 0 copies always.
    pub splice_pipes: u16,
    /// Queued output of one connection at which reading from it pauses, in bytes.
    pub output_high_water_bytes: usize,
    /// Queued output at which reading resumes, in bytes.
    pub output_low_water_bytes: usize,
    /// Queued output at which the connection is closed, in bytes.
    pub output_bytes_max: usize,
    /// Queued output of all connections at which a turn sends before it has handled all its events:
    /// about half the second-level cache, in bytes.
    pub flush_bytes: usize,
    /// Memory a worker spends on receive buffers, queued output, unconsumed input and what sessions hold, in bytes.
    /// From three quarters of it on the worker accepts no more, from seven eighths on it closes idle connections,
    /// and at the full budget it refuses requests. What is under way in that turn may pass it a little.
    pub memory_bytes_max: usize,
    /// Flows that the datagram protocols of a worker may have open at once, which are datagram sockets connected with a peer each
    /// ([`DatagramIo::open`](crate::DatagramIo::open)). Each has a descriptor, and counts among `connections_max`.
    pub flows_max: usize,
    /// What the kernel should queue for a datagram socket until it is received, in bytes (SO_RCVBUF, socket(7)): it takes
    /// at most net.core.rmem_max, and twice that for its own accounting, in which a datagram of 64 bytes has about 800.
    /// What does not fit is lost. A larger default of the system stays.
    pub datagram_queue_bytes: usize,
    /// A peer that takes no output for so long is closed; it is noticed within twice this time.
    pub write_timeout: Duration,
    /// The same for a peer that takes less than so many bytes a second while output waits for it. 0 is satisfied with one
    /// byte in each `write_timeout`.
    pub write_bytes_per_sec_min: u32,
    /// A session that pauses and has set no deadline is given this one, so that no wait is without an end.
    pub pause_timeout: Duration,
    /// How long an outbound connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a closing connection waits for the peer to close, so that the last reply arrives. Zero is for clients,
    /// which have read all they asked for: the socket is closed at once.
    pub linger_timeout: Duration,
    /// How long accepting pauses when the process is out of descriptors, unless a connection closes.
    pub accept_retry: Duration,
    /// How long a start waits for addresses that are in use before it fails: in all, once before the protocols are made and once
    /// more before it listens. The kernel frees what an io_uring process had open, its listening sockets too, a little after the
    /// process has gone. Zero: not at all; at most an hour.
    pub bind_patience: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            workers: None,
            pin: Pin::Auto,
            driver: DriverChoice::Auto,
            connections_max: None,
            recv_buffers: 128,
            recv_buffer_bytes: 16 * 1024,
            turn_bytes_max: 64 * 1024,
            input_bytes_max: 1024 * 1024,
            splice_pipes: 64,
            output_high_water_bytes: 256 * 1024,
            output_low_water_bytes: 64 * 1024,
            output_bytes_max: 4 * 1024 * 1024,
            flush_bytes: 512 * 1024,
            memory_bytes_max: 256 * 1024 * 1024,
            flows_max: 10_000,
            datagram_queue_bytes: 1024 * 1024,
            write_timeout: Duration::from_secs(30),
            write_bytes_per_sec_min: 256,
            pause_timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            linger_timeout: Duration::from_secs(2),
            accept_retry: Duration::from_millis(100),
            bind_patience: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// Sets the number of worker threads.
    pub fn with_workers(mut self, workers: usize) -> Config {
        self.workers = Some(workers);
        self
    }

    /// Sets the pinning.
    pub fn with_pin(mut self, pin: Pin) -> Config {
        self.pin = pin;
        self
    }

    /// Sets the driver.
    pub fn with_driver(mut self, driver: DriverChoice) -> Config {
        self.driver = driver;
        self
    }

    /// Sets the limit of open connections a worker.
    pub fn with_connections_max(mut self, connections: usize) -> Config {
        self.connections_max = Some(connections);
        self
    }

    /// Sets the memory budget of a worker, in bytes.
    pub fn with_memory_bytes_max(mut self, bytes: usize) -> Config {
        self.memory_bytes_max = bytes;
        self
    }

    /// Bytes of receive buffers a worker.
    pub(crate) fn pool_bytes(&self) -> usize {
        usize::from(self.recv_buffers) * self.recv_buffer_bytes
    }

    /// What a peer must take of waiting output in `write_timeout`.
    pub(crate) fn write_bytes_min(&self) -> u64 {
        let bytes = self.write_timeout.as_secs_f64() * f64::from(self.write_bytes_per_sec_min);
        (bytes as u64).max(1)
    }

    /// Reports every problem at once.
    pub fn check(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        let mut need = |ok: bool, problem: &str| {
            if !ok {
                problems.push(problem.to_owned());
            }
        };
        need(self.workers != Some(0), "workers is 0: give at least 1, or leave it out for one a CPU");
        need(self.workers.is_none_or(|workers| workers <= 1024), "workers is over 1024");
        need(self.connections_max != Some(0), "connections_max is 0: nothing could ever connect");
        need(
            self.recv_buffers.is_power_of_two() && self.recv_buffers >= 8 && self.recv_buffers <= 32_768,
            "recv_buffers must be a power of two from 8 to 32768 (a rule of the kernel's buffer rings)",
        );
        need(
            (512..=1 << 20).contains(&self.recv_buffer_bytes),
            "recv_buffer_bytes must be from 512 bytes to 1 MiB",
        );
        need(self.turn_bytes_max >= 512, "turn_bytes_max must be at least 512 bytes");
        need((1024..=1 << 31).contains(&self.input_bytes_max), "input_bytes_max must be from 1 KiB to 2 GiB");
        need(
            self.output_low_water_bytes < self.output_high_water_bytes,
            "output_low_water_bytes must be below output_high_water_bytes",
        );
        need(
            self.output_high_water_bytes < self.output_bytes_max,
            "output_high_water_bytes must be below output_bytes_max, the hard cap",
        );
        need(self.output_bytes_max <= 1 << 31, "output_bytes_max must be at most 2 GiB");
        need(
            self.memory_bytes_max / 2 >= self.pool_bytes(),
            &format!(
                "memory_bytes_max must be at least {}: twice the receive buffers (recv_buffers * recv_buffer_bytes)",
                2 * self.pool_bytes()
            ),
        );
        need(
            self.datagram_queue_bytes <= 1 << 30,
            "datagram_queue_bytes must be at most 1 GiB (0 leaves it to the system)",
        );
        need(!self.write_timeout.is_zero(), "write_timeout is zero: no output could ever be sent");
        need(!self.pause_timeout.is_zero(), "pause_timeout is zero: no session could ever pause");
        need(!self.connect_timeout.is_zero(), "connect_timeout is zero: no connection could ever be made");
        need(!self.accept_retry.is_zero(), "accept_retry is zero: accepting would spin");
        need(self.bind_patience <= Duration::from_secs(3600), "bind_patience must be at most an hour");
        if let Pin::List(cpus) = &self.pin
            && cpus.is_empty()
        {
            need(false, "the list of CPUs to pin to is empty");
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Config { problems }) }
    }
}

/// Options of one TCP or Unix listener. What it does not apply to, it does not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
    pub backlog: i32,
    /// Send small segments at once (TCP_NODELAY).
    pub nodelay: bool,
    /// Congestion control by name, as in net.ipv4.tcp_available_congestion_control; `None` is the system's.
    pub congestion: Option<String>,
    /// TCP fast open with this many pending requests (also needs bit 2 of net.ipv4.tcp_fastopen).
    pub fast_open: Option<u32>,
    /// Probe idle connections after this long (SO_KEEPALIVE, TCP_KEEPIDLE).
    pub keep_alive: Option<Duration>,
    /// Accept only once data has arrived, or after about this long (TCP_DEFER_ACCEPT, tcp(7)): whole seconds, at least one. The
    /// kernel rounds up to a number of repeated SYN-ACKs: 1, 3, 7, 15 seconds and so on.
    pub defer_accept: Option<Duration>,
    /// An IPv6 listener takes no IPv4 (IPV6_V6ONLY). Off: `[::]` takes both.
    pub only_v6: bool,
    /// Permissions of a Unix socket's file, such as `0o660`: whoever may write to it may connect (unix(7)). Set before anybody
    /// can connect; at most `0o777`. `None` leaves them to the umask. Refused for an abstract name, which has no file.
    pub unix_mode: Option<u32>,
    /// The group that a Unix socket's file belongs to, by name or number. Set before anybody can connect. Only root, or a member
    /// of the group, may do it (chown(2)). `None` is the process's own. Refused for an abstract name.
    pub unix_group: Option<String>,
    /// Who may come in: asked before the protocol knows of a connection. `None` for everybody.
    pub gate: Option<Gate>,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            backlog: 4096,
            nodelay: true,
            congestion: None,
            fast_open: None,
            keep_alive: None,
            defer_accept: None,
            only_v6: false,
            unix_mode: None,
            unix_group: None,
            gate: None,
        }
    }
}

/// Which driver moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// What the environment variable `RINGMILL_DRIVER` says (empty counts as unset), or else io_uring where a probe
    /// of the real thing works, or else epoll.
    #[default]
    Auto,
    /// io_uring where a probe works, else epoll, whatever the environment says.
    Probe,
    /// io_uring, or an error that says why not.
    Uring,
    /// epoll.
    Poll,
}

impl FromStr for DriverChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DriverChoice, String> {
        match text {
            "auto" => Ok(DriverChoice::Auto),
            "uring" => Ok(DriverChoice::Uring),
            "poll" => Ok(DriverChoice::Poll),
            _ => Err(format!("unknown driver {text:?}: expected auto, uring or poll")),
        }
    }
}

impl std::fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DriverChoice::Auto | DriverChoice::Probe => "auto",
            DriverChoice::Uring => "uring",
            DriverChoice::Poll => "poll",
        })
    }
}

/// How workers are bound to CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Pin {
    /// Worker n to the n-th CPU this process may use; none if there are more workers than CPUs.
    #[default]
    Auto,
    /// Where the scheduler likes.
    Off,
    /// Worker n to the n-th CPU of the list, starting over at its end.
    List(Vec<usize>),
}

impl FromStr for Pin {
    type Err = String;

    /// Reads `auto`, `off`, or CPU numbers and ranges: `0,2,4-7`.
    fn from_str(text: &str) -> Result<Pin, String> {
        match text {
            "auto" => return Ok(Pin::Auto),
            "off" => return Ok(Pin::Off),
            _ => {}
        }
        let bad =
            || format!("bad CPU list {text:?}: expected auto, off, or numbers and ranges such as 0,2,4-7");
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| bad())?;
            let last: usize = last.trim().parse().map_err(|_| bad())?;
            if first > last || last > 65_535 {
                return Err(bad());
            }
            cpus.extend(first..=last);
        }
        Ok(Pin::List(cpus))
    }
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pin::Auto => f.write_str("auto"),
            Pin::Off => f.write_str("off"),
            Pin::List(cpus) => f.write_str(&cpu_ranges(cpus)),
        }
    }
}

/// CPU numbers as [`Pin`] reads them, and as the kernel writes them: what follows each other is a range.
pub(crate) fn cpu_ranges(cpus: &[usize]) -> String {
    let ranges = cpus.chunk_by(|cpu, next| cpu.checked_add(1) == Some(*next));
    let text = |range: &[usize]| match range {
        [first, .., last] => format!("{first}-{last}"),
        alone => alone.iter().map(usize::to_string).collect(),
    };
    ranges.map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_sound() {
        Config::default().check().unwrap();
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config = Config {
            workers: Some(0),
            recv_buffers: 100,
            output_high_water_bytes: 10,
            write_timeout: Duration::ZERO,
            ..Config::default()
        };
        let text = config.check().unwrap_err().to_string();
        for word in ["workers is 0", "recv_buffers", "output_low_water_bytes", "write_timeout"] {
            assert!(text.contains(word), "{word} in: {text}");
        }
    }

    #[test]
    fn cpu_lists() {
        let check = |text: &str, expected: Option<Pin>| assert_eq!(text.parse().ok(), expected, "{text}");
        check("auto", Some(Pin::Auto));
        check("off", Some(Pin::Off));
        check("3", Some(Pin::List(vec![3])));
        check("0,2,4-6", Some(Pin::List(vec![0, 2, 4, 5, 6])));
        for text in ["", ",", "a", "3-1", "1-", "-1", "0-99999999"] {
            check(text, None);
        }
        let check = |cpus: &[usize], text: &str| {
            let pin = Pin::List(cpus.to_vec());
            assert_eq!((pin.to_string().as_str(), text.parse()), (text, Ok(pin)));
        };
        check(&[3], "3");
        check(&[0, 1], "0-1");
        check(&[0, 2, 4, 5, 6, 9], "0,2,4-6,9");
        // Workers take them in this order.
        check(&[3, 2, 1, 1, 2], "3,2,1,1-2");
        check(&(0..=4095).collect::<Vec<_>>(), "0-4095");
    }
}
