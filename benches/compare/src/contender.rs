//! The contenders: what each is, what it can and cannot do, and the command that starts it.

use super::h2load;
use super::identity::Identity;
use super::pinned::Starter;
use super::process::Launcher;
use super::profile::{DOWNLOAD_BYTES, LARGE_BYTES, MIXED_BYTES, Profile, pattern};
use super::results::ListenerOptions;
use anyhow::{Context, Result};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
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

/// What the ratios are taken against.
pub(super) const BASELINE: &str = "ringmill";

pub(super) static CONTENDERS: [Contender; 21] = [
    Contender {
        name: BASELINE,
        what: "Ringmill on io_uring",
        kind: Kind::Ringmill { driver: "uring" },
        package: None,
        quick: true,
        sets_options: true,
    },
    Contender {
        name: "ringmill-poll",
        what: "Ringmill on epoll",
        kind: Kind::Ringmill { driver: "poll" },
        package: None,
        quick: true,
        sets_options: true,
    },
    Contender {
        name: "ringmill-plain",
        what: "Ringmill on io_uring without TLS: what TLS costs",
        kind: Kind::RingmillPlain { driver: "uring" },
        package: None,
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "ringmill-hosted",
        what: "Ringmill on io_uring, its workers hosted by tokio: what that costs",
        kind: Kind::RingmillHosted { driver: "uring" },
        package: None,
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "ringmill-hosted-poll",
        what: "the same on epoll",
        kind: Kind::RingmillHosted { driver: "poll" },
        package: None,
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "ringmill-axum",
        what: "an app of axum on Ringmill on io_uring: the same as axum's and axum-percore's",
        kind: Kind::App { program: "ringmill_app", arguments: &["--driver", "uring"], grpc: Grpc::Always },
        package: None,
        quick: false,
        sets_options: false,
    },
    Contender {
        name: "ringmill-axum-poll",
        what: "the same on epoll",
        kind: Kind::App { program: "ringmill_app", arguments: &["--driver", "poll"], grpc: Grpc::Always },
        package: None,
        quick: false,
        sets_options: false,
    },
    Contender {
        name: "blind-uring",
        what: "the limit: one fixed reply for every N bytes, on io_uring; no server",
        kind: Kind::Blind { program: "blind_uring" },
        package: Some("io-uring"),
        quick: true,
        sets_options: true,
    },
    Contender {
        name: "blind-epoll",
        what: "the limit on epoll",
        kind: Kind::Blind { program: "blind_epoll" },
        package: None,
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "blind-udp",
        what: "the limit for UDP: recvmmsg and sendmmsg",
        kind: Kind::Datagrams { program: "blind_udp" },
        package: None,
        quick: false,
        sets_options: false,
    },
    Contender {
        name: "tokio",
        what: "tokio by hand with httparse, one current-thread runtime a worker",
        kind: Kind::Site { program: "tokio_hand" },
        package: Some("tokio"),
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "monoio",
        what: "monoio by hand with httparse, on io_uring",
        kind: Kind::Site { program: "monoio_hand" },
        package: Some("monoio"),
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "tokio-uring",
        what: "tokio-uring by hand with httparse",
        kind: Kind::Site { program: "tokio_uring_hand" },
        package: Some("tokio-uring"),
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "may-minihttp",
        what: "may_minihttp, stackful coroutines",
        kind: Kind::Site { program: "may_minihttp" },
        package: Some("may_minihttp"),
        quick: false,
        sets_options: false,
    },
    Contender {
        name: "hyper",
        what: "hyper on one current-thread tokio runtime a worker, with SO_REUSEPORT",
        kind: Kind::Site { program: "hyper_percore" },
        package: Some("hyper"),
        quick: true,
        sets_options: true,
    },
    Contender {
        name: "hyper-tls",
        what: "hyper on tokio-rustls with aws-lc-rs, one current-thread tokio runtime a worker",
        kind: Kind::SiteTls { program: "hyper_tls" },
        package: Some("tokio-rustls"),
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "ntex",
        what: "ntex on its own io_uring runtime (feature neon-uring)",
        kind: Kind::Site { program: "ntex_uring" },
        package: Some("ntex"),
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "actix-web",
        what: "actix-web",
        kind: Kind::Site { program: "actix_web" },
        package: Some("actix-web"),
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "axum",
        what: "axum as its README shows, on tokio's multi-threaded runtime",
        kind: Kind::App { program: "axum_readme", arguments: &[], grpc: Grpc::Never },
        package: Some("axum"),
        quick: true,
        sets_options: true,
    },
    Contender {
        name: "axum-percore",
        what: "the app of axum on hyper, one current-thread tokio runtime a worker, with SO_REUSEPORT",
        kind: Kind::App { program: "axum_percore", arguments: &[], grpc: Grpc::Told("--http2") },
        package: Some("hyper"),
        quick: false,
        sets_options: true,
    },
    Contender {
        name: "nginx",
        what: "nginx as installed, one process",
        kind: Kind::Nginx,
        package: None,
        quick: false,
        sets_options: false,
    },
];

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
        match self.kind {
            Kind::Ringmill { .. } => None,
            Kind::RingmillPlain { .. } => Some("it is ringmill there"),
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
            Kind::RingmillHosted { .. } => Some("it is ringmill there, hosted"),
            Kind::Blind { .. } | Kind::Datagrams { .. } | Kind::Site { .. } | Kind::App { .. } => {
                Some("it speaks no TLS")
            }
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
        if self.kind == Kind::Nginx && nginx().is_none() {
            return Some("nginx is not installed (on Debian: apt-get install nginx)".to_owned());
        }
        None
    }

    /// The program of the peers that has to be built.
    pub(super) fn program(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Blind { program }
            | Kind::Datagrams { program }
            | Kind::Site { program }
            | Kind::SiteTls { program }
            | Kind::App { program, .. } => Some(program),
            Kind::Ringmill { .. }
            | Kind::RingmillPlain { .. }
            | Kind::RingmillHosted { .. }
            | Kind::Nginx => None,
        }
    }

    /// Our own executable, which need not be built.
    pub(super) fn is_ringmill(&self) -> bool {
        matches!(self.kind, Kind::Ringmill { .. } | Kind::RingmillPlain { .. } | Kind::RingmillHosted { .. })
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
    /// Size of the requests that blind responders count.
    pub(super) request_bytes: usize,
}

impl Contender {
    /// The command that starts it on `target`.
    pub(super) fn command(&self, site: &Site<'_>, profile: Profile, target: SocketAddrV4) -> Result<Command> {
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
            Kind::Nginx => nginx_command(site, profile, target)?,
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

/// Where nginx is installed: in the path, or where distributions put servers.
pub(super) fn nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join("nginx")).find(|file| file.is_file())
}

/// Fills in the configuration of the peers, and writes the files that nginx serves.
fn nginx_command(site: &Site<'_>, profile: Profile, target: SocketAddrV4) -> Result<Command> {
    let program = nginx().context("nginx is not installed")?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
