//! The first bytes of a client that speaks TLS: the name it asks for says where its connection goes. They stay where they are and are
//! passed on as they came.

use super::Relaying;
use super::pair::Joint;
use crate::layer::tls::{Asked, Hello};
use crate::proxy::state::State;
use ringmill_engine::{Io, Step};

/// A client that has not asked for a name yet.
#[derive(Default)]
pub(in crate::proxy) struct Greeting {
    hello: Hello,
    /// So many of its bytes were read.
    read_bytes: usize,
}

impl State {
    /// Reads on in a greeting. Where it is whole the client has a place, and its bytes are next; otherwise this is the answer.
    pub(in crate::proxy) fn greet(
        &mut self,
        greeting: &mut Greeting,
        relaying: &Relaying,
        input: &[u8],
        io: &mut Io<'_>,
    ) -> Result<Joint, Step> {
        let asked = greeting.hello.read(&input[greeting.read_bytes..]);
        greeting.read_bytes = input.len();
        match asked {
            Asked::Incomplete => Err(Step::consumed(0)),
            Asked::For(name) => {
                let upstream = relaying.upstream_of(name.as_deref());
                let joint = upstream.and_then(|to| self.relay(relaying, to, name.as_deref(), io));
                joint.ok_or_else(|| {
                    tracing::debug!("nobody is relayed to under the name {name:?}");
                    io.write(Hello::UNKNOWN_NAME);
                    Step::close()
                })
            }
            Asked::Nothing => {
                tracing::debug!("a client does not begin with TLS");
                Err(Step::close())
            }
        }
    }
}
