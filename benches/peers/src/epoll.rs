//! A thin epoll: add, modify, wait. It never owns the registered descriptors and never hides an error.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::net::{self, ListenArgs};
use anyhow::Result;
use socket2::Socket;

pub struct Epoll {
    fd: OwnedFd,
}

/// Room for the events of one wait; apart from `Epoll`, so that descriptors can be added while events are handled.
pub struct Events(Vec<libc::epoll_event>);

impl Events {
    pub fn with_capacity(events_max: usize) -> Self {
        Events(vec![libc::epoll_event { events: 0, u64: 0 }; events_max])
    }
}

/// The token of a listener.
pub const LISTENER: u64 = u64::MAX;

impl Epoll {
    /// Listens as asked, says where, and watches for connections: level triggered, so that those left over after a failed accept are
    /// not forgotten.
    pub fn listening(args: &ListenArgs) -> Result<(Socket, Epoll)> {
        let listener = net::listen(args)?;
        let epoll = Epoll::new()?;
        epoll.add(listener.as_raw_fd(), libc::EPOLLIN, LISTENER)?;
        net::announce(&listener)?;
        Ok((listener, epoll))
    }

    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: epoll_create1 has just returned this descriptor, and nobody else holds it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd })
    }

    /// Watches `fd` for `interest` (EPOLLIN and so on); events carry `token`.
    pub fn add(&self, fd: RawFd, interest: libc::c_int, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    pub fn modify(&self, fd: RawFd, interest: libc::c_int, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: RawFd,
        interest: libc::c_int,
        token: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest as u32,
            u64: token,
        };
        // SAFETY: the kernel copies `event` during the call; a stale `fd` is an error, not undefined behaviour.
        let result = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits until something is ready (`None`: for ever) and returns (token, ready flags) pairs; none after a
    /// timeout or a signal.
    pub fn wait<'e>(
        &self,
        events: &'e mut Events,
        timeout: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = (u64, libc::c_int)> + use<'e>> {
        let events = &mut events.0;
        let timeout_ms = timeout.map_or(-1, |timeout| {
            timeout.as_millis().min(i32::MAX as u128) as libc::c_int
        });
        // SAFETY: `events` is initialised memory for exactly the number of entries passed.
        let count = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as libc::c_int,
                timeout_ms,
            )
        };
        let count = if count >= 0 {
            count as usize
        } else {
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => 0,
                error => return Err(error),
            }
        };
        Ok(events[..count]
            .iter()
            .map(|event| (event.u64, event.events as libc::c_int)))
    }
}
