//! Blind fan-out: whatever message one connection sends goes to all of them, itself included, on one thread.
//!
//! It is the floor, not a server: it answers any request with a switch to WebSocket for one fixed key, has no topics, checks no rule and
//! keeps nothing for a reader that is full (it drops it). A message is framed once, and sent with one send(2) a reader, or with one entry of
//! io_uring's and one enter for all of them. `--deflate` compresses it anew for each reader, as servers do that know only connections.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use clap::Parser;
use io_uring::{IoUring, opcode, squeue, types};
use ringmill_peers::epoll::{Epoll, Events, LISTENER};
use ringmill_peers::net::ListenArgs;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush};

const EVENTS_MAX: usize = 1024;
const SUBMISSIONS: u32 = 4096;
/// What is done with a longer message: its connection is dropped.
const MESSAGE_BYTES_MAX: usize = 65_535;
/// For the key of `ringmill load` and `ringmill compare`, "cmluZ21pbGwgYnkgbG9hZA==".
const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: vusQnpZXmljK/pgC8Omn/zo7Agg=\r\n";
const DEFLATE: &str = "sec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n";

#[derive(Parser)]
#[command(about = "Sends what one WebSocket says to all of them, with epoll and send(2)")]
struct Args {
    #[command(flatten)]
    listen: ListenArgs,
    /// Send with io_uring.
    #[arg(long)]
    uring: bool,
    /// Compress for each reader.
    #[arg(long)]
    deflate: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (listener, epoll) = Epoll::listening(&args.listen)?;
    let mut server = Server {
        listener: listener.into(),
        epoll,
        connections: Vec::new(),
        head: if args.deflate {
            format!("{HEAD}{DEFLATE}\r\n")
        } else {
            format!("{HEAD}\r\n")
        },
        ring: if args.uring { Some(ring()?) } else { None },
        packer: args.deflate.then(|| {
            let config = DeflateConfig {
                level: 1,
                window_bits: -15,
                ..DeflateConfig::default()
            };
            (Deflate::new_with_config(config), vec![0; 2 * MESSAGE_BYTES_MAX])
        }),
    };
    let mut events = Events::with_capacity(EVENTS_MAX);
    loop {
        for (token, _) in server.epoll.wait(&mut events, None)? {
            if token == LISTENER {
                server.accept_all()?;
            } else {
                server.serve(token as usize)?;
            }
        }
    }
}

fn ring() -> Result<IoUring> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .build(SUBMISSIONS)
        .context("cannot set up io_uring")?;
    ring.submitter().register_ring_fd()?;
    Ok(ring)
}

struct Connection {
    stream: TcpStream,
    /// What has come and is not complete.
    input: Vec<u8>,
    /// The switch was answered.
    is_open: bool,
}

struct Server {
    listener: TcpListener,
    epoll: Epoll,
    /// Indexed by descriptor.
    connections: Vec<Option<Connection>>,
    head: String,
    ring: Option<IoUring>,
    packer: Option<(Deflate, Vec<u8>)>,
}

impl Server {
    fn accept_all(&mut self) -> Result<()> {
        // A failed accept concerns that client alone, and the listener is level triggered.
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true)?;
            let index = stream.as_raw_fd() as usize;
            if self.connections.len() <= index {
                self.connections.resize_with(index + 1, || None);
            }
            self.epoll.add(stream.as_raw_fd(), libc::EPOLLIN, index as u64)?;
            self.connections[index] = Some(Connection {
                stream,
                input: Vec::new(),
                is_open: false,
            });
        }
        Ok(())
    }

    /// Reads what there is of a connection, which was dropped if it is not there, and does what it says.
    fn serve(&mut self, index: usize) -> Result<()> {
        let Some(connection) = &mut self.connections[index] else {
            return Ok(());
        };
        let mut buffer = [0; 16 * 1024];
        match connection.stream.read(&mut buffer) {
            Ok(count @ 1..) => connection.input.extend_from_slice(&buffer[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(());
            }
            _ => {
                self.connections[index] = None;
                return Ok(());
            }
        }
        if !connection.is_open {
            if connection.input.ends_with(b"\r\n\r\n") {
                connection.input.clear();
                connection.is_open = connection.stream.write_all(self.head.as_bytes()).is_ok();
            }
            return Ok(());
        }
        while let Some(connection) = &mut self.connections[index] {
            match take(&mut connection.input) {
                Taken::Message(opcode, payload) => self.send_all(opcode, &payload)?,
                Taken::Nothing => break,
                Taken::End => self.connections[index] = None,
            }
        }
        Ok(())
    }

    /// Sends a message to everybody.
    fn send_all(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        if let Some((packer, space)) = &mut self.packer {
            for place in &mut self.connections {
                let Some(connection) = open(place) else { continue };
                let bytes = pack(packer, payload, space)?;
                let frame = frame(opcode | 0x40, &space[..bytes]);
                if !is_sent(connection.stream.write(&frame), &frame) {
                    *place = None;
                }
            }
            return Ok(());
        }
        let frame = frame(opcode, payload);
        match &mut self.ring {
            None => {
                for place in &mut self.connections {
                    let Some(connection) = open(place) else { continue };
                    if !is_sent(connection.stream.write(&frame), &frame) {
                        *place = None;
                    }
                }
            }
            Some(ring) => {
                for connection in self.connections.iter_mut().filter_map(open) {
                    let to = types::Fd(connection.stream.as_raw_fd());
                    // Done when the submission is: nothing of `frame` is needed later.
                    let entry = opcode::Send::new(to, frame.as_ptr(), frame.len() as u32)
                        .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                        .build()
                        .flags(squeue::Flags::SKIP_SUCCESS)
                        .user_data(to.0 as u64);
                    // SAFETY: `frame` lives until all entries were submitted, and with it done: none of them may wait.
                    while unsafe { ring.submission().push(&entry) }.is_err() {
                        ring.submit()?;
                    }
                }
                ring.submit()?;
                let failed: Vec<u64> = ring
                    .completion()
                    .map(|completion| completion.user_data())
                    .collect();
                for index in failed {
                    self.connections[index as usize] = None;
                }
            }
        }
        Ok(())
    }
}

/// The connection, once it is a WebSocket.
fn open(place: &mut Option<Connection>) -> Option<&mut Connection> {
    place.as_mut().filter(|connection| connection.is_open)
}

fn is_sent(result: io::Result<usize>, frame: &[u8]) -> bool {
    result.is_ok_and(|count| count == frame.len())
}

enum Taken {
    Message(u8, Vec<u8>),
    /// Not yet.
    Nothing,
    /// A Close frame, or what this does not understand.
    End,
}

/// Takes a frame of a client from the front of the input.
fn take(input: &mut Vec<u8>) -> Taken {
    let [first, second, rest @ ..] = &input[..] else {
        return Taken::Nothing;
    };
    let (length, rest) = match (second & 0x7f, rest) {
        (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        (126, _) => return Taken::Nothing,
        (127, _) => return Taken::End,
        (short, rest) => (usize::from(short), rest),
    };
    let opcode = first & 0x0f;
    if second & 0x80 == 0 || first & 0xf0 != 0x80 || !matches!(opcode, 1 | 2) {
        return Taken::End;
    }
    let Some((mask, rest)) = rest.split_first_chunk::<4>() else {
        return Taken::Nothing;
    };
    let Some(masked) = rest.get(..length) else {
        return Taken::Nothing;
    };
    let payload = masked
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    let left = rest.len() - length;
    input.drain(..input.len() - left);
    Taken::Message(opcode, payload)
}

/// A frame of a server.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ ..126 => frame.push(short as u8),
        long => {
            frame.push(126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// Compresses a message by itself (RFC 7692, 7.2.1); how many bytes it has then.
fn pack(packer: &mut Deflate, payload: &[u8], space: &mut [u8]) -> Result<usize> {
    packer.reset();
    if packer.compress(payload, space, DeflateFlush::SyncFlush).is_err() {
        bail!("a message was not compressed");
    }
    Ok(packer.total_out() as usize - 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_however_it_is_cut() {
        for length in [0, 1, 125, 126, 5000] {
            let payload: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut whole = frame(2, &payload);
            let header = whole.len() - length;
            whole[1] |= 0x80;
            whole.splice(header..header, [1, 2, 3, 4]);
            whole[header + 4..]
                .iter_mut()
                .zip([1, 2, 3, 4].iter().cycle())
                .for_each(|(byte, mask)| *byte ^= mask);
            for cut in 0..whole.len() {
                assert!(
                    matches!(take(&mut whole[..cut].to_vec()), Taken::Nothing),
                    "{length} cut at {cut}"
                );
            }
            whole.push(0x88);
            assert!(matches!(take(&mut whole), Taken::Message(2, taken) if taken == payload));
            assert_eq!(whole, [0x88]);
        }
        assert!(matches!(take(&mut vec![0x88, 0x80, 0, 0, 0, 0]), Taken::End));
    }
}
