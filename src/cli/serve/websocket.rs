//! WebSocket of `ringmill serve`: its options, and the echo on `/ws`.

use clap::Args;
use ringmill::http::Request;
use ringmill::websocket::{Accept, Deflate, Endpoint, Handler, Message, Options, Origins, Ws};
use ringmill_console::options;

/// Options of WebSocket.
#[derive(Args)]
pub(super) struct WebSocketOptions {
    /// Longest WebSocket message taken, as 64KiB; a longer one ends the connection before it has arrived
    #[arg(long, value_name = "SIZE", env = "RINGMILL_WS_MAX_MESSAGE", default_value = "64KiB", value_parser = options::size)]
    ws_max_message: u64,

    /// Origins whose pages may open a WebSocket, as https://example.com, beside the server's own; any for all; repeat for several
    #[arg(long, value_name = "ORIGIN", env = "RINGMILL_WS_ORIGIN", value_delimiter = ',')]
    ws_origin: Vec<String>,

    /// Compress WebSocket messages of 1KiB and more, with clients that offer it (permessage-deflate)
    #[arg(long, env = "RINGMILL_WS_DEFLATE")]
    ws_deflate: bool,

    /// Connections a worker that compress with what was said before: smaller messages, half a megabyte each. Needs --ws-deflate
    #[arg(long, value_name = "COUNT", env = "RINGMILL_WS_CONTEXTS", default_value_t = 0)]
    ws_contexts: u16,
}

impl WebSocketOptions {
    pub(super) fn options(&self) -> Options {
        let origins = match self.ws_origin.as_slice() {
            [] => Origins::Same,
            list if list.iter().any(|origin| origin == "any") => Origins::Any,
            list => Origins::List(list.to_vec()),
        };
        let deflate = Deflate { contexts_max: usize::from(self.ws_contexts), ..Deflate::default() };
        Options {
            origins,
            message_bytes_max: usize::try_from(self.ws_max_message).unwrap_or(usize::MAX),
            deflate: self.ws_deflate.then_some(deflate),
            ..Options::default()
        }
    }
}

/// `/ws`: every message goes back.
pub(super) fn echo(options: &Options) -> Endpoint<Echo> {
    Endpoint::with_options(Echo, options.clone())
}

pub(super) struct Echo;

impl Handler for Echo {
    type State = ();

    fn accept(&mut self, _: &Request<'_>, _: &mut Accept<'_>) -> Option<()> {
        Some(())
    }

    fn message(&mut self, _: &mut (), message: Message<'_>, ws: &mut Ws<'_>) {
        ws.send(message);
    }
}
