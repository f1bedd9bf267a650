//! Clients that leave, or are asked to: what becomes of their connections.

use super::client::Client;
use super::exchange::Stage;
use super::state::State;
use crate::http::one::head::{Outcome, parse_head};
use ringmill_engine::{Io, Next, Tick};

impl State {
    pub(super) fn client_eof(&mut self, client: &mut Client, rest: &[u8], io: &mut Io<'_>) -> Next {
        // A head that dripped in was not looked at with every drop: it may have been malformed for long.
        if client.exchange.is_none()
            && !rest.is_empty()
            && let Outcome::Malformed(reject) =
                parse_head(rest, &mut self.slots, &self.plan.front.limits.head)
        {
            self.refuse_input(client, rest, (reject.status(), reject.reason()), io);
        }
        Next::Close
    }

    /// The client has ended its stream while nothing is read from it.
    pub(super) fn client_gone(&mut self, client: &Client) -> Next {
        let Some(key) = client.exchange else { return Next::Close };
        let exchange = &self.exchanges[key];
        let is_taken = exchange.decoder.is_some() || matches!(exchange.stage, Stage::Joined(_));
        if is_taken || self.plan.front.half_close { Next::Pause } else { Next::Close }
    }

    pub(super) fn client_drain(&mut self, client: &Client, io: &mut Io<'_>) -> Next {
        match client.exchange {
            None if client.head_began == Tick::NEVER => {
                self.wait_for_request(io);
                Next::Continue
            }
            None => Next::Continue,
            Some(key) if self.exchanges[key].reads_client() => Next::Continue,
            Some(_) => Next::Pause,
        }
    }

    pub(super) fn client_shed(&self, client: &Client) -> Next {
        let is_idle = client.exchange.is_none() && client.head_began == Tick::NEVER;
        if is_idle { Next::Close } else { Next::Continue }
    }
}
