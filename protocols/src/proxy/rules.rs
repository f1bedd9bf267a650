//! When a server is well: rules that a proxy is told. Plain data.

use std::str::FromStr;
use std::time::Duration;

/// When a server is given no requests for a while: so many in a row failed. A request fails if there is no connection, if a new one
/// ends without a reply, if nothing comes in time, or what comes is no reply or breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// So many in a row; 0 for never.
    pub after: u32,
    /// For so long at first; twice as long each time that follows soon.
    pub time: Duration,
    /// The longest time; who was well for so long begins anew.
    pub time_max: Duration,
    /// So many of a hundred servers at most. Where more should be, they go on, and that is said in the log.
    pub percent_max: u8,
    /// A reply with a status of 500 or more is a failure as well.
    pub on_server_errors: bool,
}

impl Default for Ejection {
    fn default() -> Ejection {
        Ejection {
            after: 5,
            time: Duration::from_secs(10),
            time_max: Duration::from_secs(300),
            percent_max: 50,
            on_server_errors: false,
        }
    }
}

/// Requests by which a proxy asks whether a server is up. Each is made by one worker, whichever comes first, and counts for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked for. A status of 200 to 399 is good.
    pub path: CheckPath,
    /// How often, a tenth more or less.
    pub every: Duration,
    /// How long the answer may take, once there is a connection.
    pub timeout: Duration,
    /// So many good ones in a row, and a server that is down is up.
    pub rise: u32,
    /// So many bad ones in a row, and a server that is up is down.
    pub fall: u32,
}

impl Check {
    /// The defaults, for this path.
    pub fn new(path: CheckPath) -> Check {
        let (every, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        Check { path, every, timeout, rise: 2, fall: 3 }
    }
}

/// A path that can stand in a request: it begins with a slash, and has neither blanks nor control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckPath(String);

impl CheckPath {
    /// As it stands in a request.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CheckPath {
    type Err = String;

    fn from_str(text: &str) -> Result<CheckPath, String> {
        let is_good =
            text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let problem = || format!("{text:?} is no path: it begins with / and has no blanks");
        is_good.then(|| CheckPath(text.to_owned())).ok_or_else(problem)
    }
}
