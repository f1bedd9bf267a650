//! What stands between clients and a backend: proxies (HTTP) and relays (bytes), each told in its own words to do the same. Their
//! configurations are in `gateway/`, whole; what is equal in them and what is not is in `benches/peers/README.md`.
//!
//! It never measures, and starts nothing itself.

use super::super::build;
use super::super::pinned::Starter;
use super::super::profile::Profile;
use super::{Contender, Kind, Site, nginx};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian keeps nginx's modules.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// Pingora is built by hand: with all that it needs it takes a quarter of an hour.
const PINGORA: &str = "benches/pingora/target/release/pingora_proxy";

/// Why a contender takes no part; `None` when it does.
pub(super) fn cannot(contender: &Contender, profile: Profile) -> Option<&'static str> {
    let relays = profile.is_relayed();
    match contender.kind {
        Kind::Nginx if relays && !Path::new(STREAM_MODULE).is_file() => {
            Some("nginx's module stream is not installed (on Debian: apt-get install libnginx-mod-stream)")
        }
        Kind::RingmillLogged { .. } if relays => Some("it is ringmill there"),
        Kind::Ringmill { .. } | Kind::RingmillLogged { .. } => None,
        Kind::Nginx | Kind::Haproxy { splices: false } => None,
        Kind::Haproxy { splices: true } | Kind::BlindRelay { .. } if relays => None,
        Kind::Haproxy { splices: true } => Some("it is haproxy there"),
        Kind::BlindRelay { .. } => Some("it reads no request"),
        Kind::Pingora if relays => Some("it is a proxy of HTTP"),
        Kind::Pingora => None,
        _ => Some("it passes nothing on"),
    }
}

/// Why it cannot run on this machine.
pub(super) fn missing(contender: &Contender) -> Option<&'static str> {
    match contender.kind {
        Kind::Haproxy { .. } if haproxy().is_none() => {
            Some("haproxy is not installed (on Debian: apt-get install haproxy)")
        }
        Kind::Pingora if pingora().is_none() => Some(
            "it is not built (cargo build --release --locked --manifest-path benches/pingora/Cargo.toml; it needs cmake, on \
             Debian: apt-get install cmake)",
        ),
        _ => None,
    }
}

/// The command that starts it on `target`, in front of the backend.
pub(super) fn command(
    contender: &Contender,
    site: &Site<'_>,
    profile: Profile,
    target: SocketAddrV4,
) -> Result<Command> {
    let backend = site.backend.context("there is no backend")?.to_string();
    ensure!(site.listener.is_default(), "compare sets --congestion or --defer-accept for no proxy");
    let root = site.scratch.join(contender.name);
    std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    // A configuration with its blanks filled in.
    let written = |name: &str, template: &str, blanks: &[(&str, &str)]| {
        let mut text = template.to_owned();
        let target = target.to_string();
        let all = [("@LISTEN@", &*target), ("@BACKEND@", &*backend), ("@ROOT@", &*root.to_string_lossy())];
        for (blank, value) in all.iter().chain(blanks) {
            text = text.replace(blank, value);
        }
        let file = root.join(name);
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
        anyhow::Ok(file)
    };
    let cpus = [site.cpu];
    let installed = |program: PathBuf| site.launcher.command(&cpus, program, Starter::Us);
    Ok(match contender.kind {
        Kind::Ringmill { driver } | Kind::RingmillLogged { driver } => {
            let log = match contender.kind {
                Kind::RingmillLogged { .. } => {
                    format!("[access_log]\nto = \"file:{}\"", root.join("access.log").display())
                }
                _ => String::new(),
            };
            let blanks = [("@CPU@", &*site.cpu.to_string()), ("@DRIVER@", driver), ("@LOG@", &*log)];
            let template = match profile.is_relayed() {
                true => include_str!("gateway/ringmill-tcp.toml"),
                false => include_str!("gateway/ringmill.toml"),
            };
            let file = written("ringmill.toml", template, &blanks)?;
            let mut command = site.launcher.ringmill(&cpus, Starter::Us);
            command.args(["serve", "--config"]).arg(file);
            command
        }
        Kind::Nginx => {
            let template = match profile.is_relayed() {
                true => include_str!("gateway/nginx-stream.conf"),
                false => include_str!("gateway/nginx.conf"),
            };
            let file = written("nginx.conf", template, &[("@MODULE@", STREAM_MODULE)])?;
            let mut command = installed(nginx::program().context("nginx is not installed")?);
            command.arg("-p").arg(&root).arg("-c").arg(file);
            command
        }
        Kind::Haproxy { splices } => {
            let template = match profile.is_relayed() {
                true => include_str!("gateway/haproxy-tcp.cfg"),
                false => include_str!("gateway/haproxy.cfg"),
            };
            let splice = if splices { "option splice-request\n    option splice-response" } else { "" };
            let file = written("haproxy.cfg", template, &[("@SPLICE@", splice)])?;
            let mut command = installed(haproxy().context("haproxy is not installed")?);
            command.arg("-f").arg(file);
            command
        }
        Kind::Pingora => {
            let mut command = installed(pingora().context("it is not built")?);
            command.arg(target.to_string()).arg(backend);
            command
        }
        Kind::BlindRelay { arguments } => {
            let mut command = installed(site.programs.join("blind_relay"));
            command.args(["--listen", &target.to_string(), "--to", &backend]).args(arguments);
            command
        }
        _ => anyhow::bail!("{} passes nothing on", contender.name),
    })
}

fn haproxy() -> Option<PathBuf> {
    nginx::installed("haproxy")
}

fn pingora() -> Option<PathBuf> {
    build::find(PINGORA)
}

/// What it says that it is, where it is one of these.
pub(crate) fn version(contender: &Contender) -> Option<String> {
    match contender.kind {
        Kind::Haproxy { .. } => {
            let said = Command::new(haproxy()?).arg("-v").output().ok()?;
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            // "HAProxy version 2.6.12-1 2026/10/17 - https://haproxy.org/"
            Some(said.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        }
        Kind::Pingora => {
            let lock = std::fs::read_to_string(build::find("benches/pingora/Cargo.lock")?).ok()?;
            Some(format!("pingora {}", build::parse_lock(&lock).get("pingora")?))
        }
        _ => None,
    }
}
