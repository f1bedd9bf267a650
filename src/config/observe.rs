//! What the file says of those who look from outside: what requests are called. From its tables to what runs.

use super::text::{RequestIdText, Text, TraceText};
use ringmill::proxy::IdRules;
use schemars::JsonSchema;
use serde::Deserialize;

/// What requests are called.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Ids {
    /// Who is told it in `X-Request-Id`: with off the field passes as it came; the upstream; or both, the upstream and, with the reply, the client.
    /// A name that a trusted peer gives (`limits.trust`) is taken over if it has 1 to 64 letters, digits and `-_.:/+=`; else it is made here, of 32
    /// hexadecimal digits.
    pub(crate) request: Text<RequestIdText>,
    /// Whose traces go on (`traceparent`, W3C Trace Context), with this proxy as a step of its own: with off the fields pass as they
    /// came; those of trusted peers; or those of any. For others, and where the field is malformed, a new trace begins and `tracestate` is dropped.
    pub(crate) trace: Text<TraceText>,
}

impl Default for Ids {
    fn default() -> Ids {
        Ids { request: Text::of("off"), trace: Text::of("off") }
    }
}

impl Ids {
    pub(super) fn rules(&self) -> IdRules {
        IdRules { request: self.request.value, trace: self.trace.value }
    }
}
