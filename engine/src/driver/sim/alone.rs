//! One session without a worker: for benches of protocols. Bytes go in by [`Alone::data`], output comes out.
//!
//! Here is no driver, no loop and no flow control; with them, see `simulation.rs`.

use super::{Chaos, Sim};
use crate::bell::Bell;
use crate::config::Config;
use crate::conn::Conn;
use crate::driver::Driver;
use crate::event::Socket;
use crate::seam::io::{Below, Io};
use crate::seam::protocol::Protocol;
use crate::session::shared::Shared;
use crate::stats::Stats;
use std::sync::Arc;

/// A protocol with one open session.
pub struct Alone<P: Protocol> {
    protocol: P,
    session: P::Session,
    conn: Conn,
    shared: Shared,
    /// Only asked for names.
    driver: Sim,
}

impl<P: Protocol> Alone<P> {
    /// Opens the session.
    pub fn new(mut protocol: P) -> Alone<P> {
        let config = Config::default();
        let bell = Bell::new().expect("an event counter");
        let mut shared = Shared::new(&config, Arc::new(bell), Stats::new(1).worker(0));
        let (driver, _) = Sim::new(0, Chaos::CALM, config.recv_buffers, config.recv_buffer_bytes);
        shared.now = driver.now();
        shared.wall.set(shared.now, driver.since_epoch());
        let mut conn = Conn::new(1, Socket(-1), 0);
        let (link, duplex) = (&mut conn.link, &mut conn.duplex);
        let below = Below { index: 0, link, shared: &mut shared, names: &driver, queued_bytes: 0 };
        let session = protocol.open(&mut Io { duplex, below });
        Alone { protocol, session, conn, shared, driver }
    }

    /// Calls the session once; returns how many bytes it consumed. The rest is the caller's to keep.
    #[inline]
    pub fn data(&mut self, input: &mut [u8]) -> usize {
        let Alone { protocol, session, conn, shared, driver } = self;
        let below = Below { index: 0, link: &mut conn.link, shared, names: driver, queued_bytes: 0 };
        protocol.data(session, input, &mut Io { duplex: &mut conn.duplex, below }).consumed
    }

    /// Hands what was written to `read`, in pieces, and takes the buffer back as a worker does once it was sent.
    #[inline]
    pub fn take(&mut self, read: impl FnMut(&[u8])) {
        if let Some(output) = self.conn.duplex.outlet.pending.take() {
            output.for_each(read);
            self.shared.recycle(output);
        }
    }
}
