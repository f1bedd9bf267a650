//! The calls of a connection: HTTP's as long as it speaks HTTP, and those of whoever was given it after that.

use super::answer::Flow;
use super::session::{Conversation, Server};
use crate::http::handler::Handler;
use crate::http::successor::Successor;
use ringmill_engine::{Call, CloseReason, Dialer, Io, Next, Protocol, Step, Tick};

/// The state of one connection.
pub struct Session(Speaks);

enum Speaks {
    Http(Conversation),
    /// HTTP is over.
    Other(Box<dyn Successor>),
}

// Most connections are idle, and have nothing else.
const _: () = assert!(size_of::<Session>() <= 24);

impl<H: Handler> Protocol for Server<H> {
    type Session = Session;

    fn open(&mut self, io: &mut Io<'_>) -> Session {
        Session(Speaks::Http(self.open_conversation(io)))
    }

    #[inline]
    fn data(&mut self, session: &mut Session, input: &mut [u8], io: &mut Io<'_>) -> Step {
        let flow = match &mut session.0 {
            Speaks::Http(conversation) => self.take_data(conversation, input, io),
            Speaks::Other(successor) => return successor.call(Call::Data(input), io),
        };
        let Flow::Switch(done) = flow else { return flow.step() };
        let next = session.switch(io);
        match &mut session.0 {
            Speaks::Other(successor) if next == Next::Continue && done < input.len() => {
                let step = successor.call(Call::Data(&mut input[done..]), io);
                Step { consumed: done + step.consumed, ..step }
            }
            _ => Step { consumed: done, need: 0, next },
        }
    }

    fn drained(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        match &mut session.0 {
            Speaks::Http(conversation) => match self.go_on(conversation, io) {
                Flow::Switch(_) => session.switch(io),
                flow => flow.next(),
            },
            Speaks::Other(successor) => successor.call(Call::Drained, io).next,
        }
    }

    fn wake(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        match &mut session.0 {
            Speaks::Http(conversation) => match self.go_on(conversation, io) {
                Flow::Switch(_) => session.switch(io),
                flow => flow.next(),
            },
            Speaks::Other(successor) => successor.call(Call::Wake, io).next,
        }
    }

    fn gone(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        match &mut session.0 {
            Speaks::Http(conversation) => self.hear_of_end(conversation, io),
            Speaks::Other(successor) => successor.call(Call::Gone, io).next,
        }
    }

    fn timeout(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        match &mut session.0 {
            Speaks::Http(conversation) => self.run_out(conversation, io),
            Speaks::Other(successor) => successor.call(Call::Timeout, io).next,
        }
    }

    fn eof(&mut self, session: &mut Session, rest: &mut [u8], io: &mut Io<'_>) -> Next {
        match &mut session.0 {
            Speaks::Http(conversation) => self.take_end(conversation, rest, io),
            Speaks::Other(successor) => successor.call(Call::End(rest), io).next,
        }
    }

    fn drain(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        match &mut session.0 {
            Speaks::Http(conversation) => self.drain_conversation(conversation, io),
            Speaks::Other(successor) => successor.call(Call::Drain, io).next,
        }
    }

    fn shed(&mut self, session: &mut Session, io: &mut Io<'_>) -> Next {
        match &mut session.0 {
            Speaks::Http(conversation) => self.shed_conversation(conversation, io),
            Speaks::Other(successor) => successor.call(Call::Shed, io).next,
        }
    }

    fn closed(&mut self, session: Session, reason: CloseReason) {
        match session.0 {
            Speaks::Http(conversation) => self.close_conversation(conversation, reason),
            Speaks::Other(successor) => successor.closed(reason),
        }
    }

    fn start(&mut self, dialer: Dialer) {
        self.detached.start(dialer);
    }

    fn tick(&mut self, now: Tick) {
        self.run_on(now);
    }

    fn rung(&mut self) {
        self.detached.look();
    }
}

impl Session {
    /// Gives the connection to whom the reply says.
    #[cold]
    fn switch(&mut self, io: &mut Io<'_>) -> Next {
        let Speaks::Http(conversation) = &mut self.0 else { return Next::Close };
        let Some(mut successor) =
            conversation.exchange.take().and_then(|exchange| exchange.reply.into_successor())
        else {
            return Next::Close;
        };
        io.set_deadline(None);
        io.hold(0);
        let mut next = successor.open(io);
        if next == Next::Continue && io.is_draining() {
            // HTTP was told, and it was not.
            next = successor.call(Call::Drain, io).next;
        }
        self.0 = Speaks::Other(successor);
        next
    }
}
