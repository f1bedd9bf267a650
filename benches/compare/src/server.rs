//! A contender that runs: started on a free port, proven to answer rightly and to be alone there.

use super::contender::{Contender, Kind, Site};
use super::h2load;
use super::identity::{self, Identity};
use super::proc;
use super::process::{Interrupt, Process, log_end};
use super::profile::{Ask, DATAGRAM_BYTES, Profile};
use super::results::Reply;
use super::websocket;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a server may take to answer its first request.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one step of an attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest head of a reply.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A running server that has answered.
pub(super) struct Server {
    pub(super) contender: &'static Contender,
    pub(super) process: Process,
    pub(super) target: SocketAddrV4,
    pub(super) replies: Vec<Reply>,
    /// It is asked over TLS, and shows this.
    pub(super) identity: Option<Identity>,
    log: PathBuf,
    is_udp: bool,
}

impl Server {
    /// Starts a contender and waits until it has given the right answer to every path of the profile.
    pub(super) fn start<'a>(
        contender: &'static Contender,
        profile: Profile,
        interrupt: &Interrupt,
        site: impl FnOnce(SocketAddrV4) -> Result<Site<'a>>,
    ) -> Result<Server> {
        let is_udp = profile.is_udp();
        let target = free_address(is_udp)?;
        ensure!(
            proc::listeners(target.port(), is_udp)?.is_empty(),
            "another process already listens on port {}",
            target.port()
        );
        let site = site(target)?;
        let mut command = contender.command(&site, profile, target)?;
        let log = site.scratch.join(format!("{}.log", contender.name));
        let log_file = fs::File::create(&log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
        let process = Process::start(command, contender.name)?;
        let identity = site.identity.filter(|_| contender.is_secure(profile)).cloned();
        let mut server = Server { contender, process, target, replies: Vec::new(), identity, log, is_udp };
        server.wait_ready(profile, &site, interrupt).map_err(|error| server.explain(error))?;
        server.expect_alone()?;
        Ok(server)
    }

    fn wait_ready(&mut self, profile: Profile, site: &Site<'_>, interrupt: &Interrupt) -> Result<()> {
        let end = Instant::now() + READY_TIMEOUT;
        loop {
            self.process.expect_running()?;
            match self.probe(profile, site, interrupt) {
                Ok(replies) => {
                    self.replies = replies;
                    return Ok(());
                }
                Err(error) if Instant::now() >= end => {
                    return Err(error).context("it does not answer rightly");
                }
                // A wrong answer does not become right by waiting.
                Err(error) if error.is::<WrongReply>() => return Err(error),
                Err(_) => interrupt.pause()?,
            }
        }
    }

    fn probe(&self, profile: Profile, site: &Site<'_>, interrupt: &Interrupt) -> Result<Vec<Reply>> {
        let ask = profile.ask();
        if ask == Ask::Datagram {
            probe_datagram(self.target)?;
            return Ok(Vec::new());
        }
        if ask == Ask::Unary {
            // Nobody there is told as such, and not by the program.
            TcpStream::connect_timeout(&self.target.into(), ATTEMPT_TIMEOUT)?;
            let reply = h2load::one_call(site.launcher, site.scratch, site.cpu, self.target, interrupt)?;
            return Ok(vec![reply]);
        }
        if ask.is_websocket() {
            return Ok(vec![websocket::exchange(self.target, ask).map_err(told)?]);
        }
        let mut replies = Vec::new();
        for path in ask.paths() {
            let request = match self.contender.kind {
                Kind::Blind { .. } => vec![b'x'; site.request_bytes],
                _ => request(ask, &path, self.target),
            };
            let expected = ask.expected(&path);
            replies.push(exchange(self.target, self.identity.as_ref(), &request, &path, &expected)?);
        }
        Ok(replies)
    }

    /// An error if the server has ended, with the end of its log.
    pub(super) fn expect_running(&mut self) -> Result<()> {
        self.process.expect_running().map_err(|error| self.explain(error))
    }

    /// An error if a socket of another process would take connections of this port: they would be shared by SO_REUSEPORT.
    pub(super) fn expect_alone(&self) -> Result<()> {
        let listening = proc::listeners(self.target.port(), self.is_udp)?;
        let own = proc::socket_inodes(self.process.pid())?;
        ensure!(
            listening.is_subset(&own) && !listening.is_empty(),
            "another process listens on port {} of {}",
            self.target.port(),
            self.contender.name
        );
        Ok(())
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match log_end(&self.log) {
            log if log.is_empty() => error,
            log => error.context(format!("{} said: {log}", self.contender.name)),
        }
    }
}

/// An address nobody is bound to. Another program could take it before the server does; the checks would tell.
fn free_address(udp: bool) -> Result<SocketAddrV4> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let address =
        if udp { UdpSocket::bind(any)?.local_addr()? } else { TcpListener::bind(any)?.local_addr()? };
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, address.port()))
}

fn request(ask: Ask, path: &str, target: SocketAddrV4) -> Vec<u8> {
    let body = vec![b'x'; ask.request_body_bytes()];
    let mut request = match ask {
        Ask::Upload => {
            format!("POST {path} HTTP/1.1\r\nHost: {target}\r\nContent-Length: {}\r\n\r\n", body.len())
        }
        _ => format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n"),
    }
    .into_bytes();
    request.extend(body);
    request
}

/// What a WebSocket did wrong is told as such.
fn told(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<websocket::Wrong>() {
        Ok(wrong) => WrongReply(wrong.to_string()).into(),
        Err(error) => error,
    }
}

/// The server answered, and not as it should.
#[derive(Debug)]
struct WrongReply(String);

impl std::fmt::Display for WrongReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongReply {}

/// Sends one request and checks its reply to the last byte.
fn exchange(
    target: SocketAddrV4,
    identity: Option<&Identity>,
    request: &[u8],
    path: &str,
    expected: &[u8],
) -> Result<Reply> {
    let stream = TcpStream::connect_timeout(&target.into(), ATTEMPT_TIMEOUT)?;
    stream.set_read_timeout(Some(ATTEMPT_TIMEOUT))?;
    stream.set_write_timeout(Some(ATTEMPT_TIMEOUT))?;
    let mut stream = identity::secured(stream, identity)?;
    stream.write_all(request)?;
    stream.flush()?;
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        received.extend_from_slice(&buffer[..count]);
        match judge(&received, path, expected)? {
            Some(reply) => return Ok(reply),
            None if count == 0 => bail!("the connection closed in the middle of the reply to {path}"),
            None => {}
        }
    }
}

/// None while it is not complete.
fn judge(received: &[u8], path: &str, expected: &[u8]) -> Result<Option<Reply>> {
    let wrong = |problem: String| Err(WrongReply(format!("{path}: {problem}")).into());
    let Some(head_end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        if received.len() > HEAD_BYTES_MAX {
            return wrong("a reply without a head".to_owned());
        }
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&received[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default().to_owned();
    if !status_line.starts_with("HTTP/1.1 200") {
        return wrong(format!("the status is {status_line:?}"));
    }
    let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let length = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: Option<usize> = length.and_then(|(_, value)| value.trim().parse().ok());
    if length != Some(expected.len()) {
        return wrong(format!("expected content-length {}, the head is {head:?}", expected.len()));
    }
    let body = &received[head_end + 4..];
    let here = body.len().min(expected.len());
    if body.len() > expected.len() || body[..here] != expected[..here] {
        return wrong("the body is not the expected one".to_owned());
    }
    if body.len() < expected.len() {
        return Ok(None);
    }
    Ok(Some(Reply {
        path: path.to_owned(),
        status_line,
        fields: fields.iter().map(|(name, _)| (*name).to_owned()).collect(),
        head_bytes: head_end + 4,
        body_bytes: body.len(),
    }))
}

fn probe_datagram(target: SocketAddrV4) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(ATTEMPT_TIMEOUT))?;
    let sent = [b'x'; DATAGRAM_BYTES];
    socket.send(&sent)?;
    let mut buffer = [0; 2048];
    let count = socket.recv(&mut buffer)?;
    if buffer[..count] != sent {
        return Err(io::Error::other("the echo differs").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(received: &str, expected: &str) -> Result<Option<Reply>> {
        judge(received.as_bytes(), "/x", expected.as_bytes())
    }

    #[test]
    fn a_reply_is_right_to_the_last_byte() {
        let whole = "HTTP/1.1 200 OK\r\nServer: a\r\ncontent-length: 2\r\n\r\nhi";
        for end in 0..whole.len() {
            assert_eq!(check(&whole[..end], "hi").unwrap(), None, "{end}");
        }
        let reply = check(whole, "hi").unwrap().unwrap();
        assert_eq!(reply.fields, ["Server", "content-length"]);
        assert_eq!((reply.head_bytes, reply.body_bytes), (whole.len() - 2, 2));
    }

    #[test]
    fn wrong_replies_are_told() {
        let wrong = |received: &str| check(received, "hi").unwrap_err().to_string();
        assert!(wrong("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nhi").contains("404"));
        assert!(wrong("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi").contains("content-length 2"));
        assert!(wrong("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").contains("content-length"));
        assert!(wrong("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nho").contains("body"));
        assert!(wrong("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi!").contains("body"));
        assert!(wrong(&"x".repeat(20_000)).contains("without a head"));
    }
}
