//! Certificates that change while they are served, on both drivers: new ones are taken, bad ones are not, and nobody notices.
#![cfg(feature = "cli")]

mod common;

use common::authority::*;
use common::http::*;
use common::program::ringmill;
use common::*;
use rcgen::date_time_ymd;
use ringmill::{DriverChoice, Running, Tls, TlsConfig, TlsStore, http};
use rustls::ClientConfig;
use std::ffi::CStr;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

fn start(driver: DriverChoice, store: &Arc<TlsStore>) -> Running {
    let store = store.clone();
    let factory = move |_: &_| Tls::new(http::server(|_, reply| reply.text("ok")), store.clone());
    let builder = ringmill::Engine::builder().config(common::config(driver).with_workers(2));
    builder.listen("127.0.0.1:0", factory).start().expect("the engine starts")
}

/// Whether a new client is shown a certificate for this name.
fn has_name(address: SocketAddr, client: &Arc<ClientConfig>, name: &'static str) -> bool {
    secure(address, client, name).is_ok()
}

/// Replaces what is at a path by what is at another.
fn rename(from: &str, to: &str) {
    std::fs::rename(from, to).unwrap();
}

#[test]
fn new_files_are_taken_and_bad_ones_are_not() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["first.test"]);
        let store = TlsStore::new(TlsConfig::from_files(&cert, &key)).unwrap();
        let running = start(driver, &store);
        let address = ip(&running.addresses()[0]);
        let client = authority.client(rustls::ALL_VERSIONS);
        let mut old = secure(address, &client, "first.test").unwrap();

        let [second_cert, second_key] = authority.files(&["second.test"]);
        rename(&second_cert, &cert);
        let refused = store.reload().expect_err("the key is the first one's").to_string();
        assert!(refused.contains(&key) && refused.contains("does not belong"), "{refused}");
        assert!(has_name(address, &client, "first.test"));
        rename(&second_key, &key);
        assert_eq!(store.reload().ok(), Some(true));
        assert_eq!(store.reload().ok(), Some(false));
        assert!(has_name(address, &client, "second.test") && !has_name(address, &client, "first.test"));
        // Who came before stays.
        old.send(get("/"));
        assert_eq!(receive(&mut old).text(), "ok");

        let out_of_term = |change: fn(&mut rcgen::CertificateParams), expected: &str| {
            let [bad_cert, bad_key] = authority.files_with(&["third.test"], change);
            rename(&bad_cert, &cert);
            rename(&bad_key, &key);
            let refused = store.reload().expect_err("it does not hold now").to_string();
            assert!(refused.contains(&cert) && refused.contains(expected), "{refused}");
            assert!(has_name(address, &client, "second.test"));
        };
        out_of_term(|params| params.not_after = date_time_ymd(2021, 1, 1), "has expired");
        out_of_term(|params| params.not_before = date_time_ymd(2100, 1, 1), "does not hold yet");
        std::fs::remove_file(&cert).unwrap();
        assert!(store.reload().is_err());
        assert!(has_name(address, &client, "second.test"));
        let stats = store.stats();
        assert_eq!((stats.reloads, stats.reloads_failed), (1, 4));
    });
}

#[test]
fn a_certificate_that_is_served_and_expires_keeps_nothing_else_from_changing() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [old_cert, old_key] =
            authority.files_with(&["old.test"], |params| params.not_after = date_time_ymd(2021, 1, 1));
        let [cert, key] = authority.files(&["first.test"]);
        let store =
            TlsStore::new(TlsConfig::from_files(&old_cert, &old_key).with_files(&cert, &key)).unwrap();
        let running = start(driver, &store);
        let address = ip(&running.addresses()[0]);
        let client = authority.client(rustls::ALL_VERSIONS);
        for (from, to) in authority.files(&["second.test"]).iter().zip([&cert, &key]) {
            rename(from, to);
        }
        assert_eq!(store.reload().ok(), Some(true));
        assert!(has_name(address, &client, "second.test"));
    });
}

#[test]
fn what_is_no_regular_file_is_refused_and_an_order_to_end_does_not_wait_for_files() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["a.test"]);
        let files = ["--tls-listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
        let mut server = Program::serve(driver, &files);
        std::fs::remove_file(&cert).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&cert).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo is part of every system");
        server.signal(libc::SIGHUP);
        server.expect_line("it is no regular file");
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
    });
}

#[test]
fn changes_are_noticed_by_rename_and_by_symbolic_link() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        // As Kubernetes does it: files are links into a folder that is a link, which is replaced.
        let folder = |n: usize, name: &str| {
            let folder = authority.folder.file(&format!("data{n}"));
            std::fs::create_dir(&folder).unwrap();
            for (from, to) in authority.files(&[name]).iter().zip(["cert", "key"]) {
                rename(from, &format!("{folder}/{to}"));
            }
            folder
        };
        let [data, next] = ["data", "next"].map(|name| authority.folder.file(name));
        symlink(folder(1, "first.test"), &data).unwrap();
        let [cert, key] = ["cert", "key"].map(|name| {
            let link = authority.folder.file(name);
            symlink(format!("{data}/{name}"), &link).unwrap();
            link
        });
        let store = TlsStore::new(TlsConfig::from_files(&cert, &key)).unwrap();
        store.watch(Duration::from_millis(20)).unwrap();
        let running = start(driver, &store);
        let address = ip(&running.addresses()[0]);
        let client = authority.client(rustls::ALL_VERSIONS);
        assert!(has_name(address, &client, "first.test"));

        symlink(folder(2, "second.test"), &next).unwrap();
        rename(&next, &data);
        eventually(true, || has_name(address, &client, "second.test"));

        // Broken, which is said once, and whole again.
        let whole = std::fs::read(format!("{data}/cert")).unwrap();
        std::fs::write(format!("{data}/cert"), &whole[..200]).unwrap();
        eventually(1, || store.stats().reloads_failed);
        assert!(has_name(address, &client, "second.test"));
        for (from, to) in authority.files(&["third.test"]).iter().zip(["cert", "key"]) {
            rename(from, &format!("{data}/{to}"));
        }
        eventually(true, || has_name(address, &client, "third.test"));
        assert_eq!(store.stats().reloads_failed, 1);
    });
}

#[test]
fn no_request_fails_while_certificates_change() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let store = TlsStore::new(TlsConfig::from_files(&cert, &key)).unwrap();
        let running = start(driver, &store);
        let address = ip(&running.addresses()[0]);
        let (ends, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
                let client = authority.client(&[version]);
                let (ends, answered) = (&ends, &answered);
                scope.spawn(move || {
                    while !ends.load(Relaxed) {
                        let mut stream = secure(address, &client, "localhost").expect("a handshake");
                        for _ in 0..3 {
                            stream.send(get("/"));
                            assert_eq!(receive(&mut stream).text(), "ok");
                            answered.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
            for n in 1..=20 {
                let before = answered.load(Relaxed);
                eventually(true, || answered.load(Relaxed) > before + 5);
                for (from, to) in authority.files(&["localhost", "n.test"]).iter().zip([&cert, &key]) {
                    rename(from, to);
                }
                assert_eq!(store.reload().ok(), Some(true), "reload {n}");
            }
            ends.store(true, Relaxed);
        });
        assert_eq!(store.stats().reloads, 20);
        assert_eq!(running.stats().total().failures, 0);
    });
}

#[test]
fn serve_reloads_on_sighup_tells_of_it_in_stats_and_drains_on_sigterm() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["first.test"]);
        let key_log = authority.folder.file("keys");
        let files = ["--tls-cert", &cert, "--tls-key", &key, "--tls-watch", "1h", "--tls-key-log", &key_log];
        let mut arguments = vec!["--tls-listen", "127.0.0.1:0"];
        arguments.extend(files);
        let mut server = Program::serve(driver, &arguments);
        server.expect_line("whoever has it can read the traffic");
        let address = server.address_after("TLS on ");
        let client = authority.client(rustls::ALL_VERSIONS);
        server.signal(libc::SIGHUP);
        server.expect_line("hold the same as before");
        for (from, to) in authority.files(&["second.test"]).iter().zip([&cert, &key]) {
            rename(from, to);
        }
        server.signal(libc::SIGHUP);
        server.expect_line("were read again: second.test until ");
        std::fs::write(&key, "").unwrap();
        server.signal(libc::SIGHUP);
        server.expect_line("the last good ones stay: ");
        let mut stream = secure(address, &client, "second.test").unwrap();
        stream.send(get("/stats"));
        let stats: serde_json::Value = serde_json::from_str(receive(&mut stream).text()).unwrap();
        let tls = &stats["tls"];
        assert_eq!((tls["reloads"].as_u64(), tls["reloads_failed"].as_u64()), (Some(1), Some(1)), "{tls}");
        assert_eq!(tls["versions"]["TLSv1.3"].as_u64(), Some(1), "{tls}");
        assert_eq!(tls["certificates"][0]["subject"].as_str(), Some("second.test"), "{tls}");
        assert!(tls["certificates"][0]["seconds_left"].as_i64().is_some_and(|left| left > 0), "{tls}");
        let secrets = std::fs::read_to_string(&key_log).unwrap();
        assert!(secrets.contains("CLIENT_TRAFFIC_SECRET_0 "), "{secrets}");
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
    });
}

#[test]
fn a_terminal_that_closes_drains_even_where_there_is_something_to_reload() {
    let authority = Authority::new();
    let [cert, key] = authority.files(&["a.test"]);
    let terminal = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
    let fd = terminal.as_raw_fd();
    // SAFETY: the descriptor is open.
    assert_eq!(unsafe { libc::unlockpt(fd) }, 0);
    let mut name = [0; 64];
    // SAFETY: the name has as much room as is said.
    assert_eq!(unsafe { libc::ptsname_r(fd, name.as_mut_ptr().cast(), name.len()) }, 0);
    let name = CStr::from_bytes_until_nul(&name).unwrap().to_str().unwrap();
    let side = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
    let mut command = ringmill();
    command.args(["serve", "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0", "--workers", "1"]);
    command.args(["--tls-cert", &cert, "--tls-key", &key]);
    let fd = side.as_raw_fd();
    let take_terminal = move || {
        // SAFETY: it may be called between fork and exec.
        let is_alone = unsafe { libc::setsid() } != -1;
        // SAFETY: so may this.
        let is_taken = is_alone && unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 0) } == 0;
        if is_taken { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(take_terminal) };
    let mut server = Program::start(command, "worker(s) on CPU");
    server.signal(libc::SIGHUP);
    server.expect_line("hold the same as before");
    drop((terminal, side));
    server.expect_line("draining");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn plain_http_is_sent_on_to_https() {
    on_both_drivers(|driver| {
        let arguments = ["--tls-listen", "127.0.0.1:0", "--tls-self-signed", "--https-redirect", "8443"];
        let server = Program::serve(driver, &arguments);
        let mut client = connect_to(server.http());
        let mut check = |request: &str, status: u16, location: Option<&str>| {
            client.send(request);
            let answer = receive(&mut client);
            assert_eq!((answer.status, answer.field("location")), (status, location), "{request}");
        };
        check(&get("/a?b=c"), 308, Some("https://test:8443/a?b=c"));
        check(&post("/upload", "four"), 308, Some("https://test:8443/upload"));
        check("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 400, None);
        check(&get("/health").replace("test", "[::1]:80"), 308, Some("https://[::1]:8443/health"));
    });
    let mut command = ringmill();
    command.args(["serve", "--listen", "127.0.0.1:0", "--https-redirect"]);
    let (status, _, errors) = program::run(command);
    assert_eq!(status, Some(1));
    assert!(errors.contains("--https-redirect needs a certificate"), "{errors}");
}
