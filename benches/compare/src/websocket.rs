//! One WebSocket message there and back: proof that a server can what a profile is about.

use super::profile::Ask;
use super::results::Reply;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

/// How long one step may take.
const TIMEOUT: Duration = Duration::from_secs(2);
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The key of `ringmill load` as well, and what a server makes of it (RFC 6455, 4.2.2).
const KEY: &str = "cmluZ21pbGwgYnkgbG9hZA==";
const ACCEPT: &str = "vusQnpZXmljK/pgC8Omn/zo7Agg=";

/// The server answered, and not as it should.
#[derive(Debug)]
pub(super) struct Wrong(String);

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

/// What a connection begins with.
pub(super) fn handshake(path: &str, target: SocketAddrV4, deflates: bool) -> Vec<u8> {
    let mut head =
        format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    head += &format!("Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n");
    if deflates {
        head += "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n";
    }
    head += "\r\n";
    head.into_bytes()
}

/// Sends a message, which has to come back: as it is, or compressed. Whoever subscribes to a topic gets what it publishes as well.
pub(super) fn exchange(target: SocketAddrV4, ask: Ask) -> Result<Reply> {
    let path = ask.paths().remove(0);
    let mut stream = TcpStream::connect_timeout(&target.into(), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(&handshake(&path, target, ask.is_compressed()))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("no whole answer to the handshake")?;
        head.push(byte[0]);
    }
    let reply = judge_head(&path, &head, ask.is_compressed())?;
    let message = ask.expected(&path);
    stream.write_all(&text_frame(&message))?;
    let received = read_frame(&mut stream)?;
    judge_message(&path, received, &message, ask.is_compressed())?;
    Ok(reply)
}

fn judge_head(path: &str, head: &[u8], deflates: bool) -> Result<Reply> {
    let text = String::from_utf8_lossy(head).into_owned();
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default().to_owned();
    let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let value = |name: &str| {
        fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let is_deflated =
        value("sec-websocket-extensions").is_some_and(|value| value.contains("permessage-deflate"));
    let is_right = status_line.starts_with("HTTP/1.1 101") && value("sec-websocket-accept") == Some(ACCEPT);
    ensure!(
        is_right && is_deflated == deflates,
        Wrong(format!("{path}: the answer to the handshake is {text:?}"))
    );
    Ok(Reply {
        path: path.to_owned(),
        status_line,
        fields: fields.iter().map(|(name, _)| (*name).to_owned()).collect(),
        head_bytes: head.len(),
        body_bytes: 0,
    })
}

/// A message of text, masked with nothing.
fn text_frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match message.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(message);
    frame
}

/// The first byte of a frame, and its payload.
fn read_frame(stream: &mut impl Read) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; 2];
    stream.read_exact(&mut header).context("the message did not come back")?;
    let mut length = usize::from(header[1]);
    if header[1] == 126 {
        let mut long = [0; 2];
        stream.read_exact(&mut long)?;
        length = u16::from_be_bytes(long).into();
    }
    ensure!(length <= usize::from(u16::MAX) && header[1] < 127, Wrong("a frame that is too long".to_owned()));
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).context("the message did not come back whole")?;
    Ok((header[0], payload))
}

fn judge_message(path: &str, received: (u8, Vec<u8>), sent: &[u8], deflates: bool) -> Result<()> {
    let is_right = match received {
        (0x81, payload) => !deflates && payload == sent,
        // What is in it, the load generator looks at.
        (0xc1, payload) => deflates && payload.len() < sent.len(),
        _ => false,
    };
    ensure!(is_right, Wrong(format!("{path}: what came back is not the message that was sent")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(line: &str, more: &str) -> String {
        format!("HTTP/1.1 {line}\r\nsec-websocket-accept: {ACCEPT}\r\n{more}\r\n")
    }

    #[test]
    fn a_handshake_is_answered_rightly_or_wrongly() {
        let check = |text: &str, deflates| judge_head("/ws", text.as_bytes(), deflates);
        let extensions = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        let good = check(&head("101 Switching Protocols", ""), false).unwrap();
        assert_eq!((good.fields.len(), good.head_bytes), (1, head("101 Switching Protocols", "").len()));
        assert!(check(&head("101 Switching Protocols", extensions), true).is_ok());
        for (text, deflates) in [
            (head("200 OK", ""), false),
            (head("101 a", "").replace(ACCEPT, "b"), false),
            (head("101 a", extensions), false),
            (head("101 a", ""), true),
        ] {
            assert!(check(&text, deflates).unwrap_err().is::<Wrong>(), "{text}");
        }
    }

    #[test]
    fn a_message_comes_back_or_something_else_does() {
        for bytes in [20, 64, 512] {
            let message = vec![b'x'; bytes];
            let mut back = text_frame(&message);
            back[1] &= 0x7f;
            let mask = back.len() - bytes - 4;
            back.drain(mask..mask + 4);
            let check = |back: &[u8], deflates| {
                judge_message("/ws", read_frame(&mut &back[..]).unwrap(), &message, deflates).is_ok()
            };
            assert!(check(&back, false) && !check(&back, true));
            *back.last_mut().unwrap() ^= 1;
            assert!(!check(&back, false));
            assert!(check(&[0xc1, 2, 0, 0], true) && !check(&[0xc1, 2, 0, 0], false));
            assert!(read_frame(&mut &back[..back.len() - 1]).is_err());
        }
    }
}
