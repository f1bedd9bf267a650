//! The profiles: which servers meet which load, and which ratios are of interest.

use anyhow::Result;
use clap::ValueEnum;

use crate::Settings;
use crate::client::Client;
use crate::contender::Kind;
use crate::{memory, rounds};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// 64 keep-alive connections.
    Keepalive64,
    /// 512 keep-alive connections.
    Keepalive512,
    /// 64 connections with 16 requests in flight each.
    Pipelined16,
    /// 64 connections at a time, one request each.
    Churn,
    /// UDP echo: 64-byte datagrams, 16 flows with 16 outstanding each.
    Udp,
    /// ringmill on epoll against ringmill on io_uring, 64 keep-alive connections.
    Poll64,
    /// The same with 512 connections.
    Poll512,
    /// Anonymous memory of an idle connection.
    Memory,
}

/// The outcome of a profile, for people and for programs.
pub struct Measured {
    pub report: String,
    pub json: serde_json::Value,
}

/// A comparison by rounds.
pub struct Comparison {
    pub name: &'static str,
    pub client: Client,
    pub contenders: &'static [Kind],
    /// Numerator and denominator.
    pub ratios: &'static [(Kind, Kind)],
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Profile::Keepalive64 => "keepalive64",
            Profile::Keepalive512 => "keepalive512",
            Profile::Pipelined16 => "pipelined16",
            Profile::Churn => "churn",
            Profile::Udp => "udp",
            Profile::Poll64 => "poll64",
            Profile::Poll512 => "poll512",
            Profile::Memory => "memory",
        }
    }

    pub fn needs_wrk(self) -> bool {
        !matches!(self, Profile::Churn | Profile::Udp | Profile::Memory)
    }

    pub fn run(self, settings: &Settings) -> Result<Measured> {
        let http = |client| Comparison {
            name: self.name(),
            client,
            contenders: HTTP_CONTENDERS,
            ratios: HTTP_RATIOS,
        };
        let poll = |connections| Comparison {
            name: self.name(),
            client: keepalive(connections),
            contenders: POLL_CONTENDERS,
            ratios: POLL_RATIOS,
        };
        match self {
            Profile::Keepalive64 => rounds::compare(settings, &http(keepalive(64))),
            Profile::Keepalive512 => rounds::compare(settings, &http(keepalive(512))),
            Profile::Pipelined16 => {
                let client = Client::Wrk {
                    connections: 64,
                    pipeline: 16,
                };
                rounds::compare(settings, &http(client))
            }
            Profile::Churn => rounds::compare(settings, &http(Client::Churn { connections: 64 })),
            Profile::Udp => rounds::compare(
                settings,
                &Comparison {
                    name: self.name(),
                    client: Client::Udp {
                        flows: 16,
                        window: 16,
                        bytes: 64,
                    },
                    contenders: UDP_CONTENDERS,
                    ratios: UDP_RATIOS,
                },
            ),
            Profile::Poll64 => rounds::compare(settings, &poll(64)),
            Profile::Poll512 => rounds::compare(settings, &poll(512)),
            Profile::Memory => memory::measure(settings, self.name(), MEMORY_CONTENDERS),
        }
    }
}

fn keepalive(connections: u32) -> Client {
    Client::Wrk {
        connections,
        pipeline: 1,
    }
}

const HTTP_CONTENDERS: &[Kind] = &[
    Kind::RingmillUring,
    Kind::BlindUring,
    Kind::BlindEpoll,
    Kind::Hyper,
];
const HTTP_RATIOS: &[(Kind, Kind)] = &[
    (Kind::RingmillUring, Kind::BlindUring),
    // The epoll floor is sometimes the lower one: a ratio against the other alone would flatter.
    (Kind::RingmillUring, Kind::BlindEpoll),
    (Kind::Hyper, Kind::RingmillUring),
    (Kind::Hyper, Kind::BlindUring),
    (Kind::BlindEpoll, Kind::BlindUring),
];

const POLL_CONTENDERS: &[Kind] = &[
    Kind::RingmillPoll,
    Kind::RingmillUring,
    Kind::BlindEpoll,
    Kind::BlindUring,
];
const POLL_RATIOS: &[(Kind, Kind)] = &[
    (Kind::RingmillPoll, Kind::RingmillUring),
    (Kind::RingmillPoll, Kind::BlindEpoll),
    (Kind::BlindEpoll, Kind::BlindUring),
];

const UDP_CONTENDERS: &[Kind] = &[Kind::RingmillUdp, Kind::BlindUdp];
const UDP_RATIOS: &[(Kind, Kind)] = &[(Kind::RingmillUdp, Kind::BlindUdp)];

/// The blind responder keeps 40 bytes a connection: it shows what the method itself adds.
const MEMORY_CONTENDERS: &[Kind] = &[Kind::RingmillUring, Kind::Hyper, Kind::BlindUring];
