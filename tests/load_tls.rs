//! `ringmill load` of https:// targets, on both drivers: whom it trusts, what it reports of handshakes, and what it says when
//! something is wrong.
#![cfg(feature = "cli")]

mod common;

use common::authority::Authority;
use common::program::{Program, ringmill, run};
use common::{config, eventually, ip, on_both_drivers};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use ringmill::{DriverChoice, Running, Tls, TlsConfig, TlsStore, http};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

/// A server of rustls with a certificate for localhost. `asks` says whether it wants a certificate of ours.
fn server(
    authority: &Authority,
    asks: bool,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let [cert, key] = authority.files(&["localhost"]);
    let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = match asks {
        true => builder.with_client_cert_verifier(verifier.build().unwrap()),
        false => builder.with_no_client_auth(),
    };
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

fn https(driver: DriverChoice, tls: TlsConfig) -> (Running, String) {
    let store = TlsStore::new(tls).expect("a sound configuration");
    let running = ringmill::Engine::builder()
        .config(config(driver))
        .listen("127.0.0.1:0", move |_| Tls::new(http::server(|_, reply| reply.text("hello")), store.clone()))
        .start()
        .expect("the engine starts");
    let url = url(ip(&running.addresses()[0]));
    (running, url)
}

fn url(address: SocketAddr) -> String {
    format!("https://localhost:{}/", address.port())
}

fn load(driver: DriverChoice, url: &str, options: &[&str]) -> Command {
    let mut command = ringmill();
    command.args(["load", url, "--driver", &driver.to_string(), "--pin", "off", "--duration", "500ms"]);
    command.args(["--warmup", "100ms", "--connections", "8"]).args(options);
    // What this system trusts is not the test's.
    command.env("SSL_CERT_FILE", "/dev/null").env_remove("SSL_CERT_DIR");
    command
}

/// Runs it with `--json`: exit status and report.
#[track_caller]
fn report(driver: DriverChoice, url: &str, options: &[&str]) -> (Option<i32>, Value) {
    let mut command = load(driver, url, options);
    let (code, output, errors) = run({
        command.arg("--json");
        command
    });
    let report =
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output:?} {errors:?}"));
    (code, report)
}

#[track_caller]
fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {report:#}"))
}

#[track_caller]
fn float(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {report:#}"))
}

#[test]
fn client_and_server_count_the_same_over_tls() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        for (options, resumes) in [
            (&[][..], false),
            (&["--pipeline", "8", "--workers", "2"], false),
            (&["--rate", "300"], false),
            (&["--requests-per-connection", "1"], true),
            (&["--requests-per-connection", "3", "--workers", "2"], true),
            (&["--requests-per-connection", "1", "--no-resume"], false),
        ] {
            let (running, url) = https(driver, TlsConfig::from_files(&cert, &key));
            let options = [&["--cacert", &authority.file][..], options].concat();
            let (code, report) = report(driver, &url, &options);
            assert_eq!((code, number(&report, "/errors")), (Some(0), 0), "{options:?}: {report:#}");
            let total = || running.stats().total();
            eventually(0, || total().connections);
            let counted = (number(&report, "/requests_total"), number(&report, "/sent_total"));
            assert_eq!(counted, (total().requests, total().requests), "{options:?}");
            // One connection more: the first, which only looks whether all is well.
            assert_eq!(number(&report, "/connects") + 1, total().accepted, "{options:?}");
            assert_eq!(number(&report, "/tls/handshakes_total"), number(&report, "/connects"), "{options:?}");
            assert_eq!(report["tls"]["version"], "TLSv1.3");
            assert_eq!(report["tls"]["cipher_suite"], "TLS13_AES_256_GCM_SHA384");
            assert_eq!((&report["tls"]["alpn"], &report["url"]), (&"http/1.1".into(), &url.as_str().into()));
            let (made, resumed) = (number(&report, "/tls/handshakes"), number(&report, "/tls/resumed_total"));
            let share = float(&report, "/tls/resumed_share");
            if options.contains(&"--requests-per-connection") {
                let rate = made as f64 / float(&report, "/duration_seconds");
                assert!(made > 0 && (float(&report, "/tls/handshakes_per_second") - rate).abs() < 1.0);
            } else {
                assert_eq!(number(&report, "/tls/handshakes_total"), 8, "{report:#}");
            }
            // All but those of the start, and of those that find no ticket because the others have theirs in use.
            if resumes {
                let connects = number(&report, "/connects");
                assert!(2 * resumed > connects && resumed <= connects - 8, "{options:?}: {report:#}");
                assert!(share > 0.5, "{options:?}: {report:#}");
            } else {
                assert_eq!((resumed, share), (0, 0.0), "{options:?}: {report:#}");
            }
        }
    });
}

#[test]
fn a_server_is_checked_unless_that_is_waived_loudly() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let (_running, url) = https(driver, TlsConfig::from_files(cert, key));
        let check = |options: &[&str], trusted: &str, code: i32, words: &[&str]| {
            let mut command = load(driver, &url, options);
            command.env("SSL_CERT_FILE", trusted);
            let (status, output, errors) = run(command);
            assert_eq!(status, Some(code), "{options:?}: {errors}");
            assert_eq!(output.is_empty(), code != 0, "{options:?}: {output}");
            for word in words {
                assert!(errors.contains(word), "{options:?}: {word:?} is not in {errors}");
            }
        };
        check(&[], "/dev/null", 1, &["this system trusts no authority", "--cacert FILE", "--insecure"]);
        // The system's, as far as this process knows.
        check(&[], &authority.file, 0, &[]);
        let other = Authority::named("other");
        let [other_cert, _] = other.files(&["other.test"]);
        check(
            &[],
            &other_cert,
            1,
            &["invalid peer certificate: UnknownIssuer", "--cacert FILE", "--insecure"],
        );
        check(&["--cacert", &other.file, "--cacert", &authority.file], "/dev/null", 0, &[]);
        check(&["--insecure"], "/dev/null", 0, &["WARNING: --insecure takes any certificate"]);
        check(&["--cacert", "/missing/file"], "/dev/null", 1, &["/missing/file: No such file"]);
        // As `openssl req -x509` makes one.
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = KeyPair::generate().unwrap();
        let (own_cert, own_key) = (authority.folder.file("own.pem"), authority.folder.file("own.key"));
        std::fs::write(&own_cert, params.self_signed(&own).unwrap().pem()).unwrap();
        std::fs::write(&own_key, own.serialize_pem()).unwrap();
        let (_running, its_url) = https(driver, TlsConfig::from_files(&own_cert, own_key));
        let (status, _, errors) = run(load(driver, &its_url, &["--cacert", &own_cert]));
        assert!(status == Some(1) && errors.contains("CA:FALSE; --insecure takes"), "{errors}");
        let by_address = url.replace("localhost", "127.0.0.1");
        let (status, _, errors) = run(load(driver, &by_address, &["--cacert", &authority.file]));
        assert_eq!(status, Some(1));
        assert!(
            errors.contains("not valid for name \"127.0.0.1\"") && errors.contains("localhost"),
            "{errors}"
        );
    });
}

#[test]
fn serve_with_its_own_certificate_can_be_loaded() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &["--tls-listen", "127.0.0.1:0", "--tls-self-signed"]);
        let url = format!("https://{}/plaintext", server.address_after("TLS on "));
        let (code, output, errors) =
            run(load(driver, &url, &["--insecure", "--expect-body", "Hello, World!"]));
        assert_eq!(code, Some(0), "{output} {errors}");
        let lines = ["tls         TLSv1.3, TLS13_AES_256_GCM_SHA384, http/1.1\n", "\nhandshakes  "];
        for line in lines {
            assert!(output.contains(line), "{line:?} is not in {output}");
        }
        let plain = format!("https://{}/", server.http());
        let (code, _, errors) = run(load(driver, &plain, &["--insecure"]));
        assert!(code == Some(1) && errors.contains("does the server speak TLS on this port?"), "{errors}");
    });
}

#[test]
fn a_client_certificate_is_shown_to_who_asks_for_one() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["client.test"]);
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let tls = TlsConfig::custom(server(&authority, true, &[version]));
            let (_running, url) = https(driver, tls);
            let trust = ["--cacert", &authority.file];
            let options = [&trust[..], &["--cert", &cert, "--key", &key]].concat();
            let (code, report) = self::report(driver, &url, &options);
            assert_eq!((code, number(&report, "/errors")), (Some(0), 0), "{version:?}: {report:#}");
            if version == &rustls::version::TLS12 {
                // It says so before it is agreed on.
                let (code, _, errors) = run(load(driver, &url, &trust));
                assert!(code == Some(1) && errors.contains("--cert FILE --key FILE"), "{errors}");
                continue;
            }
            let (code, report) = self::report(driver, &url, &trust);
            assert_eq!((code, number(&report, "/requests_total")), (Some(1), 0), "{report:#}");
            assert!(number(&report, "/errors_by_kind/tls") > 0, "{report:#}");
            let first = report["first_error"].as_str().unwrap_or_default();
            assert!(first.contains("CertificateRequired (the server wants a client certificate"), "{first}");
        }
        // A key that is not the certificate's.
        let [_, other] = authority.files(&["other.test"]);
        let url = "https://localhost:1/";
        let options = ["--cacert", &authority.file, "--cert", &cert, "--key", &other];
        let (code, _, errors) = run(load(driver, url, &options));
        assert!(code == Some(1) && errors.contains("does not belong to the certificate"), "{errors}");
    });
}

/// A server that makes handshakes and then answers each connection like this.
fn rough(tls: Arc<ServerConfig>, answer: fn(StreamOwned<ServerConnection, TcpStream>)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = url(listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let tls = tls.clone();
            std::thread::spawn(move || {
                let mut stream = StreamOwned::new(ServerConnection::new(tls).unwrap(), stream.unwrap());
                // The first one only makes its handshake.
                if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
                    answer(stream);
                }
            });
        }
    });
    url
}

#[test]
fn a_stream_that_is_cut_is_an_error_where_only_its_end_says_that_it_is_whole() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let tls = server(&authority, false, rustls::ALL_VERSIONS);
        let check =
            |answer: fn(StreamOwned<ServerConnection, TcpStream>), kind: Option<&str>, words: &str| {
                let url = rough(tls.clone(), answer);
                let (code, report) = report(driver, &url, &["--cacert", &authority.file]);
                let Some(kind) = kind else {
                    assert_eq!((code, number(&report, "/errors")), (Some(0), 0), "{report:#}");
                    return;
                };
                assert_eq!((code, number(&report, "/requests_total")), (Some(1), 0), "{report:#}");
                assert_eq!(number(&report, &format!("/errors_by_kind/{kind}")), number(&report, "/errors"));
                let first = report["first_error"].as_str().unwrap_or_default();
                assert!(first.contains(words), "{words:?} is not in {first:?}");
            };
        check(
            |mut stream| {
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").unwrap();
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            },
            None,
            "",
        );
        // The end of the transport alone.
        check(
            |mut stream| stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").unwrap(),
            Some("closed"),
            "closed before the response was complete",
        );
        // What has a length is whole by itself.
        check(
            |mut stream| {
                let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
                stream.write_all(answer).unwrap();
            },
            None,
            "",
        );
        // No record of TLS.
        check(
            |mut stream| {
                stream.sock.write_all(&[b'x'; 100]).unwrap();
                let _ = stream.sock.read(&mut [0; 100]);
            },
            Some("tls"),
            "TLS: ",
        );
    });
}
