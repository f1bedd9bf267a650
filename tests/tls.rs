//! HTTPS over real sockets, on both drivers, with rustls as the client: certificates from files, by name, resumed on any worker; and
//! what is said of files that cannot be used.
#![cfg(feature = "cli")]

mod common;

use common::authority::*;
use common::http::*;
use common::program::{ringmill, run};
use common::*;
use ringmill::{DriverChoice, Echo, Running, Tls, TlsConfig, TlsStore, TlsVersion, http};
use rustls::HandshakeKind;
use std::io::Write;
use std::net::Shutdown;

fn https(driver: DriverChoice, workers: usize, config: TlsConfig) -> Running {
    let store = TlsStore::new(config).expect("a sound configuration");
    let factory = move |_: &_| {
        let server = http::server(|request, reply| match request.path() {
            "/panic" => panic!("on purpose"),
            "/big" => reply.body_shared(pattern(0, 1_000_000).into()),
            path if request.is_secured() => reply.text(path),
            _ => reply.status(500).text("this is no HTTPS"),
        });
        Tls::new(server, store.clone())
    };
    ringmill::Engine::builder()
        .config(common::config(driver).with_workers(workers))
        .listen("127.0.0.1:0", factory)
        .start()
        .expect("the engine starts")
}

#[test]
fn https_with_files_speaks_both_versions_and_a_client_resumes_on_any_worker() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let running = https(driver, 2, TlsConfig::from_files(cert, key));
        let address = ip(&running.addresses()[0]);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client = authority.client(&[version]);
            for n in 0..8 {
                let mut stream = secure(address, &client, "localhost").unwrap();
                stream.send(get("/one"));
                assert_eq!(receive(&mut stream).text(), "/one");
                stream.send(get("/two").replace("Host", "Connection: close\r\nHost"));
                let closed = ok("/two").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
                assert_eq!(undated(&stream.rest()), closed);
                let kind = if n == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
                assert_eq!(stream.conn.handshake_kind(), Some(kind), "{version:?} {n}");
            }
        }
    });
}

#[test]
fn an_absolute_target_may_say_https_where_the_connection_does() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let running = https(driver, 1, TlsConfig::from_files(cert, key));
        let client = authority.client(rustls::ALL_VERSIONS);
        let mut stream = secure(ip(&running.addresses()[0]), &client, "localhost").unwrap();
        for target in ["https://test/one", "HTTPS://TEST:443/one", "http://test/one"] {
            stream.send(get(target));
            assert_eq!(receive(&mut stream).text(), "/one", "{target}");
        }
        stream.send(get("https://else/"));
        assert_eq!(receive(&mut stream).status, 400);
    });
}

#[test]
fn replies_of_any_size_arrive_whole_and_a_panic_is_answered() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let running = https(driver, 1, TlsConfig::from_files(cert, key));
        let client = authority.client(rustls::ALL_VERSIONS);
        let mut stream = secure(ip(&running.addresses()[0]), &client, "localhost").unwrap();
        stream.send(get("/big").repeat(5));
        for _ in 0..5 {
            receive_head(&mut stream);
            expect_pattern(&mut stream, 1_000_000, 100_000);
        }
        stream.send(get("/panic"));
        assert_eq!(receive(&mut stream).status, 500);
        stream.expect_eof();
        assert_eq!(running.stats().total().panics, 1);
    });
}

#[test]
fn a_certificate_is_chosen_by_name() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["first.test", "127.0.0.1"]);
        let mut config = TlsConfig::from_files(cert, key);
        for names in [&["*.second.test"], &["exact.second.test"]] {
            let [cert, key] = authority.files(names);
            config = config.with_files(cert, key);
        }
        let running = https(driver, 1, config);
        let client = authority.client(rustls::ALL_VERSIONS);
        let check = |name, expected: bool| {
            let stream = secure(ip(&running.addresses()[0]), &client, name);
            let error = stream.map(drop).err().unwrap_or_default();
            assert_eq!(error.is_empty(), expected, "{name}: {error}");
        };
        check("first.test", true);
        check("FIRST.test", true);
        check("127.0.0.1", true);
        check("a.second.test", true);
        check("exact.second.test", true);
        // They are shown the first certificate, which is not theirs.
        check("second.test", false);
        check("a.b.second.test", false);
        check("else.test", false);
    });
}

#[test]
fn an_oldest_version_is_kept_to() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let running = https(driver, 1, TlsConfig::from_files(cert, key).with_version_min(TlsVersion::V1_3));
        let address = ip(&running.addresses()[0]);
        let refused = secure(address, &authority.client(&[&rustls::version::TLS12]), "localhost").map(drop);
        assert!(refused.as_ref().is_err_and(|error| error.contains("ProtocolVersion")), "{refused:?}");
        secure(address, &authority.client(&[&rustls::version::TLS13]), "localhost").unwrap();
    });
}

#[test]
fn an_end_is_told_from_a_cut() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let store = TlsStore::new(TlsConfig::from_files(cert, key)).unwrap();
        let running = ringmill::Engine::builder()
            .config(common::config(driver))
            .listen("127.0.0.1:0", move |_| Tls::new(Echo::default(), store.clone()))
            .start()
            .unwrap();
        let client = authority.client(rustls::ALL_VERSIONS);
        let connect = || {
            let mut stream = secure(ip(&running.addresses()[0]), &client, "localhost").unwrap();
            stream.ask(pattern(0, 100_000), pattern(0, 100_000));
            stream
        };
        // Its end as a half-close: what it has still to say comes back, and then our end.
        let mut stream = connect();
        stream.write_all(b"the last").unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_eq!(stream.rest(), b"the last");
        // The end of the transport alone.
        let stream = connect();
        stream.sock.shutdown(Shutdown::Write).unwrap();
        (&stream.sock).expect_reset();
    });
}

/// What the command says of files, and that it ends.
#[test]
fn files_that_cannot_be_used_are_named_with_the_reason_and_the_remedy() {
    let authority = Authority::new();
    let [cert, key] = authority.files(&["a.test"]);
    let [other_cert, other_key] = authority.files(&["b.test"]);
    let leaf_last =
        authority.write("leaf-last", authority.issuer.pem() + &std::fs::read_to_string(&cert).unwrap());
    let der = authority.write("der", authority.issuer.der());
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = authority.write("encrypted", encrypted);
    let cut = &std::fs::read(&cert).unwrap()[..200];
    let (empty, cut) = (authority.write("empty", ""), authority.write("cut", cut));
    let missing = authority.folder.file("missing");
    let check = |arguments: &[&str], expected: &[&str]| {
        let mut program = ringmill();
        program.args(["serve", "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"]).args(arguments);
        let (status, output, errors) = run(program);
        assert_eq!((status, output.as_str()), (Some(1), ""), "{arguments:?}: {errors}");
        for text in expected {
            assert!(errors.contains(text), "{arguments:?}: {text:?} is not in {errors}");
        }
    };
    let pair = |cert: &str, key: &str, file: &str, reason: &str, remedy: &str| {
        check(&["--tls-cert", cert, "--tls-key", key], &[&format!("{file}: "), reason, remedy]);
    };
    pair(&missing, &key, &missing, "No such file", "check the path");
    pair(&empty, &key, &empty, "the file is empty", "");
    pair(&der, &key, &der, "is DER, not PEM", "openssl x509 -inform DER");
    pair(&cut, &key, &cut, "malformed PEM", "copied as a whole");
    pair(&key, &cert, &key, "no certificate in the file", "exchanged");
    pair(&cert, &cert, &cert, "no private key in the file", "exchanged");
    pair(&cert, &encrypted, &encrypted, "no private key in the file", "openssl pkey -in");
    pair(&cert, &other_key, &other_key, "does not belong to the certificate", "in the same order");
    pair(&leaf_last, &key, &leaf_last, "is not the first in the file", "put it first");
    // All of them at once.
    let two = ["--tls-cert", &missing, "--tls-key", &key, "--tls-cert", &other_cert, "--tls-key", &empty];
    check(&two, &[&missing, &empty]);
    check(&["--tls-cert", &cert], &["1 of --tls-cert and 0 of --tls-key"]);
    check(&[], &["--tls-listen needs a certificate"]);
    check(&["--tls-self-signed", "not a name"], &["cannot make a certificate for", "localhost"]);
}

#[test]
fn serve_speaks_https_with_one_option_and_says_how_to_trust_it() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &["--tls-listen", "127.0.0.1:0", "--tls-self-signed"]);
        let address = server.address_after("TLS on ");
        let line = server.line_with("curl --insecure --pinnedpubkey sha256//").unwrap();
        assert!(line.ends_with(&format!("= https://{address}/")), "{line}");
        assert!(server.line_with("SHA-256 ").is_some());
        let mut plain = connect_to(address);
        plain.send(get("/"));
        let refused = receive(&mut plain);
        assert_eq!((refused.status, refused.body.last()), (400, Some(&b'\n')), "{}", refused.head);
        plain.expect_eof();
        // No client trusts it unasked.
        let client = Authority::new().client(rustls::ALL_VERSIONS);
        let refused = secure(address, &client, "localhost").map(drop);
        assert!(refused.as_ref().is_err_and(|error| error.contains("UnknownIssuer")), "{refused:?}");
    });
}

#[test]
fn serve_takes_pairs_of_files_and_variables_work_like_options() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let ([cert, key], [other_cert, other_key]) =
            (authority.files(&["a.test"]), authority.files(&["b.test"]));
        let mut command = ringmill();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--workers", "1", "--driver", &driver.to_string()])
            .env("RINGMILL_TLS_LISTEN", "127.0.0.1:0")
            .env("RINGMILL_TLS_CERT", format!("{cert},{other_cert}"))
            .env("RINGMILL_TLS_KEY", format!("{key},{other_key}"))
            .env("RINGMILL_TLS_MIN", "1.3");
        let server = Program::start(command, "worker(s) on CPU");
        let address = server.address_after("TLS on ");
        for name in ["a.test", "b.test"] {
            let mut stream = secure(address, &authority.client(rustls::ALL_VERSIONS), name).unwrap();
            stream.send(get("/plaintext"));
            assert_eq!(receive(&mut stream).text(), "Hello, World!");
            let old = secure(address, &authority.client(&[&rustls::version::TLS12]), name).map(drop);
            assert!(old.is_err(), "{name} over TLS 1.2");
        }
    });
}
