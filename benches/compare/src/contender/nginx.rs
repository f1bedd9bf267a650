//! The nginx that is installed: where it is, its configuration, and the files that it serves.

use super::super::identity::Identity;
use super::super::pinned::Starter;
use super::super::profile::{DOWNLOAD_BYTES, LARGE_BYTES, MIXED_BYTES, Profile, pattern};
use super::Site;
use anyhow::{Context, Result};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;

/// Where nginx is installed: in the path, or where distributions put servers.
pub(crate) fn program() -> Option<PathBuf> {
    installed("nginx")
}

/// Where a server is installed.
pub(super) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Fills in the configuration of the peers, and writes the files that nginx serves.
pub(super) fn command(site: &Site<'_>, profile: Profile, target: SocketAddrV4) -> Result<Command> {
    let program = program().context("nginx is not installed")?;
    let template = site.peers.context("nginx's configuration is in benches/peers")?.join("nginx.conf");
    let template = std::fs::read_to_string(&template).with_context(|| template.display().to_string())?;
    let root = site.scratch.join("nginx");
    let bytes = root.join("bytes");
    std::fs::create_dir_all(&bytes).with_context(|| bytes.display().to_string())?;
    for size in MIXED_BYTES.into_iter().chain([LARGE_BYTES, DOWNLOAD_BYTES]) {
        let file = bytes.join(size.to_string());
        std::fs::write(&file, pattern(size)).with_context(|| file.display().to_string())?;
    }
    let (tls, certificate) = match site.identity.filter(|_| profile.is_tls()) {
        Some(Identity { cert, key, .. }) => {
            let files = format!(
                "ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate \"{}\"; ssl_certificate_key \"{}\";",
                cert.display(),
                key.display()
            );
            ("ssl", files)
        }
        None => ("", String::new()),
    };
    let configuration = template
        .replace("@TLS@", tls)
        .replace("@CERTIFICATE@", &certificate)
        .replace("@LISTEN@", &target.to_string())
        .replace("@ROOT@", &root.to_string_lossy())
        .replace("@PID@", &root.join("pid").to_string_lossy());
    let file = root.join("nginx.conf");
    std::fs::write(&file, configuration).with_context(|| file.display().to_string())?;
    let mut command = site.launcher.command(&[site.cpu], program, Starter::Us);
    command.arg("-p").arg(&root).arg("-c").arg(file);
    Ok(command)
}

/// What it says that it is.
pub(crate) fn version() -> String {
    let program = program().unwrap_or_else(|| PathBuf::from("nginx"));
    // It says so on standard error.
    let said = Command::new(program).arg("-v").output();
    said.map(|output| String::from_utf8_lossy(&output.stderr).trim().replace("nginx version: ", ""))
        .unwrap_or_default()
}
