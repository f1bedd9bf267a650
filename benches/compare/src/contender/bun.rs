//! The Bun that is installed, and the program that it runs.

use super::super::pinned::Starter;
use super::super::profile::Profile;
use super::Site;
use anyhow::{Context, Result};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;

/// Where it is installed.
pub(crate) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("bun")).find(|file| file.is_file())
}

pub(super) fn command(site: &Site<'_>, profile: Profile, target: SocketAddrV4) -> Result<Command> {
    let program = program().context("bun is not installed")?;
    let script = site.peers.context("Bun's program is in benches/peers")?.join("bun.js");
    let mut command = site.launcher.command(&[site.cpu], program, Starter::Us);
    command.arg(script).arg(target.ip().to_string()).arg(target.port().to_string());
    if profile.ask().is_compressed() {
        command.arg("deflate");
    }
    Ok(command)
}

/// What it says that it is.
pub(crate) fn version() -> String {
    let said = program().and_then(|program| Command::new(program).arg("--version").output().ok());
    said.map_or_else(String::new, |output| format!("bun {}", String::from_utf8_lossy(&output.stdout).trim()))
}
