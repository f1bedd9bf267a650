//! Options of `ringmill proxy` for those who look from outside: what requests are called.

use clap::Args;
use ringmill::proxy::{IdRules, Observe, RequestIds, Traces};

#[derive(Args)]
pub(super) struct ObserveOptions {
    /// Name each request, in X-Request-Id: off, upstream, or both, for the upstream and, with the reply, the client. Names that trusted
    /// peers give are taken over
    #[arg(long, value_name = "WHO", env = "RINGMILL_REQUEST_ID", default_value = "off")]
    request_id: RequestIds,

    /// Go on with traces (traceparent, W3C Trace Context) of trusted peers, or of any, as a step of them, and begin new ones for all
    /// others; off passes the fields on as they came
    #[arg(long, value_name = "WHOSE", env = "RINGMILL_TRACE", default_value = "off")]
    trace: Traces,
}

impl ObserveOptions {
    pub(super) fn observe(&self) -> Observe {
        Observe { ids: IdRules { request: self.request_id, trace: self.trace } }
    }
}
