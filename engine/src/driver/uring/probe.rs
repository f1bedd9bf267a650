//! What this machine's io_uring can do, found out by trying it. The driver it makes for that is as small as can be.

use super::Uring;
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Op, Payload, Socket};
use crate::token::{Kind, Token};
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// What the probe found: the flags the kernel takes, and whether a receive can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    pub(super) level: Level,
    /// A receive takes limits, of bytes at once and, for a multishot one, in all (Linux 6.17). Before, the kernel's own limit holds: 33
    /// buffers each time that it looks, which may be twice a turn.
    pub recv_limit: bool,
}

/// Set-up flags, best first. Each level works without the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Linux 6.6: all, with no index array in the submission queue.
    NoArray,
    /// Linux 6.1: completions run when we ask for them.
    Deferred,
    /// Linux 6.0: no interrupts for completions.
    Cooperative,
}

/// Tries the real thing: a ring, a buffer ring, a multishot receive. The error says which step failed and why.
///
/// On a thread of its own: the kernel takes a ring down later, and interrupts the thread that had it then.
pub fn probe() -> Result<Abilities, String> {
    let probing = std::thread::Builder::new().name("ringmill-probe".to_owned()).spawn(probe_here);
    let probed = probing.map_err(|error| format!("starting a thread: {error}"))?.join();
    probed.unwrap_or_else(|_| Err("the probe panicked: see the message above".to_owned()))
}

fn probe_here() -> Result<Abilities, String> {
    let mut refusal = String::new();
    for level in [Level::NoArray, Level::Deferred, Level::Cooperative] {
        match probe_level(level) {
            Ok(abilities) => return Ok(abilities),
            Err(reason) if refusal.is_empty() => refusal = reason,
            Err(_) => {}
        }
    }
    Err(refusal)
}

fn probe_level(level: Level) -> Result<Abilities, String> {
    let abilities = Abilities { level, recv_limit: true };
    let say = |step: &str, error: &std::io::Error| format!("{step}: {error}{}", remedy(error));
    let mut driver = Uring::new(abilities, 8, 512).map_err(|error| say("setting up a ring", &error))?;
    let received = receive_once(&mut driver);
    match received {
        Ok(()) => Ok(abilities),
        Err(Errno::EINVAL) => {
            let abilities = Abilities { recv_limit: false, ..abilities };
            let mut driver =
                Uring::new(abilities, 8, 512).map_err(|error| say("setting up a ring", &error))?;
            receive_once(&mut driver)
                .map(|()| abilities)
                .map_err(|errno| say("a multishot receive", &std::io::Error::from_raw_os_error(errno.0)))
        }
        Err(errno) => Err(say("a multishot receive", &std::io::Error::from_raw_os_error(errno.0))),
    }
}

/// Receives one byte over a socket pair.
fn receive_once(driver: &mut Uring) -> Result<(), Errno> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|error| Errno::from_io(&error))?;
    (&theirs).write_all(b"!").map_err(|error| Errno::from_io(&error))?;
    drop(theirs);
    let token = Token::new(Kind::Recv, 0, 0);
    let socket = Socket(ours.as_raw_fd());
    driver.submit(Op::Recv { token, socket, turn_bytes_max: 512, is_limited: true });
    let (mut events, mut answer) = (Vec::new(), Err(Errno::EAGAIN));
    // Two completions come: the byte, then the end. The bound is for a kernel that sends neither.
    for _ in 0..4 {
        let until = driver.now().after(Duration::from_secs(1));
        driver.turn(Wait::Until(until), &mut events)?;
        for event in events.drain(..) {
            if let Payload::Block(block) = event.payload {
                answer = if &block[..] == b"!" { Ok(()) } else { Err(Errno::EINVAL) };
                driver.submit(Op::Provide(block));
            } else if let (Err(errno), Err(_)) = (event.result, answer) {
                answer = Err(errno);
            }
            if !event.more {
                return answer;
            }
        }
    }
    Err(Errno::EAGAIN)
}

/// What the reader can do where io_uring is refused.
fn remedy(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            " (forbidden by a seccomp profile, as containers have it, or by the sysctl kernel.io_uring_disabled; \
             allow io_uring_setup, io_uring_enter and io_uring_register there)"
        }
        Some(libc::ENOSYS) => " (this kernel or sandbox has no io_uring; it came with Linux 5.1)",
        Some(libc::ENOMEM) => " (the limit on locked memory: raise `ulimit -l`)",
        Some(libc::EINVAL) => " (the kernel is too old: multishot receives came with Linux 6.0)",
        _ => "",
    }
}
