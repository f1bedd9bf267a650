//! The first bytes of a client that speaks TLS: the name it asks for says where its connection goes. They stay where they are and are
//! passed on as they came.

use super::Listener;
use super::pair::Joint;
use crate::layer::tls::{Asked, Hello};
use crate::proxy::observe::{End, Noted};
use crate::proxy::state::State;
use ringmill_engine::{Io, Step};

/// A client that has not asked for a name yet.
#[derive(Default)]
pub(in crate::proxy) struct Greeting {
    hello: Hello,
    /// So many of its bytes were read.
    read_bytes: usize,
    /// What is told of it, where anything is.
    seen: Option<Noted>,
}

impl Greeting {
    pub(in crate::proxy) fn new(seen: Option<Noted>) -> Greeting {
        Greeting { seen, ..Greeting::default() }
    }
}

impl State {
    /// Reads on in a greeting. Where it is whole the client has a place, and its bytes are next; otherwise this is the answer.
    pub(in crate::proxy) fn greet(
        &mut self,
        greeting: &mut Greeting,
        listener: &Listener,
        input: &[u8],
        io: &mut Io<'_>,
    ) -> Result<Joint, Step> {
        let asked = greeting.hello.read(&input[greeting.read_bytes..]);
        greeting.read_bytes = input.len();
        match asked {
            Asked::Incomplete => Err(Step::consumed(0)),
            Asked::For(name) => {
                let upstream = listener.relaying.upstream_of(name.as_deref());
                let seen = greeting.seen.take();
                let joint = self.relay(listener, (upstream, name.as_deref()), seen, io);
                joint.ok_or_else(|| {
                    tracing::debug!("nobody is relayed to under the name {name:?}");
                    io.write(Hello::UNKNOWN_NAME);
                    Step::close()
                })
            }
            Asked::Nothing => {
                tracing::debug!("a client does not begin with TLS");
                self.greeting_over(greeting, End::Refused);
                Err(Step::close())
            }
        }
    }

    /// A client has not asked for a name, and will not.
    pub(in crate::proxy) fn greeting_over(&mut self, greeting: &mut Greeting, end: End) {
        let mut seen = greeting.seen.take();
        if let Some(noted) = &mut seen {
            noted.seen.received = greeting.read_bytes as u64;
        }
        self.note_unserved(seen, end);
    }
}
