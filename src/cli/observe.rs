//! Options of `ringmill proxy` for those who look from outside: what requests are called, and the access log.

use super::access_log::{LogWriter, open};
use super::signals::Reload;
use crate::config::text::{LogTarget, share};
use clap::Args;
use ringmill::Error;
use ringmill::proxy::{AccessLog, Counts, IdRules, LogFormat, LogRules, Observe, RequestIds, Traces};
use ringmill_console::options;
use std::time::Duration;

#[derive(Args, Clone)]
pub(super) struct ObserveOptions {
    /// Name each request, in X-Request-Id: off, upstream, or both, for the upstream and, with the reply, the client. Names that trusted
    /// peers give are taken over
    #[arg(long, value_name = "WHO", env = "RINGMILL_REQUEST_ID", default_value = "off")]
    request_id: RequestIds,

    /// Go on with traces (traceparent, W3C Trace Context) of trusted peers, or of any, as a step of them, and begin new ones for all
    /// others; off passes the fields on as they came
    #[arg(long, value_name = "WHOSE", env = "RINGMILL_TRACE", default_value = "off")]
    trace: Traces,

    /// Write a line for each request, with --tcp for each connection when it ends, to stdout or file:PATH, which is opened again on SIGHUP. Lines that are not taken in time are dropped
    /// and counted
    #[arg(long, value_name = "TO", env = "RINGMILL_ACCESS_LOG")]
    access_log: Option<LogTarget>,

    /// Its lines: json, or combined, as Apache and nginx write them
    #[arg(long, value_name = "FORMAT", env = "RINGMILL_ACCESS_LOG_FORMAT", default_value = "json")]
    access_log_format: LogFormat,

    /// Write only this part of the requests, from 0 to 1, and all that failed (the proxy, or with a status of 500 or more) or were slow
    #[arg(long, value_name = "PART", env = "RINGMILL_ACCESS_LOG_SAMPLE", default_value = "1", value_parser = share)]
    access_log_sample: u32,

    /// A request that takes so long is slow
    #[arg(long, value_name = "TIME", env = "RINGMILL_ACCESS_LOG_SLOW", default_value = "1s", value_parser = options::timeout)]
    access_log_slow: Duration,
}

/// What is told, and who writes the log, where there is one.
pub(super) struct Observing {
    pub(super) observe: Observe,
    /// And where it writes.
    writer: Option<(LogWriter, LogTarget, LogFormat)>,
}

impl ObserveOptions {
    /// Starts what there is to start; `counts` says whether somebody asks for counts.
    pub(super) fn start(self, counts: bool) -> Result<Observing, Error> {
        let counts = counts.then(Counts::default);
        let ids = IdRules { request: self.request_id, trace: self.trace };
        let Some(target) = self.access_log else {
            return Ok(Observing { observe: Observe { ids, log: None, counts }, writer: None });
        };
        let (to, format) = (AccessLog::default(), self.access_log_format);
        let writer = LogWriter::new(to.clone());
        let problem = |problem: String| Error::Config { problems: vec![problem] };
        let file = open(&target).map_err(problem)?;
        writer.direct(file, format).map_err(problem)?;
        let log = LogRules {
            to,
            sampled_per_million: self.access_log_sample,
            slow: self.access_log_slow,
            has_agents: format == LogFormat::Combined,
        };
        let observe = Observe { ids, log: Some(log), counts };
        Ok(Observing { observe, writer: Some((writer, target, format)) })
    }
}

impl Observing {
    /// Who writes the access log, where there is one.
    pub(super) fn writer(&self) -> Option<LogWriter> {
        self.writer.as_ref().map(|(writer, ..)| writer.clone())
    }

    /// What SIGHUP does, where there is a file.
    pub(super) fn reload(&self) -> Option<Reload> {
        let (writer, target, format) = self.writer.clone()?;
        if target == LogTarget::Stdout {
            return None;
        }
        let run = move |_| match open(&target).and_then(|file| writer.direct(file, format)) {
            Ok(()) => tracing::info!("SIGHUP: the access log was opened again"),
            Err(error) => tracing::error!("{error}: it goes on where it went"),
        };
        Some(Reload { every: None, run: Box::new(run) })
    }
}
