//! Writes the secrets of connections to a file, for debugging: with them, whoever has recorded the traffic can read it.

use super::config::Problem;
use rustls::KeyLog;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A file in the format of NSS, which Wireshark reads; each line is one write, so that workers do not cut each other's lines.
#[derive(Debug)]
pub(super) struct KeyLogFile(File);

impl KeyLogFile {
    /// Appends to what is there. A new file is for its owner only, and so must be one that is there.
    pub(super) fn open(file: &Path) -> Result<KeyLogFile, Problem> {
        if std::fs::metadata(file).is_ok_and(|data| !data.is_file() || data.mode() & 0o077 != 0) {
            let remedy = format!("chmod 600 {}, or give another file", file.display());
            return Err(Problem::of(
                file,
                "secrets go only into a regular file that is its owner's alone",
                remedy,
            ));
        }
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(file);
        let remedy = "the user that runs the server must be able to write it";
        opened.map(KeyLogFile).map_err(|error| Problem::of(file, error, remedy))
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = String::with_capacity(label.len() + 2 * (client_random.len() + secret.len()) + 3);
        line.push_str(label);
        for bytes in [client_random, secret] {
            line.push(' ');
            for byte in bytes {
                // A String takes all that is written to it.
                let _ = write!(line, "{byte:02x}");
            }
        }
        line.push('\n');
        if let Err(error) = (&self.0).write_all(line.as_bytes()) {
            tracing::debug!(%error, "the key log cannot be written");
        }
    }
}
