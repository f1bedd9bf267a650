//! What the file says of those who look from outside: what requests are called, the access log. From its tables to what runs.

use super::problem::Problem;
use super::text::{
    LogFormatText, LogTarget, LogTargetText, RequestIdText, ShareText, Text, Timeout, TraceText,
};
use ringmill::proxy::{AccessLog, IdRules, LogFormat, LogRules};
use schemars::JsonSchema;
use serde::Deserialize;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use toml::Spanned;

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

/// A line for each request, and for each connection of `tcp` when it ends: `[access_log]`. Lines that are not taken in time are dropped and counted; nobody waits for them. Left out, there is none.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct AccessLogTable {
    /// Standard output, or a file, which is appended to and opened again on SIGHUP.
    #[schemars(with = "Text<LogTargetText>")]
    pub(crate) to: Spanned<Text<LogTargetText>>,
    /// An object in JSON, or a line as Apache and nginx write it.
    #[serde(default = "json")]
    pub(crate) format: Text<LogFormatText>,
    /// Only this part of the requests and connections, from 0 to 1, and all that failed (the proxy, or with a status of 500 or more) or were slow.
    #[serde(default = "all")]
    pub(crate) sample: Text<ShareText>,
    /// A request that takes so long is slow; connections and WebSockets are not.
    #[serde(default = "one_second")]
    pub(crate) slow: Text<Timeout>,
}

fn json() -> Text<LogFormatText> {
    Text::of("json")
}

fn all() -> Text<ShareText> {
    Text::of("1")
}

fn one_second() -> Text<Timeout> {
    Text::of("1s")
}

impl AccessLogTable {
    pub(super) fn rules(&self, to: &AccessLog) -> LogRules {
        LogRules {
            to: to.clone(),
            sampled_per_million: self.sample.value,
            slow: self.slow.value,
            has_agents: self.format.value == LogFormat::Combined,
        }
    }

    pub(super) fn target(&self) -> (LogTarget, LogFormat) {
        (self.to.get_ref().value.clone(), self.format.value)
    }

    /// Says where nothing can be written. A file that is not there is made for that, and goes again.
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let LogTarget::File(path) = &self.to.get_ref().value else { return };
        let is_there = match std::fs::symlink_metadata(path) {
            // Whoever opens a pipe waits for the other end.
            Ok(file) if file.file_type().is_fifo() => return,
            found => found.is_ok(),
        };
        match OpenOptions::new().append(true).create(true).mode(0o640).open(path) {
            Ok(_) if is_there => {}
            Ok(_) => drop(std::fs::remove_file(path)),
            Err(error) => {
                let what = format!("no access log in {}: {error}", path.display());
                problems.push(Problem::at(self.to.span(), what, "a file that this user may write"));
            }
        }
    }
}
