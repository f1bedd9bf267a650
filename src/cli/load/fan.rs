//! `--fan`: one publishes, all others read, and every message has to reach each of them. Over WebSocket, or as server-sent events.
//!
//! It begins when every reader has had a message, so that what connecting costs is not in the figures. Then a message follows when all
//! readers have the one before, or by a schedule. What is sent and read is in `fan/stream.rs`.

mod client;
mod stream;

use super::target::{Scheme, Target};
use super::template::Header;
use super::{Load, LoadError};
use clap::Args;
pub(super) use client::Fan;
use ringmill::Waker;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use stream::FRONT_BYTES;

/// Options of a fan-out.
#[derive(Args)]
pub(super) struct FanOptions {
    /// Fan-out on N connections: one publishes, all others read. ws:// or wss:// with a topic behind it, as /ws/TOPIC of ringmill serve;
    /// or http:// or https:// with server-sent events, as /events/TOPIC
    #[arg(long, value_name = "N", conflicts_with_all = ["connections", "requests_per_connection", "method", "body", "raw", "expect_status", "expect_body", "expect_length", "expect_same"], value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    fan: Option<u32>,

    /// Where messages of --fan are posted to, for server-sent events [default: the URL's path, with /publish/ for /events/]
    #[arg(long, value_name = "PATH", requires = "fan")]
    publish: Option<String>,

    /// Report what CPU time this process takes for a delivery of --fan as well: the server, where it runs on this machine
    #[arg(long, value_name = "PID", requires = "fan")]
    cpu_of: Option<u32>,
}

/// What all workers of a fan-out share.
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) readers: u64,
    pub(super) bytes: usize,
    cpu_of: Option<u32>,
    /// Readers that have had a message.
    joined: AtomicU64,
    /// The first message that counts: all readers were there before it.
    first: AtomicU64,
    /// Messages that count and have reached a reader, over all of them.
    delivered: AtomicU64,
    /// When the warm-up began, as a tick; 0 before.
    begun: AtomicU64,
    /// There is nothing left to wait for.
    is_over: AtomicBool,
    /// Wakes the publisher.
    publisher: OnceLock<Waker>,
}

/// How messages travel.
pub(super) enum Kind {
    WebSocket {
        handshake: super::websocket::Handshake,
    },
    /// The requests of readers and, but for the length and the message, of the publisher.
    Events {
        request: Vec<u8>,
        post: Vec<u8>,
    },
}

impl FanOptions {
    /// How many connections.
    pub(super) fn connections(&self) -> Option<u32> {
        self.fan
    }

    /// What the option parser cannot see.
    pub(super) fn check(&self, load: &Load) -> Result<(), LoadError> {
        if self.fan.is_none() {
            return Ok(());
        }
        let wrong = |problem: &str| Err(LoadError::Options(problem.to_owned()));
        match load.target.scheme {
            Scheme::Http if load.deflate => wrong("--deflate is for ws:// and wss:// only"),
            Scheme::Http => self.post_path(&load.target).map(drop),
            Scheme::Ws if self.publish.is_some() => wrong("--publish is for http:// and https:// only"),
            Scheme::Ws => Ok(()),
            Scheme::Tcp | Scheme::Udp => wrong("--fan is for ws://, wss://, http:// and https:// only"),
        }?;
        if load.size < FRONT_BYTES as u64 || load.size > 65_536 {
            return Err(LoadError::Options(format!(
                "--size of --fan must be from {FRONT_BYTES} to 65536 bytes"
            )));
        }
        Ok(())
    }

    fn post_path(&self, target: &Target) -> Result<String, LoadError> {
        if let Some(path) = &self.publish {
            let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
            let problem = || LoadError::Options("--publish must be a path, as /publish/TOPIC".to_owned());
            return is_path.then(|| path.clone()).ok_or_else(problem);
        }
        let path = target.path.split('?').next().unwrap_or_default();
        let topic = path.strip_prefix("/events/").ok_or_else(|| {
            let problem = "--publish is needed: the URL's path does not begin with /events/";
            LoadError::Options(problem.to_owned())
        })?;
        Ok(format!("/publish/{topic}"))
    }

    /// What all workers share.
    pub(super) fn plan(&self, load: &Load) -> Result<Plan, LoadError> {
        let target = &load.target;
        let kind = match target.scheme {
            Scheme::Ws => Kind::WebSocket {
                handshake: super::websocket::Handshake::new(target, &load.headers, load.deflate),
            },
            _ => {
                let head = |line: &str| head(line, target, &load.headers);
                let mut request = head(&format!("GET {}", target.path));
                request += "Accept: text/event-stream\r\n\r\n";
                let mut post = head(&format!("POST {}", self.post_path(target)?));
                post += &format!("Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n", load.size);
                Kind::Events { request: request.into_bytes(), post: post.into_bytes() }
            }
        };
        Ok(Plan {
            kind,
            readers: u64::from(self.fan.unwrap_or(2)) - 1,
            bytes: load.size as usize,
            cpu_of: self.cpu_of,
            joined: AtomicU64::new(0),
            first: AtomicU64::new(u64::MAX),
            delivered: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            publisher: OnceLock::new(),
        })
    }
}

fn head(line: &str, target: &Target, headers: &[Header]) -> String {
    let mut head = format!("{line} HTTP/1.1\r\nHost: {}\r\n", target.authority);
    headers.iter().for_each(|header| head += &header.line());
    head
}

impl Plan {
    /// CPU time that the watched process has taken until now, over all its threads; proc_pid_stat(5) has it in ticks only.
    fn watched_cpu(&self) -> Result<Option<Duration>, String> {
        let Some(pid) = self.cpu_of else { return Ok(None) };
        let folder = format!("/proc/{pid}/task");
        let failed = |error: std::io::Error| format!("cannot read {folder}: {error}");
        let mut sum = 0;
        for task in std::fs::read_dir(&folder).map_err(failed)? {
            // A thread may end between the listing and the reading.
            let Ok(text) = std::fs::read_to_string(task.map_err(failed)?.path().join("schedstat")) else {
                continue;
            };
            sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Some(Duration::from_nanos(sum)))
    }
}
