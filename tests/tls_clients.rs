//! Clients that show certificates (mutual TLS), on both drivers and in both versions: good, none, unknown, expired, revoked.
#![cfg(feature = "cli")]

mod common;

use common::authority::*;
use common::http::*;
use common::program::{ringmill, run};
use common::*;
use rcgen::date_time_ymd;
use ringmill::{DriverChoice, Running, Tls, TlsConfig, TlsStore, http};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use std::sync::Arc;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Answers with how many certificates the client showed, and with whether the first is the expected one.
fn start(driver: DriverChoice, config: TlsConfig, expected: Vec<u8>) -> (Running, Arc<TlsStore>) {
    let store = TlsStore::new(config).expect("a sound configuration");
    let served = store.clone();
    let factory = move |_: &_| {
        let expected = expected.clone();
        let server = http::server(move |request: &http::Request<'_>, reply: &mut http::Reply<'_>| {
            let certificates = request.client_certificates();
            let is_expected = certificates.first() == Some(&expected);
            reply.text(&format!("{} {is_expected}", certificates.len()));
        });
        Tls::new(server, served.clone())
    };
    let builder = ringmill::Engine::builder().config(common::config(driver).with_workers(2));
    (builder.listen("127.0.0.1:0", factory).start().expect("the engine starts"), store)
}

/// What a request gets, or why there is none. In TLS 1.3 a client is refused after it thinks that all is well.
fn ask(running: &Running, client: &Arc<ClientConfig>) -> Result<(String, HandshakeKind), String> {
    let mut stream = secure(ip(&running.addresses()[0]), client, "localhost")?;
    std::io::Write::write_all(&mut stream, get("/").replace("Host", "Connection: close\r\nHost").as_bytes())
        .map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut text).map_err(|error| error.to_string())?;
    let body = String::from_utf8(text).unwrap().rsplit_once("\r\n\r\n").unwrap().1.to_owned();
    Ok((body, stream.conn.handshake_kind().unwrap()))
}

fn der(file: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(file).unwrap().to_vec()
}

#[test]
fn who_shows_a_good_certificate_comes_in_and_nobody_else() {
    on_both_drivers(|driver| {
        let (authority, other, stranger) =
            (Authority::new(), Authority::named("second"), Authority::named("stranger"));
        let [cert, key] = authority.files(&["localhost"]);
        let good = authority.files(&["good.client"]);
        let second = other.files(&["second.client"]);
        let expired =
            authority.files_with(&["expired.client"], |params| params.not_after = date_time_ymd(2021, 1, 1));
        let unknown = stranger.files(&["unknown.client"]);
        let config =
            TlsConfig::from_files(cert, key).with_client_ca(&authority.file).with_client_ca(&other.file);
        let (running, store) = start(driver, config, der(&good[0]));
        for version in VERSIONS {
            let check = |own: Option<&[String; 2]>, expected: Result<&str, &str>| {
                let answer = ask(&running, &authority.client_with(&[version], own)).map(|(body, _)| body);
                match (&answer, expected) {
                    (Ok(body), Ok(expected)) => assert_eq!(body, expected, "{version:?} {own:?}"),
                    (Err(error), Err(alert)) => assert!(error.contains(alert), "{error} is not {alert}"),
                    _ => panic!("{version:?} {own:?}: {answer:?}, not {expected:?}"),
                }
            };
            check(Some(&good), Ok("2 true"));
            check(Some(&second), Ok("2 false"));
            check(Some(&expired), Err("CertificateExpired"));
            check(Some(&unknown), Err("UnknownCA"));
            check(None, Err("CertificateRequired"));
        }
        let stats = store.stats();
        assert_eq!((stats.handshakes_full, stats.client_certificates), (4, 4), "{stats:?}");
        for alert in ["CertificateExpired", "UnknownCA", "CertificateRequired"] {
            assert_eq!(stats.alerts_sent.get(alert), Some(&2), "{stats:?}");
        }
        assert_eq!(stats.versions.values().copied().collect::<Vec<_>>(), [2, 2]);
    });
}

#[test]
fn a_certificate_may_be_left_out_where_it_is_optional_but_not_be_bad() {
    on_both_drivers(|driver| {
        let (authority, stranger) = (Authority::new(), Authority::named("stranger"));
        let [cert, key] = authority.files(&["localhost"]);
        let good = authority.files(&["good.client"]);
        let unknown = stranger.files(&["unknown.client"]);
        let config =
            TlsConfig::from_files(cert, key).with_client_optional(true).with_client_ca(&authority.file);
        let (running, _) = start(driver, config, der(&good[0]));
        for version in VERSIONS {
            let ask = |own| ask(&running, &authority.client_with(&[version], own)).map(|(body, _)| body);
            assert_eq!(ask(None).as_deref(), Ok("0 false"));
            assert_eq!(ask(Some(&good)).as_deref(), Ok("2 true"));
            assert!(ask(Some(&unknown)).is_err_and(|error| error.contains("UnknownCA")));
        }
    });
}

/// A ticket would let them in again without a look at the certificate.
#[test]
fn who_is_revoked_later_or_expires_does_not_come_in_again() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files_with(&["localhost"], |params| params.serial_number = None);
        let client = authority.files(&["a.client"]);
        let list = authority.crl("crl.pem", false);
        let config = TlsConfig::from_files(cert, key).with_client_ca(&authority.file).with_client_crl(&list);
        let (running, store) = start(driver, config, der(&client[0]));
        let clients = VERSIONS.map(|version| authority.client_with(&[version], Some(&client)));
        for client in &clients {
            for _ in 0..3 {
                assert_eq!(ask(&running, client), Ok(("2 true".to_owned(), HandshakeKind::Full)));
            }
        }
        assert_eq!(store.reload().ok(), Some(false), "nothing has changed");
        authority.crl("crl.pem", true);
        assert_eq!(store.reload().ok(), Some(true));
        for client in &clients {
            let answer = ask(&running, client);
            assert!(answer.as_ref().is_err_and(|error| error.contains("CertificateRevoked")), "{answer:?}");
        }
        let kinds: Vec<_> = store.terms().iter().map(|term| term.kind).collect();
        assert_eq!(kinds, ["certificate", "client CA", "revocation list"]);
    });
}

#[test]
fn an_authority_or_a_list_that_cannot_be_used_is_named() {
    let authority = Authority::new();
    let [cert, key] = authority.files(&["a.test"]);
    let (ca, list) = (authority.file.clone(), authority.crl("crl.pem", false));
    let broken = authority.write("broken", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    let check = |arguments: &[&str], expected: &[&str]| {
        let mut program = ringmill();
        program.args(["serve", "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"]);
        let (status, _, errors) = run({
            program.args(["--tls-cert", &cert, "--tls-key", &key]).args(arguments);
            program
        });
        assert_eq!(status, Some(1), "{arguments:?}: {errors}");
        for text in expected {
            assert!(errors.contains(text), "{arguments:?}: {text:?} is not in {errors}");
        }
    };
    check(&["--tls-client-ca", "/missing/ca"], &["/missing/ca: ", "check the path"]);
    check(&["--tls-client-ca", &list], &[&list, "no certificate in the file"]);
    check(&["--tls-client-ca", &ca, "--tls-crl", &ca], &[&ca, "no revocation list in the file"]);
    check(&["--tls-client-ca", &ca, "--tls-crl", &broken], &[&broken, "a revocation list cannot be used"]);
    check(&["--tls-crl", &list], &["a revocation list is given, and no client CA"]);
    check(&["--tls-client-optional"], &["no authority is given"]);
}

#[test]
fn more_authorities_than_a_client_can_be_told_of_are_not_told() {
    on_both_drivers(|driver| {
        let authority = Authority::new();
        let [cert, key] = authority.files(&["localhost"]);
        let client = authority.files(&["a.client"]);
        let name = "x".repeat(60);
        let others: String =
            (0..1100).map(|n| Authority::named(&format!("{n} {name}")).issuer.pem()).collect();
        let many = authority.write("many.pem", authority.issuer.pem() + &others);
        let config = TlsConfig::from_files(cert, key).with_client_ca(many);
        let (running, _) = start(driver, config, der(&client[0]));
        for version in VERSIONS {
            let client = authority.client_with(&[version], Some(&client));
            assert_eq!(ask(&running, &client).map(|(body, _)| body).as_deref(), Ok("2 true"));
        }
    });
}
