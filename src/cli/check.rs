//! `ringmill check` and `ringmill explain`: what is wrong with a file, and what becomes of a request. Neither serves anything.

use crate::config::{Drafted, Known, Listen, Said as GateSays, Settled, Source, reference};
use clap::Args;
use ringmill::Address;
use ringmill::proxy::{Balance, Explained, HashBy, Plan, RouteRate, Target, explain};
use ringmill_console::terminal;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `ringmill check`.
#[derive(Args)]
pub(crate) struct Check {
    /// The file
    #[arg(value_name = "FILE", required_unless_present = "reference")]
    file: Option<PathBuf>,

    /// Print what may stand in a file, as Markdown
    #[arg(long, conflicts_with = "file")]
    reference: bool,
}

/// Options of `ringmill explain`.
#[derive(Args)]
pub(crate) struct Explain {
    /// Method of the request, such as GET
    #[arg(value_name = "METHOD")]
    method: String,

    /// URL of the request, such as https://example.com/api?x=y; of a connection that is passed on, tcp://HOST[:PORT] with the name that is
    /// asked for in TLS; of datagrams, udp://HOST[:PORT]
    #[arg(value_name = "URL")]
    url: String,

    /// The file
    #[arg(long, value_name = "FILE", env = "RINGMILL_CONFIG")]
    config: PathBuf,

    /// A field of the request, as "Name: value"; repeat for several
    #[arg(long, value_name = "FIELD")]
    field: Vec<String>,

    /// Address of the client
    #[arg(long, value_name = "IP", default_value = "192.0.2.1")]
    client: IpAddr,
}

/// Reads a file; all that is wrong with it is the error.
pub(super) fn settled(path: &Path) -> Result<(Settled, Known), Box<dyn Error>> {
    let source = Source::open(path)?;
    let mut known = Known::default();
    match source.settle(&mut known) {
        Ok(settled) => Ok((settled, known)),
        Err(problems) => {
            let (all, count) = (problems.render(&source), problems.0.len());
            let problems = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
            Err(format!("{} cannot be served: {problems}\n\n{all}", path.display()).into())
        }
    }
}

impl Check {
    pub(crate) fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let Some(file) = self.file else {
            terminal::print(&reference())?;
            return Ok(ExitCode::SUCCESS);
        };
        let (Settled { listen, draft, .. }, _) = settled(&file)?;
        let upstreams: BTreeSet<&str> = draft.upstreams.iter().map(|upstream| &*upstream.name).collect();
        let counts = (listen.len(), draft.plan(&[]).routes().all().len(), upstreams.len());
        let said = format!(
            "{} is good: {} listener(s), {} route(s), {} upstream(s)\n",
            file.display(),
            counts.0,
            counts.1,
            counts.2
        );
        terminal::print(&said)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Explain {
    pub(crate) fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let (settled, _) = settled(&self.config)?;
        // What names stand for is nobody's business here.
        let plan = settled.draft.plan(&[]);
        let (scheme, rest) = self.url.split_once("://").ok_or("a URL begins with http:// or https://")?;
        let is_secured = match scheme {
            "http" => false,
            "https" => true,
            "tcp" => return Ok(terminal::print(&relayed(&settled, rest)).map(|()| ExitCode::SUCCESS)?),
            "udp" => {
                let said = flowed(&settled, rest, self.client);
                return Ok(terminal::print(&said).map(|()| ExitCode::SUCCESS)?);
            }
            other => return Err(format!("unknown scheme {other:?}: expected http, https, tcp or udp").into()),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let fields: String = self.field.iter().map(|field| format!("{field}\r\n")).collect();
        let request = format!("{} {target} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n", self.method);
        let is_http = |listen: &Listen| listen.tcp.is_none() && listen.udp.is_none();
        let speaks = |listen: &&Listen| is_http(listen) && listen.tls.is_empty() != is_secured;
        let listening: Vec<&Listen> = settled.listen.iter().filter(speaks).collect();
        let mut said = String::new();
        row(&mut said, "listener", &describe(&listening, scheme));
        for listen in listening.iter().filter(|listen| !listen.rules.is_open()) {
            row(&mut said, "gate", &format!("{}: {}", listen.address, GateSays(&listen.rules, self.client)));
        }
        let elsewhere = listening.first().and_then(|listen| listen.https_port);
        if let Some(port) = elsewhere.filter(|_| !is_secured) {
            row(
                &mut said,
                "answer",
                &format!("308, the same URL with https and port {port} (`redirect_to_https`)"),
            );
            terminal::print(&said)?;
            return Ok(ExitCode::SUCCESS);
        }
        let peer = Address::Ip(SocketAddr::new(self.client, 0));
        let is_trusted = plan.front().trusted.iter().any(|network| network.contains(&peer));
        match explain(&plan, request.as_bytes(), self.client, (is_secured, is_trusted)) {
            Err((status, why)) => row(&mut said, "answer", &format!("{status}: {why}")),
            Ok(explained) => tell(&mut said, (&settled, &plan), &explained, &request),
        }
        terminal::print(&said)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn describe_balance(balance: &Balance) -> String {
    match balance {
        Balance::TwoChoices => "of two at random the one with less to do".to_owned(),
        Balance::RoundRobin => "one after the other".to_owned(),
        Balance::Least => "the one with the least to do".to_owned(),
        Balance::Hash(HashBy::Client) => "always the same one for the client's address".to_owned(),
        Balance::Hash(HashBy::Path) => "always the same one for the path".to_owned(),
        Balance::Hash(HashBy::Field(name)) => format!("always the same one for what {name} says"),
        Balance::Sticky(sticky) => format!("the one that the cookie {} names", sticky.cookie()),
    }
}

/// What becomes of a connection with a listener of `tcp` that asks for this name, at this port or any.
fn relayed(settled: &Settled, asked: &str) -> String {
    let (name, port): (&str, Option<u16>) =
        asked.rsplit_once(':').map_or((asked, None), |(name, port)| (name, port.parse().ok()));
    let is_meant = |listen: &&Listen| {
        listen.tcp.is_some()
            && port.is_none_or(|port| listen.address.ip().is_some_and(|ip| ip.port() == port))
    };
    let mut said = String::new();
    for listen in settled.listen.iter().filter(is_meant) {
        let Some(tcp) = &listen.tcp else { continue };
        row(&mut said, "listener", &listen.address.to_string());
        let (asks, why) = match tcp.names.is_empty() {
            true => (None, "all connections go there: names are not looked at".to_owned()),
            false => (Some(name), format!("asked for {name:?} in TLS, which is not opened")),
        };
        row(&mut said, "why", &why);
        let found = tcp.upstream_of(asks);
        let is_meant = |upstream: &&Drafted| upstream.config.is_relayed && Some(&*upstream.name) == found;
        let Some(upstream) = settled.draft.upstreams.iter().find(is_meant) else {
            row(&mut said, "answer", "the alert unrecognized_name");
            continue;
        };
        let config = &upstream.config;
        let servers: Vec<String> = upstream.entries.iter().map(ToString::to_string).collect();
        row(&mut said, "upstream", &format!("{}: {}", upstream.name, servers.join(", ")));
        if let Some(version) = config.proxy_protocol {
            row(
                &mut said,
                "",
                &format!("told who the client is, by the PROXY protocol (version {version:?})"),
            );
        }
        let (max, queue, wait) = (config.connections_max, config.queue_max, config.queue_timeout);
        row(&mut said, "limits", &format!("{max} connections a server, {queue} waiting for {wait:?}"));
        let connect = config.connect_timeout.unwrap_or(settled.engine.connect_timeout);
        row(&mut said, "", &format!("connect {connect:?}, idle {:?}", tcp.idle_timeout));
    }
    if said.is_empty() {
        row(&mut said, "listener", "none: no address of the file with that port passes connections on");
    }
    said
}

/// What becomes of the datagrams of a client that come to this port, or any.
fn flowed(settled: &Settled, asked: &str, client: IpAddr) -> String {
    let port: Option<u16> = asked.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let is_meant =
        |listen: &&Listen| port.is_none_or(|port| listen.address.ip().is_some_and(|ip| ip.port() == port));
    let mut said = String::new();
    for listen in settled.listen.iter().filter(is_meant) {
        let Some(udp) = &listen.udp else { continue };
        row(&mut said, "listener", &listen.address.to_string());
        if !listen.rules.is_open() {
            row(&mut said, "gate", &GateSays(&listen.rules, client).to_string());
        }
        let is_meant = |upstream: &&Drafted| upstream.config.is_relayed && upstream.name == udp.to;
        let Some(upstream) = settled.draft.upstreams.iter().find(is_meant) else { continue };
        let servers: Vec<String> = upstream.entries.iter().map(ToString::to_string).collect();
        row(&mut said, "upstream", &format!("{}: {}", upstream.name, servers.join(", ")));
        row(
            &mut said,
            "",
            &format!("{}, and that for the whole flow", describe_balance(&upstream.config.balance)),
        );
        let replies = match udp.replies {
            Some(replies) => format!(", or with {replies} answer(s) for each datagram of its client"),
            None => String::new(),
        };
        let (idle, flows) = (udp.idle_timeout, udp.flows_max);
        row(
            &mut said,
            "limits",
            &format!("{flows} flows; one ends after {idle:?} without a datagram{replies}"),
        );
    }
    if said.is_empty() {
        row(&mut said, "listener", "none: no address of the file with that port passes datagrams on");
    }
    said
}

fn row(said: &mut String, what: &str, text: &str) {
    let _ = writeln!(said, "{what:<10}{text}");
}

fn describe(listening: &[&Listen], scheme: &str) -> String {
    match listening {
        [] => format!("none: no address of the file speaks {scheme}"),
        all => all.iter().map(|listen| listen.address.to_string()).collect::<Vec<_>>().join(", "),
    }
}

fn tell(said: &mut String, (settled, plan): (&Settled, &Plan), explained: &Explained<'_>, request: &str) {
    let Explained { number, route, upstream, location, path, host, head, front } = explained;
    let place = |number: usize| settled.places[number] + 1;
    let routes = plan.routes();
    let describe = |number: usize| format!("route {}: {}", place(number), routes.get(number));
    row(said, "route", &describe(*number));
    row(said, "why", &format!("asked for host {host:?} and path {path:?}, which are in normal form"));
    let mut is_before = true;
    for other in routes.matching(host, path) {
        if other == *number {
            is_before = false;
            continue;
        }
        let why = if is_before { "not for this method" } else { "matches too, and comes behind it" };
        row(said, "", &format!("{}: {why}", describe(other)));
    }
    match (&route.target, location) {
        (Target::Redirect { status, .. }, Some(location)) => {
            row(said, "answer", &format!("{status}, to {location}"))
        }
        (Target::Reply(reply), _) => {
            let (status, bytes) = (reply.status, reply.body.len());
            row(said, "answer", &format!("{status}, {bytes} bytes of {}", reply.content_type));
        }
        _ => {}
    }
    if let Some(limit) = &route.limit {
        let RouteRate { per, rate } = limit.rule();
        row(said, "rate", &format!("{rate} per {per}; one more is answered with 429"));
    }
    let Some(upstream) = upstream else { return };
    let config = &upstream.config;
    let drafted = settled.draft.upstreams.iter().find(|drafted| drafted.name == upstream.name);
    let servers: Vec<String> =
        drafted.into_iter().flat_map(|drafted| &drafted.entries).map(ToString::to_string).collect();
    row(said, "upstream", &format!("{}: {}", upstream.name, servers.join(", ")));
    let protocol = if config.is_http2 { ", in HTTP/2" } else { "" };
    row(said, "", &format!("{}{protocol}", describe_balance(&config.balance)));
    let body = match route.body_bytes_max.unwrap_or(front.body_bytes_max) {
        u64::MAX => "no limit of the body".to_owned(),
        max => format!("{max} bytes of body"),
    };
    let body = match route.buffer_bytes {
        0 => body,
        bytes => format!("{body}, of which {bytes} are taken in first"),
    };
    let connections =
        format!("{} connections a server, {} waiting", config.connections_max, config.queue_max);
    row(said, "limits", &format!("{body}; {connections} for {:?}", config.queue_timeout));
    let connect = config.connect_timeout.unwrap_or(settled.engine.connect_timeout);
    let first = config.first_byte_timeout;
    let times = format!("connect {connect:?}, first byte {first:?}, idle {:?}", config.idle_timeout);
    row(
        said,
        "",
        &format!("{times}, WebSocket {:?}; sent {} time(s) at most", config.tunnel_timeout, config.tries_max),
    );
    let http2 = &front.http2;
    let streams = format!("{} at once, {} bytes of fields", http2.streams_max, http2.field_bytes_max);
    row(said, "HTTP/2", &format!("{streams}, {} taken back a second", front.http2_resets_per_sec_max));
    let before: Vec<&str> = request.lines().skip(1).filter(|line| !line.is_empty()).collect();
    let same = |one: &str, other: &str| {
        one.split_once(':')
            .zip(other.split_once(':'))
            .is_some_and(|(one, other)| one.0.eq_ignore_ascii_case(other.0) && one.1.trim() == other.1.trim())
    };
    row(said, "request", head.lines().next().unwrap_or_default());
    let after: Vec<&str> = head.lines().skip(1).filter(|line| !line.is_empty()).collect();
    for line in before.iter().filter(|line| !after.iter().any(|after| same(after, line))) {
        row(said, "", &format!("- {line}"));
    }
    for line in &after {
        let mark = if before.iter().any(|before| same(before, line)) { ' ' } else { '+' };
        row(said, "", &format!("{mark} {line}"));
    }
}
