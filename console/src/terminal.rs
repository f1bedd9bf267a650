//! What the command writes for people, and for programs that read along: all of it but the log goes through here, and nothing
//! here can panic. `println!` does where a pipe is closed or a disk is full; clippy keeps it out.
//!
//! Standard output has what was asked for. A reader that has left (`| head`) has what it wanted: no error. Everything else that
//! keeps the text from it is one. Standard error has remarks and errors: where it takes none, there is nobody left to tell.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// Text did not get to standard output.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub struct NotWritten(io::Error);

/// Standard output, for text that comes in pieces between longer work, which goes on whatever becomes of the text.
#[derive(Default)]
pub struct Output {
    failed: Option<io::Error>,
}

impl Output {
    /// Writes a piece, unless an earlier one failed.
    pub fn write(&mut self, text: &str) {
        if self.failed.is_none() {
            let mut output = io::stdout().lock();
            self.failed = output.write_all(text.as_bytes()).and_then(|()| output.flush()).err();
        }
    }

    /// Tells what became of all of it.
    pub fn end(self) -> Result<(), NotWritten> {
        match self.failed {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(NotWritten(error)),
            _ => Ok(()),
        }
    }
}

/// Writes to standard output.
pub fn print(text: &str) -> Result<(), NotWritten> {
    let mut output = Output::default();
    output.write(text);
    output.end()
}

/// Writes a line to standard error.
pub fn remark(line: impl Display) {
    // In one piece, so that lines of several threads do not mix.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Says what keeps a command from doing what was asked.
pub fn error(error: impl Display) {
    remark(format_args!("ringmill: error: {error}"));
}

/// Overwrites the line on standard error that says how far a command is; only on a terminal.
pub fn progress(text: &str) {
    let mut errors = io::stderr();
    if errors.is_terminal() {
        let _ = errors.write_all(format!("\r\x1b[K{text}").as_bytes());
    }
}

/// Writes what the option parser has to say: help to standard output, what is wrong with the options to standard error.
pub fn usage(said: &clap::Error) -> ExitCode {
    let written = said.print().and_then(|()| io::stdout().flush());
    let told = if said.use_stderr() { Ok(()) } else { Output { failed: written.err() }.end() };
    match told {
        Ok(()) => ExitCode::from(u8::try_from(said.exit_code()).unwrap_or(2)),
        Err(not_written) => {
            error(not_written);
            ExitCode::FAILURE
        }
    }
}
