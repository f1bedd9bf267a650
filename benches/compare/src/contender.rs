//! The contenders: what each is, what it can and cannot do, and the command that starts it.

mod all;
pub(super) mod bun;
pub(super) mod gateway;
pub(super) mod nginx;

use super::h2load;
use super::identity::Identity;
use super::pinned::Starter;
use super::process::Launcher;
use super::profile::{Ask, Profile};
use super::results::ListenerOptions;
pub(super) use all::{BACKEND, CONTENDERS};
use anyhow::{Context, Result, bail};
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;

/// A server that can be compared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) kind: Kind,
    /// The package whose version says what is measured, as in the lock file of the peers.
    pub(super) package: Option<&'static str>,
    /// Part of `--quick`.
    quick: bool,
    /// Its TCP listener takes the options that were asked for.
    sets_options: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Our own executable with a driver.
    Ringmill { driver: &'static str },
    /// The same, without TLS where the others have it.
    RingmillPlain { driver: &'static str },
    /// The same, with its workers hosted by tokio.
    RingmillHosted { driver: &'static str },
    /// The same as a proxy that writes a line for each request.
    RingmillLogged { driver: &'static str },
    /// A program of the peers that counts bytes and parses nothing.
    Blind { program: &'static str },
    /// A UDP echo of the peers.
    Datagrams { program: &'static str },
    /// A program of the peers that serves the whole site.
    Site { program: &'static str },
    /// The same over TLS, and nothing else.
    SiteTls { program: &'static str },
    /// A program of the peers that serves the app of axum: the whole site, a handler that waits, and gRPC where it can.
    App { program: &'static str, arguments: &'static [&'static str], grpc: Grpc },
    /// The nginx that is installed.
    Nginx,
    /// A program of the peers that sends WebSocket messages back.
    Echo { program: &'static str },
    /// The program of the peers that sends what one WebSocket says to all of them.
    BlindFan { arguments: &'static [&'static str], deflates: bool },
    /// The Bun that is installed.
    Bun,
    /// The HAProxy that is installed; as a relay it may splice.
    Haproxy { splices: bool },
    /// Pingora, where it was built.
    Pingora,
    /// The program of the peers that passes bytes on and looks at none of them.
    BlindRelay { arguments: &'static [&'static str] },
}

/// How a program comes to speak gRPC, which is HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grpc {
    Never,
    /// A client that begins with it is understood.
    Always,
    /// It is told to, and speaks nothing else then.
    Told(&'static str),
}

const WEBSOCKET_ONLY: &str = "it speaks WebSocket only";
const NO_SITE: &str = "it passes on what others serve";

/// What the ratios are taken against.
pub(super) const BASELINE: &str = "ringmill";

impl Contender {
    pub(super) fn named(name: &str) -> Result<&'static Contender, String> {
        CONTENDERS.iter().find(|contender| contender.name == name).ok_or_else(|| {
            let names: Vec<&str> = CONTENDERS.iter().map(|contender| contender.name).collect();
            format!("there is no such contender; there are: {}", names.join(", "))
        })
    }

    pub(super) fn is_quick(&self) -> bool {
        self.quick
    }

    /// Why it takes no part in a profile; `None` when it does.
    pub(super) fn cannot(&self, profile: Profile) -> Option<&'static str> {
        use Profile::*;
        let is_plain = matches!(
            profile,
            KeepAlive64 | KeepAlive512 | Pipelined16 | OneRequest | TenRequests | Idle | NineFields
        );
        if profile.is_tls() {
            return self.cannot_tls(profile);
        }
        if matches!(profile, Pending | PendingIdle | GrpcUnary) {
            return self.cannot_app(profile);
        }
        if profile.is_websocket() {
            return self.cannot_websocket(profile);
        }
        if profile.has_backend() {
            return gateway::cannot(self, profile);
        }
        match self.kind {
            Kind::Echo { .. } | Kind::BlindFan { .. } | Kind::Bun => Some(WEBSOCKET_ONLY),
            Kind::Haproxy { .. } | Kind::Pingora | Kind::BlindRelay { .. } => Some(NO_SITE),
            Kind::Ringmill { .. } => None,
            Kind::RingmillPlain { .. } | Kind::RingmillLogged { .. } => Some("it is ringmill there"),
            Kind::RingmillHosted { .. } if matches!(profile, UdpEcho | Download | Upload | Mixed) => {
                Some("hosting costs something between small requests")
            }
            Kind::RingmillHosted { .. } => None,
            Kind::SiteTls { .. } => Some("it speaks TLS only"),
            Kind::Blind { .. } if is_plain => None,
            Kind::Blind { .. } => Some("it has one fixed reply"),
            Kind::Datagrams { .. } if profile == UdpEcho => None,
            Kind::Datagrams { .. } => Some("it speaks UDP only"),
            Kind::Site { program: "tokio_hand" } => None,
            Kind::Site { .. } | Kind::App { .. } if profile == UdpEcho => Some("it is an HTTP server"),
            Kind::Site { .. } | Kind::App { .. } => None,
            Kind::Nginx if profile == UdpEcho => Some("it is an HTTP server"),
            Kind::Nginx if profile == Upload => {
                Some("it cannot count what it receives without a program behind it")
            }
            Kind::Nginx => None,
        }
    }

    fn cannot_websocket(&self, profile: Profile) -> Option<&'static str> {
        let has_topics = profile.ask() != Ask::Echo;
        match self.kind {
            Kind::Ringmill { .. } | Kind::Bun => None,
            Kind::Echo { .. } if has_topics => Some("it has no topics"),
            Kind::Echo { .. } => None,
            Kind::BlindFan { .. } if !has_topics || profile.is_idle() => Some("it can do a fan-out only"),
            Kind::BlindFan { deflates: true, .. } if !profile.ask().is_compressed() => Some("it compresses"),
            Kind::BlindFan { deflates: false, .. } if profile.ask().is_compressed() => {
                Some("it does not compress")
            }
            Kind::BlindFan { .. } => None,
            Kind::RingmillPlain { .. } | Kind::RingmillLogged { .. } => Some("it is ringmill there"),
            Kind::RingmillHosted { .. } => Some("what hosting costs shows with HTTP"),
            _ => Some("no WebSocket of it is compared"),
        }
    }

    fn cannot_app(&self, profile: Profile) -> Option<&'static str> {
        match self.kind {
            Kind::App { grpc: Grpc::Never, .. } if profile == Profile::GrpcUnary => {
                Some("it is built for HTTP/1.1, as its README shows")
            }
            Kind::App { .. } => None,
            _ => Some("it does not serve the app"),
        }
    }

    /// The same, or what is missing on this machine.
    pub(super) fn cannot_here(&self, profile: Profile) -> Option<&'static str> {
        let missing =
            || (profile == Profile::GrpcUnary && h2load::program().is_none()).then_some(h2load::MISSING);
        self.cannot(profile).or_else(missing)
    }

    fn cannot_tls(&self, profile: Profile) -> Option<&'static str> {
        let is_to_compare = matches!(profile, Profile::TlsKeepAlive64 | Profile::Tls64k);
        match self.kind {
            Kind::Ringmill { .. } | Kind::SiteTls { .. } | Kind::Nginx => None,
            Kind::RingmillPlain { .. } if is_to_compare => None,
            Kind::RingmillPlain { .. } => Some("it makes no handshakes"),
            Kind::RingmillLogged { .. } => Some("it is ringmill there"),
            Kind::RingmillHosted { .. } => Some("it is ringmill there, hosted"),
            Kind::Blind { .. } | Kind::Datagrams { .. } | Kind::Site { .. } | Kind::App { .. } => {
                Some("it speaks no TLS")
            }
            Kind::Echo { .. } | Kind::BlindFan { .. } | Kind::Bun => Some(WEBSOCKET_ONLY),
            Kind::Haproxy { .. } | Kind::Pingora | Kind::BlindRelay { .. } => Some(NO_SITE),
        }
    }

    /// Whether it is asked over TLS.
    pub(super) fn is_secure(&self, profile: Profile) -> bool {
        profile.is_tls() && !matches!(self.kind, Kind::RingmillPlain { .. })
    }

    /// Why it cannot run with these settings at all.
    pub(super) fn cannot_with(&self, options: &ListenerOptions) -> Option<String> {
        // Neither option means anything to datagrams.
        let is_tcp = !matches!(self.kind, Kind::Datagrams { .. });
        if is_tcp && !options.is_default() && !self.sets_options {
            return Some("compare cannot set --congestion or --defer-accept for it".to_owned());
        }
        if self.kind == Kind::Nginx && nginx::program().is_none() {
            return Some("nginx is not installed (on Debian: apt-get install nginx)".to_owned());
        }
        if self.kind == Kind::Bun && bun::program().is_none() {
            return Some("bun is not installed (npm install --global bun)".to_owned());
        }
        gateway::missing(self).map(str::to_owned)
    }

    /// The program of the peers that has to be built.
    pub(super) fn program(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Blind { program }
            | Kind::Datagrams { program }
            | Kind::Site { program }
            | Kind::SiteTls { program }
            | Kind::Echo { program }
            | Kind::App { program, .. } => Some(program),
            Kind::BlindFan { .. } => Some("blind_fan"),
            Kind::BlindRelay { .. } => Some("blind_relay"),
            Kind::Ringmill { .. }
            | Kind::RingmillPlain { .. }
            | Kind::RingmillHosted { .. }
            | Kind::RingmillLogged { .. }
            | Kind::Nginx
            | Kind::Bun
            | Kind::Haproxy { .. }
            | Kind::Pingora => None,
        }
    }

    /// Our own executable, which need not be built.
    pub(super) fn is_ringmill(&self) -> bool {
        matches!(
            self.kind,
            Kind::Ringmill { .. }
                | Kind::RingmillPlain { .. }
                | Kind::RingmillHosted { .. }
                | Kind::RingmillLogged { .. }
        )
    }
}

/// What a start needs to know.
pub(super) struct Site<'a> {
    pub(super) launcher: &'a Launcher,
    /// Where the built peers are.
    pub(super) programs: &'a Path,
    /// The source of the peers: nginx's configuration is there.
    pub(super) peers: Option<&'a Path>,
    /// A folder for files that servers need.
    pub(super) scratch: &'a Path,
    pub(super) cpu: usize,
    pub(super) listener: &'a ListenerOptions,
    /// What servers with TLS show.
    pub(super) identity: Option<&'a Identity>,
    /// What proxies and relays stand in front of.
    pub(super) backend: Option<SocketAddrV4>,
    /// Size of the requests that blind responders count.
    pub(super) request_bytes: usize,
}

impl Contender {
    /// The command that starts it on `target`.
    pub(super) fn command(&self, site: &Site<'_>, profile: Profile, target: SocketAddrV4) -> Result<Command> {
        if profile.has_backend() {
            return gateway::command(self, site, profile, target);
        }
        let cpus = [site.cpu];
        let peer = |program: &str| {
            let mut command = site.launcher.command(&cpus, site.programs.join(program), Starter::Us);
            command.arg("--listen").arg(target.to_string());
            if self.sets_options {
                set_options(&mut command, site.listener, profile);
            }
            command
        };
        Ok(match self.kind {
            Kind::Ringmill { driver } | Kind::RingmillPlain { driver } | Kind::RingmillHosted { driver } => {
                let mut command = site.launcher.ringmill(&cpus, Starter::Us);
                command.args(["serve", "--workers", "1", "--driver", driver, "--pin"]);
                command.arg(site.cpu.to_string());
                if matches!(self.kind, Kind::RingmillHosted { .. }) {
                    command.arg("--tokio");
                }
                let unused = SocketAddrV4::new(*target.ip(), 0);
                if self.is_secure(profile) {
                    command.arg("--listen").arg(unused.to_string());
                    command.arg("--tls-listen").arg(target.to_string());
                    set_identity(&mut command, site)?;
                } else if profile.is_udp() {
                    command.arg("--listen").arg(unused.to_string());
                    command.arg("--udp-echo").arg(target.to_string());
                    // All load comes from one address, and the others have no limit.
                    command.args(["--udp-echo-rate", "0"]);
                } else {
                    command.arg("--listen").arg(target.to_string());
                }
                if profile.ask().is_compressed() {
                    command.arg("--ws-deflate");
                }
                set_options(&mut command, site.listener, profile);
                command
            }
            Kind::Blind { program } => {
                let mut command = peer(program);
                command.arg("--request-bytes").arg(site.request_bytes.to_string());
                command
            }
            Kind::Datagrams { program } => peer(program),
            Kind::Site { program } => {
                let mut command = peer(program);
                command.args(["--workers", "1"]);
                if profile.is_udp() {
                    command.arg("--udp");
                }
                command
            }
            Kind::SiteTls { program } => {
                let mut command = peer(program);
                command.args(["--workers", "1"]);
                set_identity(&mut command, site)?;
                command
            }
            Kind::App { program, arguments, grpc } => {
                let mut command = peer(program);
                command.args(["--workers", "1"]).args(arguments);
                if let (Grpc::Told(option), Profile::GrpcUnary) = (grpc, profile) {
                    command.arg(option);
                }
                command
            }
            Kind::Echo { program } => {
                let mut command = peer(program);
                command.args(["--workers", "1"]);
                command
            }
            Kind::BlindFan { arguments, .. } => {
                let mut command = peer("blind_fan");
                command.args(arguments);
                command
            }
            Kind::Nginx => nginx::command(site, profile, target)?,
            Kind::Bun => bun::command(site, profile, target)?,
            Kind::RingmillLogged { .. } | Kind::Haproxy { .. } | Kind::Pingora | Kind::BlindRelay { .. } => {
                bail!("{NO_SITE}")
            }
        })
    }
}

/// Ringmill and the peers have the same options.
fn set_identity(command: &mut Command, site: &Site<'_>) -> Result<()> {
    let identity = site.identity.context("no certificate was made")?;
    command.arg("--tls-cert").arg(&identity.cert).arg("--tls-key").arg(&identity.key);
    Ok(())
}

/// Ringmill and the peers have the same options. Idle connections would never be accepted if that were deferred.
fn set_options(command: &mut Command, options: &ListenerOptions, profile: Profile) {
    if let Some(name) = options.congestion.as_ref().filter(|_| !profile.is_udp()) {
        command.arg("--congestion").arg(name);
    }
    if let Some(seconds) = options.defer_accept_seconds.filter(|_| profile.is_about_tcp_requests()) {
        command.arg("--defer-accept").arg(format!("{seconds}s"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn names_are_found_and_bad_ones_list_the_good() {
        assert_eq!(Contender::named("axum").unwrap().program(), Some("axum_readme"));
        let error = Contender::named("express").unwrap_err();
        assert!(error.contains("actix-web") && error.contains("nginx"), "{error}");
    }

    #[test]
    fn a_listener_is_told_its_options_where_they_mean_something() {
        let options = ListenerOptions { congestion: Some("reno".to_owned()), defer_accept_seconds: Some(5) };
        let check = |profile, expected: &[&str]| {
            let mut command = Command::new("serve");
            set_options(&mut command, &options, profile);
            assert_eq!(command.get_args().collect::<Vec<_>>(), expected, "{}", Profile::name(profile));
        };
        check(Profile::OneRequest, &["--congestion", "reno", "--defer-accept", "5s"]);
        check(Profile::Idle, &["--congestion", "reno"]);
        check(Profile::UdpEcho, &[]);
        let nginx = Contender::named("nginx").unwrap();
        assert!(nginx.cannot_with(&options).is_some_and(|reason| reason.contains("--defer-accept")));
        assert_eq!(Contender::named("blind-udp").unwrap().cannot_with(&options), None);
    }

    #[test]
    fn ringmill_and_its_peers_are_told_what_a_profile_is() {
        let launcher = Launcher { ringmill: PathBuf::from("ringmill") };
        let listener = ListenerOptions { congestion: None, defer_accept_seconds: None };
        let here = Path::new(".");
        let folder = std::env::temp_dir().join(format!("ringmill-contender-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let identity = Identity::make(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let site = Site {
            launcher: &launcher,
            programs: here,
            peers: None,
            scratch: here,
            cpu: 0,
            listener: &listener,
            identity: Some(&identity),
            backend: Some(SocketAddrV4::new([127, 0, 0, 1].into(), 8)),
            request_bytes: 0,
        };
        let target = SocketAddrV4::new([127, 0, 0, 1].into(), 9);
        let arguments = |name, profile| {
            let command = Contender::named(name).unwrap().command(&site, profile, target).unwrap();
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        let udp = arguments("ringmill", Profile::UdpEcho);
        assert!(udp.contains("--udp-echo 127.0.0.1:9 --udp-echo-rate 0"), "{udp}");
        let plain = arguments("ringmill", Profile::OneRequest);
        assert!(!plain.contains("udp") && !plain.contains("tls"), "{plain}");
        let cert = identity.cert.display();
        let tls = arguments("ringmill", Profile::TlsHandshake);
        let expected = format!("--listen 127.0.0.1:0 --tls-listen 127.0.0.1:9 --tls-cert {cert} --tls-key ");
        assert!(tls.contains(&expected), "{tls}");
        let plain = arguments("ringmill-plain", Profile::TlsKeepAlive64);
        assert!(plain.contains("--listen 127.0.0.1:9") && !plain.contains("tls"), "{plain}");
        let peer = arguments("hyper-tls", Profile::TlsIdle);
        assert!(peer.contains(&format!("--listen 127.0.0.1:9 --workers 1 --tls-cert {cert}")), "{peer}");
        let hosted = arguments("ringmill-hosted-poll", Profile::OneRequest);
        assert!(hosted.contains("--driver poll --pin 0 --tokio --listen 127.0.0.1:9"), "{hosted}");
        let app = arguments("ringmill-axum", Profile::GrpcUnary);
        assert!(app.ends_with("--listen 127.0.0.1:9 --workers 1 --driver uring"), "{app}");
        let fan = arguments("ringmill", Profile::WsFanDeflate);
        assert!(fan.contains("--listen 127.0.0.1:9 --ws-deflate"), "{fan}");
        assert!(!arguments("ringmill", Profile::WsFan).contains("deflate"));
        let fan = arguments("blind-fan-uring", Profile::WsFan);
        assert!(fan.ends_with("blind_fan --listen 127.0.0.1:9 --uring"), "{fan}");
        let relay = arguments("blind-splice", Profile::Relay100);
        assert!(relay.ends_with("blind_relay --listen 127.0.0.1:9 --to 127.0.0.1:8 --splice"), "{relay}");
        for (profile, expected) in [(Profile::GrpcUnary, true), (Profile::Pending, false)] {
            assert_eq!(arguments("axum-percore", profile).ends_with(" --http2"), expected);
        }
    }

    #[test]
    fn every_profile_has_two_contenders_at_least() {
        for profile in Profile::ALL {
            let able = CONTENDERS.iter().filter(|contender| contender.cannot(profile).is_none()).count();
            assert!(able >= 3, "{}", profile.name());
        }
        for profile in Profile::QUICK {
            let able = |contender: &&Contender| contender.is_quick() && contender.cannot(profile).is_none();
            assert!(CONTENDERS.iter().filter(able).count() >= 3, "{}", profile.name());
        }
    }
}
