//! What a plan makes of a request, for who wants to know before anybody asks. By the same code as the proxy's.

use super::fields::{Client, Onward, write_request};
use super::observe::Random;
use super::plan::{Front, Plan, PlannedUpstream};
use super::route::{Route, Target};
use crate::http::message::Slots;
use crate::http::one::head::{Outcome, parse_head};
use std::net::IpAddr;

/// What becomes of a request.
#[derive(Debug)]
pub struct Explained<'a> {
    /// Which route it takes, from 0.
    pub number: usize,
    /// The route itself.
    pub route: &'a Route,
    /// Where it leads, if it leads to an upstream.
    pub upstream: Option<&'a PlannedUpstream>,
    /// Where it leads, if it is a redirect.
    pub location: Option<String>,
    /// The path in normal form.
    pub path: String,
    /// The host likewise, without its port.
    pub host: String,
    /// The head as an upstream gets it.
    pub head: String,
    /// What holds for all clients.
    pub front: &'a Front,
}

/// Explains a request's head, from a client with this address; whether its connection is secured, and whether it may say who the client
/// is. An error is the status that is answered, and why.
pub fn explain<'a>(
    plan: &'a Plan,
    request: &[u8],
    ip: IpAddr,
    (is_secured, is_trusted): (bool, bool),
) -> Result<Explained<'a>, (u16, String)> {
    let mut slots = Slots::new();
    let head = match parse_head(request, &mut slots, &plan.front.limits.head) {
        Outcome::Complete { head, .. } => head,
        Outcome::Partial => return Err((400, "the head is not complete".to_owned())),
        Outcome::Malformed(reject) => return Err((reject.status(), reject.reason().to_owned())),
    };
    let host = head.host.map(|host| host.as_bytes());
    let way = plan.way(head.method.as_str(), host, head.path.as_bytes(), is_secured);
    let way = way.map_err(|refused| {
        let (status, why) = refused.answer();
        (status, why.to_owned())
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let route = plan.routes.get(way.route);
    let (mut upstream, mut location) = (None, None);
    match &route.target {
        Target::Upstream(number) => upstream = plan.upstreams.get(*number),
        Target::Redirect { to, .. } => {
            location = Some(text(&Target::location(to, &way.path, head.query.map(|query| query.as_bytes()))));
        }
        Target::Reply(_) => {}
    }
    let mut out = Vec::new();
    let is_buffered = route.buffer_bytes > 0;
    let to = Onward { path: &way.path, host: way.host.as_deref(), else_host: "", is_buffered };
    // Names that are made are another one each time.
    let ids = plan.front.observe.ids;
    let ids = (!ids.is_off()).then(|| ids.identify(Some(&head.fields), is_trusted, &mut Random::from_os()));
    let client = Client { ip: Some(ip), is_trusted, is_secured, is_http2: false, ids: ids.as_ref() };
    if write_request(&mut out, &head, &to, &client, &plan.front.name).is_none() {
        return Err((400, "Connection names too many fields".to_owned()));
    }
    let name = way.host.as_deref().map(text).unwrap_or_default();
    let colon = name.rfind(':').filter(|at| !name[*at..].contains(']'));
    Ok(Explained {
        number: way.route,
        route,
        upstream,
        location,
        path: text(&way.path),
        host: name[..colon.unwrap_or(name.len())].to_owned(),
        head: text(&out),
        front: &plan.front,
    })
}
