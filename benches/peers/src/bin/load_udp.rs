//! UDP client: sockets that each keep a window of datagrams outstanding and check every echo.
//!
//! It never leaves the loopback network. A payload carries sequence number, flow and window place, then filler, all of
//! which must come back unchanged. A datagram without an echo for 100 ms counts as lost, and a new one takes its place.
//! Prints one line of JSON: {"requests":N,"errors":N,"lost":N,"seconds":S}, requests being datagrams echoed.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use ringmill_peers::datagrams::{Batch, PAYLOAD_BYTES_MAX, Peers};
use ringmill_peers::epoll::{Epoll, Events};
use ringmill_peers::net::{LoopbackAddress, SourceAddresses};
use socket2::{Domain, Protocol, Socket, Type};

/// A datagram whose echo takes longer than this is lost.
const STALL_TIMEOUT: Duration = Duration::from_millis(100);
/// How often flows are looked over for lost datagrams.
const SWEEP_INTERVAL: Duration = Duration::from_millis(20);
/// Sequence number (8), flow (4) and window place (4), little endian.
const HEADER_BYTES: usize = 16;
const FILLER: u8 = 0xA5;

#[derive(Parser)]
#[command(about = "UDP echo load with a window of datagrams a flow (loopback only)")]
struct Args {
    /// Echo server to load, in 127.0.0.0/8.
    #[arg(long, value_name = "ADDR")]
    connect: LoopbackAddress,
    /// Sockets.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    flows: u16,
    /// Datagrams outstanding on each socket.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    window: u16,
    /// Payload size.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(HEADER_BYTES as i64..=PAYLOAD_BYTES_MAX as i64))]
    bytes: u16,
    /// Seconds to run.
    #[arg(long, value_name = "SECS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    duration: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut sources = SourceAddresses::default();
    let epoll = Epoll::new()?;
    let mut flows = Vec::new();
    for id in 0..u32::from(args.flows) {
        let flow = Flow::open(id, &args, &mut sources).context("cannot open a socket")?;
        epoll.add(flow.socket.as_raw_fd(), libc::EPOLLIN, id.into())?;
        flows.push(flow);
    }
    let mut batch = Batch::new(args.window.into(), Peers::One);
    let mut totals = Totals::default();
    let start = Instant::now();
    run(
        &epoll,
        &mut flows,
        &mut batch,
        &mut totals,
        start,
        start + Duration::from_secs(args.duration.into()),
    )?;
    let report = serde_json::json!({
        "requests": totals.echoed,
        "errors": totals.errors,
        "lost": totals.lost,
        "seconds": start.elapsed().as_secs_f64(),
    });
    println!("{report}");
    Ok(())
}

#[derive(Default)]
struct Totals {
    echoed: u64,
    /// Echoes that differ from what was sent, and socket errors.
    errors: u64,
    lost: u64,
}

fn run(
    epoll: &Epoll,
    flows: &mut [Flow],
    batch: &mut Batch,
    totals: &mut Totals,
    start: Instant,
    end: Instant,
) -> Result<()> {
    for flow in &mut *flows {
        flow.send_window(batch, totals, start);
    }
    let mut events = Events::with_capacity(flows.len());
    let mut now = start;
    let mut swept = start;
    while now < end {
        for (token, _) in epoll.wait(&mut events, Some(SWEEP_INTERVAL))? {
            flows[token as usize].turn(batch, totals, now);
        }
        now = Instant::now();
        if now - swept >= SWEEP_INTERVAL {
            swept = now;
            for flow in &mut *flows {
                flow.replace_lost(batch, totals, now);
            }
        }
    }
    Ok(())
}

struct Flow {
    id: u32,
    socket: Socket,
    datagram_bytes: usize,
    next_sequence: u64,
    /// What each place of the window waits for.
    outstanding: Vec<Outstanding>,
}

#[derive(Clone, Copy)]
struct Outstanding {
    sequence: u64,
    sent: Instant,
}

impl Flow {
    fn open(id: u32, args: &Args, sources: &mut SourceAddresses) -> io::Result<Self> {
        let kind = Type::DGRAM.cloexec().nonblocking();
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::UDP))?;
        socket.bind(&SocketAddrV4::new(sources.take(), 0).into())?;
        socket.connect(&args.connect.socket_address().into())?;
        Ok(Flow {
            id,
            socket,
            datagram_bytes: args.bytes.into(),
            next_sequence: 0,
            outstanding: vec![
                Outstanding {
                    sequence: 0,
                    sent: Instant::now()
                };
                args.window.into()
            ],
        })
    }

    fn send_window(&mut self, batch: &mut Batch, totals: &mut Totals, now: Instant) {
        for place in 0..self.outstanding.len() {
            self.fill(batch, place, place, now);
        }
        self.send(batch, self.outstanding.len(), totals);
    }

    /// Sends a new datagram, with a new sequence number, for each one that has waited too long.
    fn replace_lost(&mut self, batch: &mut Batch, totals: &mut Totals, now: Instant) {
        let mut replaced = 0;
        for place in 0..self.outstanding.len() {
            if now.saturating_duration_since(self.outstanding[place].sent) >= STALL_TIMEOUT {
                self.fill(batch, replaced, place, now);
                replaced += 1;
            }
        }
        totals.lost += replaced as u64;
        self.send(batch, replaced, totals);
    }

    /// Takes the echoes that are there and sends a new datagram for each.
    fn turn(&mut self, batch: &mut Batch, totals: &mut Totals, now: Instant) {
        let received = match batch.recv(self.socket.as_fd(), 0) {
            Ok(count) => count,
            Err(error) => {
                // ECONNREFUSED: nobody listens yet, or any more; lost datagrams are replaced after the timeout.
                if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
                    totals.errors += 1;
                }
                return;
            }
        };
        let mut refilled = 0;
        for index in 0..received {
            match self.judge(batch.payload(index)) {
                Echo::Expected(place) => {
                    totals.echoed += 1;
                    // refilled <= index, so this overwrites only payloads already judged.
                    self.fill(batch, refilled, place, now);
                    refilled += 1;
                }
                Echo::Late => {}
                Echo::Wrong => totals.errors += 1,
            }
        }
        self.send(batch, refilled, totals);
    }

    fn judge(&self, payload: &[u8]) -> Echo {
        if payload.len() != self.datagram_bytes {
            return Echo::Wrong;
        }
        let (header, filler) = payload.split_at(HEADER_BYTES);
        let (sequence, rest) = header.split_at(8);
        let (flow, place) = rest.split_at(4);
        let sequence = u64::from_le_bytes(sequence.try_into().expect("split at 8"));
        let flow = u32::from_le_bytes(flow.try_into().expect("split at 4"));
        let place = u32::from_le_bytes(place.try_into().expect("4 of 16 are left")) as usize;
        let intact = flow == self.id && filler.iter().all(|&byte| byte == FILLER);
        match self.outstanding.get(place) {
            Some(expected) if intact && sequence == expected.sequence => Echo::Expected(place),
            Some(expected) if intact && sequence < expected.sequence => Echo::Late,
            _ => Echo::Wrong,
        }
    }

    /// Writes the next datagram for `place` of the window into the batch.
    fn fill(&mut self, batch: &mut Batch, index: usize, place: usize, now: Instant) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.outstanding[place] = Outstanding { sequence, sent: now };
        batch.set_length(index, self.datagram_bytes);
        let payload = batch.payload(index);
        payload[..8].copy_from_slice(&sequence.to_le_bytes());
        payload[8..12].copy_from_slice(&self.id.to_le_bytes());
        payload[12..16].copy_from_slice(&(place as u32).to_le_bytes());
        payload[HEADER_BYTES..].fill(FILLER);
    }

    /// Sends the first `end` datagrams of the batch. What the socket refuses counts as lost after the timeout.
    fn send(&mut self, batch: &mut Batch, end: usize, totals: &mut Totals) {
        let mut first = 0;
        while first < end {
            match batch.send(self.socket.as_fd(), first, end) {
                Ok(count) => first += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    totals.errors += 1;
                    first += 1;
                }
            }
        }
    }
}

enum Echo {
    /// The datagram that this place of the window waits for.
    Expected(usize),
    /// One that was given up as lost before.
    Late,
    Wrong,
}
