//! Unix sockets as listeners: who may connect, what stands in their way, and whose file is removed in the end.
//!
//! A server that was killed leaves its file behind: such a stale one is replaced. While a server starts, from the look at what
//! is there until it listens, it holds a lock on the folder (flock(2)), because a socket that is bound and does not listen yet
//! looks just as stale.

use super::patience::Patience;
use crate::address::Address;
use crate::config::ListenOptions;
use crate::error::{Error, step};
use crate::sys;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{File, FileType, Metadata, Permissions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The files of an engine's Unix sockets. They are removed when a stop or a drain begins: from then on a new client hears at once
/// that nobody is there, instead of waiting in a queue that is not read any more, and a successor finds the path free.
#[derive(Clone, Default)]
pub(crate) struct UnixPaths(Arc<Mutex<Vec<UnixPath>>>);

impl UnixPaths {
    pub(crate) fn add(&self, path: UnixPath) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    /// The file at this path alone.
    pub(crate) fn remove_one(&self, path: &Path) {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|unix| unix.path != absolute);
    }

    pub(crate) fn remove(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The file of a Unix socket that we bound: removed when the value is dropped, if it is still ours.
pub(crate) struct UnixPath {
    path: PathBuf,
    file: FileId,
    /// Open until the file is gone: nobody takes the path for stale meanwhile, and its inode number cannot come back.
    #[expect(dead_code, reason = "it is there to be open")]
    listener: Socket,
}

/// Device and inode number.
type FileId = (u64, u64);

fn id(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        // Somebody may have removed it and put another one there, which is not ours to remove.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| id(&found) == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What is wrong with options for a Unix listener.
pub(crate) fn problem(address: &Address, options: &ListenOptions) -> Option<String> {
    let restricts = options.unix_mode.is_some() || options.unix_group.is_some();
    if restricts && matches!(address, Address::Abstract(_)) {
        return Some(format!("{address} has no file that could have a mode or a group: name a path"));
    }
    if let Some(mode) = options.unix_mode
        && mode > 0o777
    {
        return Some(format!("unix_mode {mode:#o} is more than permissions: at most 0o777"));
    }
    let group = options.unix_group.as_ref()?;
    sys::group_id(group).err().map(|error| format!("unix_group: {error}"))
}

/// Fails where the address cannot be had: somebody listens, or something else is there.
pub(crate) fn refuse_taken(address: &Address) -> io::Result<()> {
    match address {
        Address::Unix(path) => look(path, &to_kernel(address)?).map(drop),
        _ => Socket::new(Domain::UNIX, Type::STREAM, None)?.bind(&to_kernel(address)?),
    }
}

/// Binds a listener, which listens then; one socket a worker. They share one queue: a Unix socket has no SO_REUSEPORT.
pub(crate) fn bind(
    address: &Address,
    options: &ListenOptions,
    workers: usize,
    patience: &Patience,
) -> Result<(Vec<Socket>, Option<UnixPath>), Error> {
    let mut at = step::BINDING;
    bind_at(address, options, workers, patience, &mut at).map_err(|source| Error::Listen {
        address: address.clone(),
        step: at,
        source,
    })
}

fn bind_at(
    address: &Address,
    options: &ListenOptions,
    workers: usize,
    patience: &Patience,
    at: &mut &'static str,
) -> io::Result<(Vec<Socket>, Option<UnixPath>)> {
    let name = to_kernel(address)?;
    *at = "opening a socket";
    let mut sockets = vec![Socket::new(Domain::UNIX, Type::STREAM, None)?];
    while sockets.len() < workers {
        sockets.push(sockets[0].try_clone()?);
    }
    let listener = &sockets[0];
    let unix_path = match address {
        Address::Unix(path) => Some(bind_path(path, &name, listener, options, patience, at)?),
        _ => {
            *at = step::BINDING;
            listener.bind(&name)?;
            *at = step::LISTENING;
            listener.listen(options.backlog)?;
            None
        }
    };
    Ok((sockets, unix_path))
}

fn bind_path(
    path: &Path,
    name: &SockAddr,
    socket: &Socket,
    options: &ListenOptions,
    patience: &Patience,
    at: &mut &'static str,
) -> io::Result<UnixPath> {
    let listener = socket.try_clone()?;
    let absolute = std::path::absolute(path)?;
    *at = step::BINDING;
    let lock = lock_folder(&absolute, patience);
    if look(path, name)? == There::Stale {
        std::fs::remove_file(path)?;
    }
    socket.bind(name)?;
    let file = id(&std::fs::symlink_metadata(path)?);
    let unix_path = UnixPath { path: absolute, file, listener };
    // Bound and not listening, it refuses everybody: nobody comes in before the door is as it should be.
    restrict(&unix_path, options, at)?;
    *at = step::LISTENING;
    socket.listen(options.backlog)?;
    drop(lock);
    Ok(unix_path)
}

/// Without a lock, where the folder cannot be read or somebody else keeps it locked, only a start of two servers at the same time
/// is less safe.
fn lock_folder(path: &Path, patience: &Patience) -> Option<File> {
    let folder = sys::open_folder(path.parent()?).ok()?;
    loop {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(TryLockError::WouldBlock) if patience.goes_on() => {}
            Err(_) => return None,
        }
    }
}

/// Sets group and mode of the file, of no other: whoever may write to the folder could put a link there.
fn restrict(unix_path: &UnixPath, options: &ListenOptions, at: &mut &'static str) -> io::Result<()> {
    if options.unix_mode.is_none() && options.unix_group.is_none() {
        return Ok(());
    }
    *at = "opening its file";
    let file = sys::open_name(&unix_path.path)?;
    if id(&file.metadata()?) != unix_path.file {
        return Err(io::Error::other("somebody has put another file there"));
    }
    // Calls that change a file by descriptor take none that was opened for its name alone: its link in /proc goes.
    let same = format!("/proc/self/fd/{}", file.as_raw_fd());
    if let Some(group) = &options.unix_group {
        *at = step::UNIX_GROUP;
        std::os::unix::fs::chown(&same, None, Some(sys::group_id(group)?))?;
    }
    if let Some(mode) = options.unix_mode {
        *at = step::UNIX_MODE;
        std::fs::set_permissions(&same, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// What is at a path where a socket is to be bound.
#[derive(PartialEq, Eq)]
enum There {
    /// Nothing, or nothing that can be seen: bind(2) will say.
    Nothing,
    /// A socket that nobody listens on.
    Stale,
}

fn look(path: &Path, name: &SockAddr) -> io::Result<There> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(There::Nothing) };
    if !found.file_type().is_socket() {
        let problem = what_else(path, found.file_type());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A server whose queue is full would let us wait.
    probe.set_nonblocking(true)?;
    let in_use = || Err(io::ErrorKind::AddrInUse.into());
    match probe.connect(name) {
        Ok(()) => in_use(),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => in_use(),
            io::ErrorKind::ConnectionRefused => Ok(There::Stale),
            io::ErrorKind::NotFound => Ok(There::Nothing),
            _ => {
                let problem =
                    format!("a socket is there, and whether somebody listens cannot be told: {error}");
                Err(io::Error::new(io::ErrorKind::AlreadyExists, problem))
            }
        },
    }
}

fn what_else(path: &Path, found: FileType) -> String {
    if found.is_dir() {
        return format!("a folder is there: name a socket in it, such as {}", path.join("x.sock").display());
    }
    if found.is_symlink() {
        let to = std::fs::read_link(path).unwrap_or_default();
        let dangles = if path.exists() { "" } else { ", which does not exist" };
        return format!(
            "a symbolic link to {}{dangles} is there: remove it, or listen where it points",
            to.display()
        );
    }
    let what = if found.is_file() { "a regular file" } else { "a pipe or a device" };
    format!("{what} is there: remove it, or choose another path")
}

/// The errors of bind(2) without a call: a name that is too long.
fn to_kernel(address: &Address) -> io::Result<SockAddr> {
    sys::to_kernel(address).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the name is too long, or has a zero byte (unix(7): 107 bytes)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Barrier;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(10);
    const ROUNDS: usize = 200;

    /// A folder of its own for each test, removed in the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("ringmill-unix-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn listen(path: &Path, options: &ListenOptions) -> Option<(Vec<Socket>, Option<UnixPath>)> {
        bind(&Address::Unix(path.to_owned()), options, 1, &Patience::new(PATIENCE)).ok()
    }

    #[test]
    fn of_servers_that_start_at_once_on_a_stale_path_one_gets_it() {
        const SERVERS: usize = 4;
        let folder = Folder::new("race");
        let path = folder.0.join("socket");
        for round in 0..ROUNDS {
            drop(UnixListener::bind(&path).unwrap());
            let gate = Barrier::new(SERVERS);
            let start = || {
                gate.wait();
                listen(&path, &ListenOptions::default())
            };
            let started: Vec<_> = std::thread::scope(|scope| {
                let starting: Vec<_> = (0..SERVERS).map(|_| scope.spawn(start)).collect();
                starting.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(started.len(), 1, "in round {round}; each that starts must be reachable");
            UnixStream::connect(&path).unwrap();
            drop(started);
            assert!(!path.exists());
        }
    }

    #[test]
    fn nobody_connects_before_the_mode_is_set() {
        let folder = Folder::new("mode");
        let path = folder.0.join("socket");
        for round in 0..ROUNDS {
            let gate = Barrier::new(2);
            std::thread::scope(|scope| {
                let first = scope.spawn(|| {
                    gate.wait();
                    while UnixStream::connect(&path).is_err() {}
                    std::fs::metadata(&path).unwrap().mode() & 0o7777
                });
                gate.wait();
                let options = ListenOptions { unix_mode: Some(0o606), ..ListenOptions::default() };
                let _listener = listen(&path, &options).expect("it listens");
                assert_eq!(first.join().unwrap(), 0o606, "in round {round}");
            });
        }
    }
}
