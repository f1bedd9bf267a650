//! What the simulated kernel and its peers do to a worker, each fault with its ratio; and how often each one fired.

use super::rng::Rng;
use std::cell::RefCell;
use std::time::Duration;

/// Who suffers from a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Nobody: a worker that is sound loses not one byte.
    None,
    /// A connection or a datagram may be lost; what its peer got is still right as far as it goes.
    Connection,
    /// It is the peer's own doing. The scenario acts it out, not the driver.
    Peer,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident $harm:ident $one_in:literal,)*) => {
        /// A fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// Every one.
            pub const ALL: &'static [Fault] = &[$(Fault::$name,)*];

            /// Who suffers.
            pub const fn harm(self) -> Harm {
                match self { $(Fault::$name => Harm::$harm,)* }
            }

            /// The ratio at its worst: one in so many.
            const fn one_in(self) -> u32 {
                match self { $(Fault::$name => $one_in,)* }
            }
        }
    };
}

faults! {
    /// A receive brings less than there is.
    ShortRecv None 2,
    /// A send takes less than it could.
    ShortSend None 2,
    /// A receive ends with `more` absent although the stream goes on.
    RecvOver None 5,
    /// An accept ends with `more` absent although it brought a connection.
    AcceptOver None 4,
    /// One connection takes every receive buffer there is: the pool is really empty, for it and for the others.
    Drought None 8,
    /// An operation ends with EAGAIN.
    Again None 12,
    /// An operation ends with EINTR.
    Interrupted None 12,
    /// A turn comes back early and empty-handed, as after a signal.
    EarlyReturn None 6,
    /// A cancelled operation still brings something first, or ends without having heard of the cancel.
    LateCancel None 2,
    /// The submission queue has no room: the kernel takes in a part of what was submitted, the rest with a later turn.
    QueueFull None 4,
    /// A completion for the tenant that a slot had before. Counted when the slot has a new one.
    Stale None 12,
    /// The bell is reported although nobody has raised it.
    SpuriousWake None 16,
    /// Accepting fails for want of descriptors or memory; the connection stays in the queue.
    DescriptorsOut None 6,
    /// The wall clock is set to another time.
    WallLeap None 64,
    /// A datagram operation fails, or moves fewer datagrams than it could.
    DatagramFault Connection 6,
    /// A connection goes away before it is accepted.
    AcceptAborted Connection 12,
    /// A receive ends with ECONNRESET.
    Reset Connection 80,
    /// A send ends with EPIPE.
    BrokenPipe Connection 80,
    /// The clock leaps ahead by up to two minutes.
    ClockLeap Connection 400,
    /// A peer shuts its side in the middle of what it had to say, and reads on.
    HalfClose Peer 6,
    /// A peer never reads.
    NeverReads Peer 8,
    /// A peer sends byte by byte, and has room for one byte.
    OneByte Peer 5,
    /// A peer resets the connection.
    PeerReset Peer 8,
    /// A worker is told to drain while it works.
    Drained Peer 6,
    /// A worker is told to stop while it works.
    Stopped Peer 12,
    /// The memory budget is so small that it is used up.
    SmallBudget Peer 3,
}

/// How much of what happens, as integer ratios.
#[derive(Clone, Copy, Debug)]
pub struct Chaos {
    /// Completions come up to so much later than they could.
    pub delay_max: Duration,
    one_in: [u32; Fault::ALL.len()],
}

impl Chaos {
    /// A kernel that does at once what it is asked.
    pub const CALM: Chaos = Chaos { delay_max: Duration::ZERO, one_in: [0; Fault::ALL.len()] };

    /// What a contract test sees of a busy but faultless kernel: delays, short results, operations that end early.
    pub const SHORT: Chaos = Chaos::CALM
        .with_delay(Duration::from_millis(2))
        .with(Fault::ShortRecv, 2)
        .with(Fault::ShortSend, 2)
        .with(Fault::RecvOver, 5);

    /// Every fault at its worst that loses nothing: a sound worker serves every byte.
    pub const WILD: Chaos = {
        let mut chaos = Chaos::CALM.with_delay(Duration::from_millis(2));
        let mut n = 0;
        while n < Fault::ALL.len() {
            if matches!(Fault::ALL[n].harm(), Harm::None) {
                chaos.one_in[n] = Fault::ALL[n].one_in();
            }
            n += 1;
        }
        chaos
    };

    /// A choice of faults: each one is off for half of the seeds, and rare for some.
    pub fn random(rng: &mut Rng) -> Chaos {
        let delay_max = Duration::from_micros([0, 50, 2000, 20_000][rng.below(4)]);
        let mut chaos = Chaos::CALM.with_delay(delay_max);
        for &fault in Fault::ALL {
            if rng.one_in(2) {
                chaos = chaos.with(fault, fault.one_in() * [1, 1, 2, 5][rng.below(4)]);
            }
        }
        chaos
    }

    /// Sets how late completions come.
    pub const fn with_delay(mut self, delay_max: Duration) -> Chaos {
        self.delay_max = delay_max;
        self
    }

    /// Sets the ratio of a fault; 0 is never.
    pub const fn with(mut self, fault: Fault, one_in: u32) -> Chaos {
        self.one_in[fault as usize] = one_in;
        self
    }

    /// Whether a fault can happen at all.
    pub fn is_on(&self, fault: Fault) -> bool {
        self.one_in[fault as usize] > 0
    }

    /// Whether it is this fault's turn. Whether the fault then has an effect is another matter: see [`fire`].
    pub fn hits(&self, fault: Fault, rng: &mut Rng) -> bool {
        rng.one_in(self.one_in[fault as usize])
    }
}

/// How often each fault had an effect.
#[derive(Clone, Debug)]
pub struct Fired([u64; Fault::ALL.len()]);

thread_local! {
    static FIRED: RefCell<Fired> = const { RefCell::new(Fired::NONE) };
}

/// Counts a fault that had an effect, for this thread.
pub fn fire(fault: Fault) {
    FIRED.with_borrow_mut(|fired| fired.0[fault as usize] += 1);
}

/// What has fired on this thread since the last call.
pub fn take_fired() -> Fired {
    FIRED.replace(Fired::NONE)
}

impl Fired {
    const NONE: Fired = Fired([0; Fault::ALL.len()]);

    /// How often.
    pub fn count(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }
}

impl std::ops::AddAssign<&Fired> for Fired {
    fn add_assign(&mut self, other: &Fired) {
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum += more;
        }
    }
}
