//! What the file says of how many requests a route takes. From its table to what runs.

use super::problem::Problem;
use super::text::{PerText, RateText, Text};
use ringmill::proxy::{Limit, RouteRate};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

/// How many requests a route takes: `rate = { per = "client", limit = "100/s", burst = 200 }`. One more is answered with 429 and `Retry-After`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct RateLimit {
    /// Of each client, of each value of a field, or in all. A client is an address of IPv4 or a /64 of IPv6; behind a trusted proxy (`limits.trust`) the
    /// last address in `X-Forwarded-For` that is not a trusted one itself. Clients of a Unix socket are one. A request without the field counts for its
    /// client.
    #[serde(default = "client")]
    pub(crate) per: Text<PerText>,
    /// How many.
    pub(crate) limit: Text<RateText>,
    /// So many may come at once. Left out, as many as `limit` says.
    #[serde(default)]
    pub(crate) burst: Option<u32>,
}

fn client() -> Text<PerText> {
    Text::of("client")
}

/// What a route keeps, if it keeps a rate.
pub(super) fn limit(asked: Option<&Spanned<RateLimit>>, problems: &mut Vec<Problem>) -> Option<Limit> {
    let asked = asked?;
    let RateLimit { per, limit, burst } = asked.get_ref();
    if *burst == Some(0) {
        problems.push(Problem::at(asked.span(), "`burst` is 0: no request could ever come", "at least 1"));
    }
    let rate = burst.map_or(limit.value, |burst| limit.value.with_burst(burst));
    Some(Limit::new(RouteRate { per: per.value.clone(), rate }))
}
