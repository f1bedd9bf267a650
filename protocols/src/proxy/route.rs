//! Which route a request takes: the first that matches, of the most special to the most general. Pure.
//!
//! A host that is given exactly comes before one with a wildcard, a longer wildcard before a shorter one, and both before any host;
//! then an exact path before a prefix, and a longer prefix before a shorter one; then a route for certain methods before one for all.

use super::limit::{Limit, LimitCounts};
use super::normal::Path;
use bytes::Bytes;
use std::collections::HashMap;
use std::fmt;

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which hosts it is for.
    pub host: HostPattern,
    /// Which paths.
    pub path: PathPattern,
    /// Which methods; all if there is none. They are case-sensitive (RFC 9110, 9.1).
    pub methods: Vec<String>,
    /// What becomes of the request.
    pub target: Target,
    /// The largest request body, if it is another one than elsewhere.
    pub body_bytes_max: Option<u64>,
    /// A body is here before its request is given to an upstream, up to so many bytes, of which chunks take some: a longer one streams from
    /// there on. 0 for none.
    pub buffer_bytes: usize,
    /// How many requests it takes, if not all.
    pub limit: Option<Limit>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// It goes to the upstream with this number in its plan.
    Upstream(usize),
    /// It is answered so.
    Reply(FixedReply),
    /// It is sent on to another address.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// A URL. One without a path gets the request's path and query.
        to: String,
    },
}

/// A reply that is always the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedReply {
    /// From 200 to 599, but neither 204, 205 nor 304.
    pub status: u16,
    /// The field Content-Type.
    pub content_type: String,
    /// The body, of at most [`FixedReply::BYTES_MAX`].
    pub body: Bytes,
}

impl FixedReply {
    /// Longer ones are for servers.
    pub const BYTES_MAX: usize = 16 * 1024;
}

/// Which hosts a route is for. In normal form, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// All, also none.
    Any,
    /// This one.
    Exact(String),
    /// All below it, at any depth, as `*.example.com`; not itself.
    Below(String),
}

/// Which paths a route is for. In normal form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This one and all below it, without a slash at its end: `/api` is `/api`, `/api/` and `/api/x`, and not `/apis`. Empty for all.
    Prefix(String),
    /// This one.
    Exact(String),
}

impl std::str::FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<HostPattern, String> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (name, is_below) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let host = super::normal::Host::new(name.as_bytes(), 0).map_err(|_| {
            format!(
                "{text:?} is no host: expected a name, an address, *.NAME for all below a name, or * for all"
            )
        })?;
        if host.name() != &*host.text {
            return Err(format!("{text:?}: routes look at hosts without their ports"));
        }
        let name = String::from_utf8_lossy(host.name()).into_owned();
        Ok(if is_below { HostPattern::Below(name) } else { HostPattern::Exact(name) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("any host"),
            HostPattern::Exact(name) => write!(f, "host {name}"),
            HostPattern::Below(name) => write!(f, "host *.{name}"),
        }
    }
}

impl PathPattern {
    /// All paths below this one, and itself.
    pub fn prefix(text: &str) -> Result<PathPattern, String> {
        normal(text).map(|text| PathPattern::Prefix(text.strip_suffix('/').unwrap_or(&text).to_owned()))
    }

    /// This path.
    pub fn exact(text: &str) -> Result<PathPattern, String> {
        normal(text).map(PathPattern::Exact)
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            PathPattern::Exact(exact) => path == exact.as_bytes(),
            PathPattern::Prefix(prefix) if prefix.is_empty() => true,
            PathPattern::Prefix(prefix) => path
                .strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/'))),
        }
    }

    /// The more special, the greater.
    fn rank(&self) -> (bool, usize) {
        match self {
            PathPattern::Exact(path) => (true, path.len()),
            PathPattern::Prefix(path) => (false, path.len()),
        }
    }
}

impl fmt::Display for Route {
    /// What it matches.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.host, self.path)?;
        let separated = |n: usize| if n == 0 { ", " } else { " or " };
        self.methods.iter().enumerate().try_for_each(|(n, method)| write!(f, "{}{method}", separated(n)))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Exact(path) => write!(f, "path {path} exactly"),
            PathPattern::Prefix(path) if path.is_empty() => f.write_str("any path"),
            PathPattern::Prefix(path) => write!(f, "path {path} and below"),
        }
    }
}

/// A route's path has to be in the form in which requests are compared with it: it would never match otherwise.
fn normal(text: &str) -> Result<String, String> {
    if !text.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('?') {
        return Err(format!("{text:?} is no path: it begins with / and has no query, spaces are %20"));
    }
    let path = Path::new(text.as_bytes()).map_err(|unclear| format!("{text:?}: {}", unclear.reason()))?;
    let path = String::from_utf8_lossy(&path.text);
    if path == text {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is compared as {path:?}: write that"))
    }
}

/// Why no route was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed {
    /// None matches.
    Nothing,
    /// Some would, for these methods.
    Method(String),
}

/// All routes, by host.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    all: Vec<Route>,
    exact: HashMap<Box<[u8]>, Vec<usize>>,
    below: HashMap<Box<[u8]>, Vec<usize>>,
    any: Vec<usize>,
}

impl Routes {
    /// Routes in any order. Of two that match the same the first one counts.
    pub fn new(all: Vec<Route>) -> Routes {
        let mut routes = Routes::default();
        for (n, route) in all.iter().enumerate() {
            let list = match &route.host {
                HostPattern::Any => &mut routes.any,
                HostPattern::Exact(name) => routes.exact.entry(name.as_bytes().into()).or_default(),
                HostPattern::Below(name) => routes.below.entry(name.as_bytes().into()).or_default(),
            };
            list.push(n);
        }
        let lists = routes.exact.values_mut().chain(routes.below.values_mut()).chain([&mut routes.any]);
        for list in lists {
            // Stable: the order of equals is that of the file.
            list.sort_by_key(|n| std::cmp::Reverse((all[*n].path.rank(), !all[*n].methods.is_empty())));
        }
        Routes { all, ..routes }
    }

    /// What was counted of a route goes on where it is the same route, with the same limit. Routes that share a limit, as one with several
    /// hosts does, go on sharing it.
    pub(super) fn take_over(&mut self, before: &Routes) {
        let mut known: Vec<(Limit, Limit)> = Vec::new();
        for route in &self.all {
            let Some(limit) = &route.limit else { continue };
            let same = |other: &&Route| {
                (&other.host, &other.path, &other.methods) == (&route.host, &route.path, &route.methods)
            };
            let counted = before.all.iter().find(same).and_then(|other| other.limit.as_ref());
            if let Some(counted) = counted.filter(|counted| *counted == limit) {
                known.push((limit.clone(), counted.clone()));
            }
        }
        for limit in self.all.iter_mut().filter_map(|route| route.limit.as_mut()) {
            if let Some((_, counted)) = known.iter().find(|(fresh, _)| fresh.is(limit)) {
                *limit = counted.clone();
            }
        }
    }

    /// What limits of routes have come to.
    pub fn limits(&self) -> Vec<LimitCounts> {
        self.all.iter().filter_map(|route| Some(route.limit.as_ref()?.counts(route.to_string()))).collect()
    }

    /// The route with this number.
    pub fn get(&self, number: usize) -> &Route {
        &self.all[number]
    }

    /// All of them, in their first order.
    pub fn all(&self) -> &[Route] {
        &self.all
    }

    /// The number of the route that takes a request. Host and path are in normal form; a host that nobody named is empty.
    pub(super) fn find(&self, host: &[u8], path: &[u8], method: &str) -> Result<usize, Missed> {
        let mut allowed = Vec::new();
        let mut found = self.exact.get(host).and_then(|list| self.first(list, path, method, &mut allowed));
        if found.is_none() && !self.below.is_empty() {
            let mut rest = host;
            while let Some(dot) = rest.iter().position(|byte| *byte == b'.')
                && found.is_none()
            {
                rest = &rest[dot + 1..];
                found = self.below.get(rest).and_then(|list| self.first(list, path, method, &mut allowed));
            }
        }
        match found.or_else(|| self.first(&self.any, path, method, &mut allowed)) {
            Some(route) => Ok(route),
            None if allowed.is_empty() => Err(Missed::Nothing),
            None => {
                allowed.sort_unstable();
                allowed.dedup();
                Err(Missed::Method(allowed.join(", ")))
            }
        }
    }

    /// The numbers of all routes that match a host and a path, whatever the method, in the order in which they are looked at. Both are in normal form.
    pub fn matching(&self, host: &str, path: &str) -> Vec<usize> {
        let is_below =
            |name: &str| host.strip_suffix(name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
        let matches = |route: &Route| match &route.host {
            HostPattern::Any => Some((0, 0)),
            HostPattern::Exact(name) => (name == host).then_some((2, 0)),
            HostPattern::Below(name) => is_below(name).then_some((1, name.len())),
        };
        let rank = |n: usize| {
            let route = &self.all[n];
            let host = matches(route).filter(|_| route.path.matches(path.as_bytes()))?;
            Some((host, route.path.rank(), !route.methods.is_empty()))
        };
        let mut all: Vec<usize> = (0..self.all.len()).filter(|n| rank(*n).is_some()).collect();
        all.sort_by_key(|n| std::cmp::Reverse(rank(*n)));
        all
    }

    fn first<'a>(
        &'a self,
        list: &[usize],
        path: &[u8],
        method: &str,
        allowed: &mut Vec<&'a str>,
    ) -> Option<usize> {
        list.iter().copied().find(|n| {
            let Route { path: pattern, methods, .. } = &self.all[*n];
            if !pattern.matches(path) {
                return false;
            }
            let is_for_it = methods.is_empty() || methods.iter().any(|one| one == method);
            if !is_for_it {
                allowed.extend(methods.iter().map(String::as_str));
            }
            is_for_it
        })
    }

    /// Pairs of routes that match exactly the same, so that the second one is never taken.
    pub fn repeated(&self) -> Vec<(usize, usize)> {
        let key = |route: &Route| {
            let mut methods = route.methods.clone();
            methods.sort_unstable();
            (route.host.clone(), route.path.clone(), methods)
        };
        let mut seen = HashMap::new();
        let mut repeated = Vec::new();
        for (n, route) in self.all.iter().enumerate() {
            match seen.entry(key(route)) {
                std::collections::hash_map::Entry::Occupied(first) => repeated.push((*first.get(), n)),
                std::collections::hash_map::Entry::Vacant(slot) => drop(slot.insert(n)),
            }
        }
        repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `HOST PATH [METHODS]`; a path that ends with `$` is exact.
    fn route(text: &str) -> Route {
        let mut parts = text.split(' ');
        let (host, path) = (parts.next().unwrap(), parts.next().unwrap());
        let path = path.strip_suffix('$').map_or_else(|| PathPattern::prefix(path), PathPattern::exact);
        let methods = parts.next().map_or(Vec::new(), |list| list.split(',').map(str::to_owned).collect());
        let target = Target::Upstream(0);
        Route {
            host: host.parse().unwrap(),
            path: path.unwrap(),
            methods,
            target,
            body_bytes_max: None,
            buffer_bytes: 0,
            limit: None,
        }
    }

    const ROUTES: [&str; 13] = [
        "* /",
        "* /api",
        "shop.test /",
        "shop.test /api/",
        "shop.test /api/v2",
        "shop.test /api/v2$",
        "*.test /",
        "*.shop.test /",
        "*.shop.test /img",
        "shop.test /api POST,PUT",
        "read.test / GET,HEAD",
        "[::1] /",
        "127.0.0.1 /x",
    ];

    #[test]
    fn the_most_special_route_is_taken() {
        let routes = Routes::new(ROUTES.map(route).to_vec());
        let check = |request: &str, expected: &str| {
            let mut parts = request.split(' ');
            let [method, host, path] = [(); 3].map(|()| parts.next().unwrap());
            let host = if host == "-" { "" } else { host };
            let found = routes.find(host.as_bytes(), path.as_bytes(), method);
            let first = found.clone().unwrap();
            let for_method = |n: &usize| {
                routes.get(*n).methods.is_empty() || routes.get(*n).methods.iter().any(|one| one == method)
            };
            assert_eq!(routes.matching(host, path).into_iter().find(for_method), Some(first), "{request}");
            assert_eq!(found.map(|n| ROUTES[n]), Ok(expected), "{request}");
        };
        check("GET shop.test /", "shop.test /");
        check("GET shop.test /x", "shop.test /");
        check("GET shop.test /apis", "shop.test /");
        check("GET shop.test /api", "shop.test /api/");
        check("GET shop.test /api/", "shop.test /api/");
        check("GET shop.test /api/x", "shop.test /api/");
        check("GET shop.test /api/v2", "shop.test /api/v2$");
        check("GET shop.test /api/v2/", "shop.test /api/v2");
        check("GET shop.test /api/v2/x", "shop.test /api/v2");
        check("GET shop.test /api/v20", "shop.test /api/");
        check("POST shop.test /api/v20", "shop.test /api POST,PUT");
        check("POST shop.test /api/v2/x", "shop.test /api/v2");
        check("post shop.test /api", "shop.test /api/");
        check("GET a.test /", "*.test /");
        check("GET b.a.test /", "*.test /");
        check("GET a.shop.test /", "*.shop.test /");
        check("GET a.b.shop.test /api", "*.shop.test /");
        check("GET a.shop.test /img/x", "*.shop.test /img");
        check("GET a.shop.test /image", "*.shop.test /");
        check("GET test /", "* /");
        check("GET ashop.test /", "*.test /");
        check("GET other /api/x", "* /api");
        check("GET - /", "* /");
        check("GET [::1] /api", "[::1] /");
        check("GET 127.0.0.1 /x/y", "127.0.0.1 /x");
        check("GET 127.0.0.1 /", "* /");
        check("OPTIONS shop.test *", "shop.test /");
        check("HEAD read.test /a", "read.test / GET,HEAD");
        // Not its own route for the method, so a more general one.
        check("POST read.test /a", "*.test /");
    }

    #[test]
    fn what_no_route_takes_is_told_apart() {
        let check = |routes: &[&str], request: (&str, &str, &str), expected| {
            let routes = Routes::new(routes.iter().map(|text| route(text)).collect());
            let (method, host, path) = request;
            assert_eq!(routes.find(host.as_bytes(), path.as_bytes(), method), Err(expected), "{request:?}");
        };
        check(&["a /"], ("GET", "b", "/"), Missed::Nothing);
        check(&["a /"], ("GET", "", "/"), Missed::Nothing);
        check(&["a /x"], ("GET", "a", "/"), Missed::Nothing);
        check(&["a /x$"], ("GET", "a", "/x/"), Missed::Nothing);
        check(&["*.a /"], ("GET", "a", "/"), Missed::Nothing);
        check(&[], ("GET", "a", "/"), Missed::Nothing);
        check(
            &["a / GET", "* / PUT,GET", "b / POST"],
            ("DELETE", "a", "/"),
            Missed::Method("GET, PUT".to_owned()),
        );
        check(&["* /x$ GET"], ("POST", "a", "/y"), Missed::Nothing);
    }

    #[test]
    fn patterns_are_in_normal_form() {
        let host = |text: &str, expected: &str| {
            let read = text.parse::<HostPattern>().map_or_else(|error| error, |host| host.to_string());
            assert!(read.contains(expected), "{text}: {read}");
        };
        host("*", "any host");
        host("Shop.Test.", "host shop.test");
        host("*.shop.test", "host *.shop.test");
        host("[::0:1]", "host [::1]");
        host("shop.test:8080", "without their ports");
        host("a*b", "is no host");
        host("*.*", "is no host");
        host("", "is no host");
        let path = |text: &str, expected: &str| {
            let read = PathPattern::prefix(text).map_or_else(|error| error, |path| path.to_string());
            assert!(read.contains(expected), "{text}: {read}");
        };
        path("/", "any path");
        path("/a/", "path /a and below");
        path("/a%20b", "path /a%20b and below");
        path("a", "is no path");
        path("/a?b", "is no path");
        path("/a b", "is no path");
        path("/ä", "is no path");
        path("/a/../b", "is compared as \"/b\"");
        path("/a//b", "is compared as \"/a/b\"");
        path("/%61", "is compared as \"/a\"");
        path("/..", "above the root");
    }

    #[test]
    fn what_is_never_taken_is_found() {
        let routes = ["* /a", "* /a GET", "* /a/", "x /a", "* /a$", "* /a GET"];
        assert_eq!(Routes::new(routes.map(route).to_vec()).repeated(), [(0, 2), (1, 5)]);
    }
}
