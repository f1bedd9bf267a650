//! Clients that leave, or are asked to: what becomes of their connections.

use super::client::Client;
use super::state::State;
use ringmill_engine::{Io, Next, Tick};

impl State {
    /// The client has ended its stream while nothing is read from it.
    pub(super) fn client_gone(&mut self, client: &Client) -> Next {
        let Some(key) = client.exchange else { return Next::Close };
        let exchange = &self.exchanges[key];
        let is_taken = exchange.decoder.is_some() || exchange.is_tunnel();
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
