//! Headers as data: what each says, wherever it is cut, and that `ppp` reads the same.

use super::Network;
use super::header::read;
use super::told::{Outcome, Told};
use super::write::{Version, write_header, write_own_header};
use ppp::{PartialResult, v1, v2};
use proptest::prelude::*;
use ringmill_engine::{Address, Proxied, ProxiedSsl};
use std::net::{IpAddr, SocketAddr};

/// What a header says, in a line: its length, client and server, and what else it says.
fn show(outcome: &Outcome) -> String {
    let address =
        |address: &Option<Address>| address.as_ref().map_or("kernel".to_owned(), Address::to_string);
    match outcome {
        Outcome::Complete(bytes, Told { peer, local, proxied }) => {
            let more = proxied.as_ref().map(|proxied| format!(" {proxied:?}")).unwrap_or_default();
            format!("{bytes}: {} to {}{more}", address(peer), address(local))
        }
        Outcome::Partial(_) => "partial".to_owned(),
        Outcome::Missing => "missing".to_owned(),
        Outcome::Malformed(problem) => format!("malformed: {problem}"),
    }
}

/// Reads `bytes` at every cut: once there is a verdict, more bytes do not change it; and until then it asks for more than it
/// has, but never for more than the verdict needs. Returns the verdict.
fn read_at_every_cut(bytes: &[u8]) -> Outcome {
    let outcomes: Vec<Outcome> = (0..=bytes.len()).map(|cut| read(&bytes[..cut])).collect();
    let first = outcomes.iter().position(|outcome| !matches!(outcome, Outcome::Partial(_)));
    for (cut, outcome) in outcomes.iter().enumerate() {
        match (outcome, first) {
            (Outcome::Partial(need), first) if first.is_none_or(|first| cut < first) => {
                assert!(
                    *need > cut && first.is_none_or(|first| *need <= first),
                    "{need} at {cut} of {bytes:?}"
                );
            }
            (outcome, Some(first)) => assert_eq!(outcome, &outcomes[first], "cut at {cut}: {bytes:?}"),
            (outcome, None) => unreachable!("{outcome:?} is a verdict"),
        }
    }
    outcomes[first.unwrap_or(bytes.len())].clone()
}

/// The same with something behind it, and without.
#[track_caller]
fn check(bytes: &[u8], expected: &str) {
    assert_eq!(show(&read_at_every_cut(bytes)), expected, "{:?}", bytes.escape_ascii().to_string());
    if expected != "partial" {
        let followed = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(show(&read_at_every_cut(&followed)), expected, "with something behind it");
    }
    agrees_with_ppp(bytes);
}

const FULL: &str = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";

#[test]
fn version_1() {
    let words = "malformed: a line that has not its six words, each after one space";
    let address = "malformed: an address that is none of its family";
    let port = "malformed: a port that is not 0 to 65535 in plain digits";
    let alone = "malformed: a CR or LF alone in the line";
    let long = "malformed: no end of the line within 107 bytes";
    let family = "malformed: a protocol other than TCP4, TCP6 and UNKNOWN";
    let cases: &[(&str, &str)] = &[
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", "45: 192.0.2.1:56324 to 198.51.100.2:443"),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            "56: 255.255.255.255:65535 to 255.255.255.255:65535",
        ),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "32: 0.0.0.0:0 to 0.0.0.0:0"),
        ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "32: [2001:db8::1]:1 to [::1]:2"),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "37: [::ffff:192.0.2.1]:1 to [::1]:2"),
        (
            &format!("PROXY TCP6 {FULL} {FULL} 65535 65535\r\n"),
            &format!("104: [{FULL}]:65535 to [{FULL}]:65535"),
        ),
        ("PROXY UNKNOWN\r\n", "15: kernel to kernel"),
        ("PROXY UNKNOWN \r\n", "16: kernel to kernel"),
        ("PROXY UNKNOWN what ever it is\r\n", "31: kernel to kernel"),
        (&format!("PROXY UNKNOWN {FULL} {FULL} 65535 65535\r\n"), "107: kernel to kernel"),
        (&format!("PROXY UNKNOWN {FULL} {FULL} 65535 655350\r\n"), long),
        (&format!("PROXY UNKNOWN {FULL} {FULL} 65535 6553500"), long),
        (&format!("PROXY UNKNOWN {FULL} {FULL} 65535 655350"), "partial"),
        ("", "partial"),
        ("P", "partial"),
        ("PROXY", "partial"),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r", "partial"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "missing"),
        ("POST / HTTP/1.1\r\n", "missing"),
        ("proxy TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", "missing"),
        ("PROXY\tTCP4 192.0.2.1 198.51.100.2 56324 443\r\n", "missing"),
        ("PROXY\r\n", "missing"),
        (" PROXY UNKNOWN\r\n", "missing"),
        ("\r\nPROXY UNKNOWN\r\n", "missing"),
        ("PROXY \r\n", words),
        ("PROXY TCP4\r\n", words),
        ("PROXY UNKNOWNS\r\n", words),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n", words),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n", words),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 1\r\n", words),
        ("PROXY  TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", words),
        ("PROXY UDP4 192.0.2.1 198.51.100.2 56324 443\r\n", family),
        ("PROXY tcp4 192.0.2.1 198.51.100.2 56324 443\r\n", family),
        ("PROXY TCP4 192.0.2.256 198.51.100.2 56324 443\r\n", address),
        ("PROXY TCP4 192.0.02.1 198.51.100.2 56324 443\r\n", address),
        ("PROXY TCP4 192.0.2.1 198.51.2 56324 443\r\n", address),
        ("PROXY TCP4 ::1 ::1 56324 443\r\n", address),
        ("PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n", address),
        ("PROXY TCP6 fe80::1%lo ::1 56324 443\r\n", address),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n", port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 0443\r\n", port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 00\r\n", port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 +80 443\r\n", port),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n", port),
        ("PROXY TCP4 192.0.2.1  56324 443\r\n", address),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n", alone),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\rX", alone),
        ("PROXY UNKNOWN \n\r\n", alone),
        ("PROXY UNKNOWN \r\r\n", alone),
    ];
    for (line, expected) in cases {
        check(line.as_bytes(), expected);
    }
    check(b"PROXY TCP4 192.0.2.\xff 198.51.100.2 56324 443\r\n", "malformed: a line that is not text");
    check(b"PROXY UNKNOWN \xff\0\r\n", "18: kernel to kernel");
}

/// A header of version 2.
fn v2(version_command: u8, family_transport: u8, block: &[u8]) -> Vec<u8> {
    let fixed = [version_command, family_transport];
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &fixed, &(block.len() as u16).to_be_bytes(), block].concat()
}

fn vector(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];
const V4_SAID: &str = "192.0.2.1:56324 to 198.51.100.2:443";

fn unix(source: &[u8], target: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 216];
    block[..source.len()].copy_from_slice(source);
    block[108..108 + target.len()].copy_from_slice(target);
    block
}

#[test]
fn version_2() {
    let v6: Vec<u8> = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 15], &[1], &[0, 1, 0, 2]].concat();
    let cut = "malformed: addresses that are cut";
    let undefined = "malformed: a family or transport that is not defined";
    let cases: &[(Vec<u8>, &str)] = &[
        (v2(0x21, 0x11, &V4), &format!("28: {V4_SAID}")),
        (v2(0x21, 0x21, &v6), "52: [2001:db8::1]:1 to [::1]:2"),
        (v2(0x21, 0x31, &unix(b"/run/a", b"\0b")), "232: unix:/run/a to unix:@b"),
        (v2(0x21, 0x31, &unix(b"", &[b'x'; 108])), &format!("232: unix: to unix:{}", "x".repeat(108))),
        // Not streams, or not said what: the kernel's addresses.
        (v2(0x21, 0x12, &V4), "28: kernel to kernel"),
        (v2(0x21, 0x22, &v6), "52: kernel to kernel"),
        (v2(0x21, 0x32, &unix(b"/run/a", b"\0b")), "232: kernel to kernel"),
        (v2(0x21, 0x00, b""), "16: kernel to kernel"),
        (v2(0x21, 0x00, b"whatever"), "24: kernel to kernel"),
        (v2(0x21, 0x10, &V4[..8]), "24: kernel to kernel"),
        (v2(0x21, 0x01, b"12345678"), "24: kernel to kernel"),
        // LOCAL: everything behind the length is skipped.
        (v2(0x20, 0x00, b""), "16: kernel to kernel"),
        (v2(0x20, 0x11, b""), "16: kernel to kernel"),
        (v2(0x20, 0xff, b"whatever"), "24: kernel to kernel"),
        (v2(0x20, 0x11, &V4), "28: kernel to kernel"),
        (v2(0x21, 0x11, &V4[..11]), cut),
        (v2(0x21, 0x11, b""), cut),
        (v2(0x21, 0x21, &v6[..35]), cut),
        (v2(0x21, 0x31, &[0; 215]), cut),
        (v2(0x21, 0x12, &V4[..11]), cut),
        (v2(0x21, 0x41, &V4), undefined),
        (v2(0x21, 0x13, &V4), undefined),
        (v2(0x22, 0x11, &V4), "malformed: a command other than LOCAL and PROXY"),
        (v2(0x11, 0x11, &V4), "malformed: a version other than 2"),
        (v2(0x31, 0x11, &V4), "malformed: a version other than 2"),
        (v2(0x21, 0x00, &[0; 4080]), "4096: kernel to kernel"),
        (v2(0x21, 0x00, &[0; 4081]), "malformed: a header of more than 4096 bytes"),
        (v2(0x20, 0x00, &[0; 4081]), "malformed: a header of more than 4096 bytes"),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), "missing"),
        (b"\r\n\r\n\x01".to_vec(), "missing"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec(), "partial"),
        (v2(0x21, 0x11, &V4)[..27].to_vec(), "partial"),
    ];
    for (bytes, expected) in cases {
        check(bytes, expected);
    }
}

#[track_caller]
fn check_vectors(vectors: &[Vec<u8>], expected: Result<Proxied, &str>) {
    let bytes = v2(0x21, 0x11, &[&V4[..], &vectors.concat()].concat());
    let expected = match expected {
        Ok(proxied) if proxied == Proxied::default() => format!("{}: {V4_SAID}", bytes.len()),
        Ok(proxied) => format!("{}: {V4_SAID} {proxied:?}", bytes.len()),
        Err(problem) => format!("malformed: {problem}"),
    };
    check(&bytes, &expected);
}

#[test]
fn vectors() {
    let none = Proxied::default;
    check_vectors(&[vector(0x01, b"h2")], Ok(Proxied { alpn: Some(b"h2".to_vec()), ..none() }));
    check_vectors(&[vector(0x02, b"a.test")], Ok(Proxied { authority: Some("a.test".to_owned()), ..none() }));
    check_vectors(&[vector(0x05, &[7; 128])], Ok(Proxied { unique_id: Some(vec![7; 128]), ..none() }));
    let both = Proxied { alpn: Some(b"h2".to_vec()), authority: Some(String::new()), ..none() };
    check_vectors(&[vector(0x02, b""), vector(0x04, b"padding"), vector(0x01, b"h2")], Ok(both));
    // What is not known is skipped, as often as it comes: NOOP, a name space, an application's own.
    check_vectors(
        &[vector(0x04, b""), vector(0x04, b"x"), vector(0x30, b"ns"), vector(0xe0, b"\xff")],
        Ok(none()),
    );
    check_vectors(&[vector(0x05, &[7; 129])], Err("a unique id of more than 128 bytes"));
    check_vectors(&[vector(0x02, b"\xff")], Err("a text that is not UTF-8"));
    for kind in [0x01, 0x02, 0x05] {
        check_vectors(&[vector(kind, b"a"), vector(kind, b"a")], Err("two vectors of one type"));
    }
    for vectors in [&b"\x01"[..], b"\x01\0", b"\x01\0\x03h2", b"\x04\xff\xff"] {
        check_vectors(&[vectors.to_vec()], Err("a vector that is cut"));
    }
    // A client that is no stream has them as well.
    let bytes = v2(0x21, 0x12, &[&V4[..], &vector(0x01, b"h3")].concat());
    check(&bytes, &format!("33: kernel to kernel {:?}", Proxied { alpn: Some(b"h3".to_vec()), ..none() }));
}

#[test]
fn vectors_about_tls() {
    let ssl = |client: u8, verify: [u8; 4], inner: &[Vec<u8>]| {
        vector(0x20, &[&[client][..], &verify, &inner.concat()].concat())
    };
    let said = |ssl: ProxiedSsl| Ok(Proxied { ssl: Some(ssl), ..Proxied::default() });
    let none = ProxiedSsl::default;
    let whole =
        [vector(0x21, b"TLSv1.3"), vector(0x22, b"J\xc3\xb6rg"), vector(0x23, b"X"), vector(0x24, b"RSA")];
    let all = ProxiedSsl {
        is_client_verified: true,
        version: Some("TLSv1.3".to_owned()),
        cipher: Some("X".to_owned()),
        common_name: Some("J\u{f6}rg".to_owned()),
    };
    check_vectors(&[ssl(7, [0; 4], &whole)], said(all.clone()));
    check_vectors(&[ssl(1, [0; 4], &whole)], said(ProxiedSsl { is_client_verified: false, ..all.clone() }));
    check_vectors(
        &[ssl(7, [0, 0, 0, 18], &whole)],
        said(ProxiedSsl { is_client_verified: false, ..all.clone() }),
    );
    for certificate in [3, 5] {
        check_vectors(
            &[ssl(certificate, [0; 4], &[])],
            said(ProxiedSsl { is_client_verified: true, ..none() }),
        );
    }
    check_vectors(&[ssl(1, [0; 4], &[])], said(none()));
    // The client's connection is a plain one.
    check_vectors(&[ssl(0, [0; 4], &[])], Ok(Proxied::default()));
    check_vectors(&[ssl(6, [0; 4], &whole)], Ok(Proxied::default()));
    check_vectors(&[ssl(0, [0; 4], &[]), ssl(1, [0; 4], &[])], Err("two vectors of one type"));
    check_vectors(
        &[ssl(1, [0; 4], &[vector(0x21, b"a"), vector(0x21, b"a")])],
        Err("two vectors of one type"),
    );
    check_vectors(&[ssl(1, [0; 4], &[vector(0x22, b"\xff")])], Err("a text that is not UTF-8"));
    check_vectors(&[ssl(1, [0; 4], &[b"\x21\0\x02x".to_vec()])], Err("a vector that is cut"));
    check_vectors(&[vector(0x20, &[1, 0, 0, 0])], Err("an SSL vector that is cut"));
}

/// The checksum of RFC 3720, appendix B.4, over 32 zero bytes, and the one of "123456789", say that it is the right one.
#[test]
fn checksums() {
    assert_eq!(super::binary::crc32c(&[&[0; 32]]), 0x8a91_36aa);
    assert_eq!(super::binary::crc32c(&[b"1234", b"56789"]), 0xe306_9283);
    let around = |checksum: &[u8]| {
        let vectors = [vector(0x01, b"h2"), vector(0x03, checksum), vector(0x02, b"a")].concat();
        v2(0x21, 0x11, &[&V4[..], &vectors].concat())
    };
    let sum = super::binary::crc32c(&[&around(&[0; 4])]);
    let said = Proxied { alpn: Some(b"h2".to_vec()), authority: Some("a".to_owned()), ..Proxied::default() };
    check(&around(&sum.to_be_bytes()), &format!("44: {V4_SAID} {said:?}"));
    check(&around(&(sum ^ 1).to_be_bytes()), "malformed: a checksum that is wrong");
    check(&around(&sum.to_be_bytes()[..3]), "malformed: a checksum that is not four bytes");
    let mut other = around(&sum.to_be_bytes());
    other[16] ^= 1;
    check(&other, "malformed: a checksum that is wrong");
    check_vectors(&[vector(0x03, &[0; 4]), vector(0x03, &[0; 4])], Err("a checksum that is wrong"));
}

/// What `ppp` takes, we take for the same, or are stricter; what we take, it takes, or it is stricter than the specification.
fn agrees_with_ppp(bytes: &[u8]) {
    let ours = match read(bytes) {
        Outcome::Complete(length, told) => Some((length, told)),
        _ => None,
    };
    let ip = |ip: IpAddr, port| Some(Address::Ip(SocketAddr::new(ip, port)));
    match (ppp::HeaderResult::parse(bytes), ours) {
        (ppp::HeaderResult::V1(Ok(header)), ours) => {
            let (peer, local) = match header.addresses {
                v1::Addresses::Unknown => (None, None),
                v1::Addresses::Tcp4(a) => (
                    ip(a.source_address.into(), a.source_port),
                    ip(a.destination_address.into(), a.destination_port),
                ),
                v1::Addresses::Tcp6(a) => (
                    ip(a.source_address.into(), a.source_port),
                    ip(a.destination_address.into(), a.destination_port),
                ),
            };
            let theirs = (header.header.len(), Told { peer, local, proxied: None });
            // It takes a sign before a port, and a line feed inside.
            let is_loose =
                header.header.contains('+') || header.header.trim_end_matches("\r\n").contains('\n');
            assert!(ours == Some(theirs) || (ours.is_none() && is_loose), "{bytes:?}: {ours:?}");
        }
        (ppp::HeaderResult::V2(Ok(header)), ours) => {
            let is_told = header.command == v2::Command::Proxy && header.protocol == v2::Protocol::Stream;
            let (peer, local) = match header.addresses {
                v2::Addresses::IPv4(a) if is_told => (
                    ip(a.source_address.into(), a.source_port),
                    ip(a.destination_address.into(), a.destination_port),
                ),
                v2::Addresses::IPv6(a) if is_told => (
                    ip(a.source_address.into(), a.source_port),
                    ip(a.destination_address.into(), a.destination_port),
                ),
                _ => (None, None),
            };
            let is_ip = !matches!(header.addresses, v2::Addresses::Unix(_));
            match ours {
                Some((length, told)) => {
                    assert_eq!(length, header.len(), "{bytes:?}");
                    assert!(!is_ip || (told.peer, told.local) == (peer, local), "{bytes:?}");
                }
                // It looks into no vector, and has no limit of its own.
                None => assert!(header.length() > 12, "{bytes:?}"),
            }
        }
        // It wants text behind UNKNOWN; and with LOCAL, or a transport that is not said, a family with its addresses.
        (_, Some(_)) => {
            let has_none = |bytes: &[u8]| bytes[12] == 0x20 || bytes[13] & 0xf == 0;
            assert!(bytes.starts_with(b"PROXY UNKNOWN") || has_none(bytes), "{bytes:?}");
        }
        (result, None) => {
            let _ = result.is_incomplete();
        }
    }
}

/// A header that is right, and up to three of its bytes changed, or anything.
fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET".as_bytes().to_vec()),
        Just("PROXY TCP6 2001:db8::1 ::1 1 2\r\n".as_bytes().to_vec()),
        Just("PROXY UNKNOWN a b c\r\n".as_bytes().to_vec()),
    ];
    let binary = (0x1fu8..0x23, any::<u8>(), prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(version_command, family, block)| v2(version_command, family % 0x44, &block));
    let with_vectors = prop::collection::vec((0u8..0x26, prop::collection::vec(any::<u8>(), 0..20)), 0..6)
        .prop_map(|vectors| {
            let vectors: Vec<Vec<u8>> = vectors.iter().map(|(kind, value)| vector(*kind, value)).collect();
            v2(0x21, 0x11, &[&V4[..], &vectors.concat()].concat())
        });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let whole = prop_oneof![line, binary, with_vectors];
    let changed = (whole, changes).prop_map(|(mut bytes, changes)| {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes
    });
    prop_oneof![9 => changed, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_comes_has_one_verdict_at_every_cut(bytes in nearly_a_header()) {
        read_at_every_cut(&bytes);
        for cut in 0..=bytes.len() {
            agrees_with_ppp(&bytes[..cut]);
        }
    }
}

#[test]
fn networks() {
    let check = |network: &str, peer: &str, is_in: bool| {
        let network: Network = network.parse().unwrap();
        assert_eq!(network.contains(&peer.parse().unwrap()), is_in, "{network:?} {peer}");
    };
    check("10.0.0.0/8", "10.255.0.1:1", true);
    check("10.0.0.0/8", "11.0.0.1:1", false);
    check("10.0.0.0/8", "[::ffff:10.1.2.3]:1", true);
    check("10.0.0.0/8", "[::1]:1", false);
    check("127.0.0.1", "127.0.0.1:9", true);
    check("127.0.0.1", "127.0.0.2:9", false);
    check("0.0.0.0/0", "127.0.0.2:9", true);
    check("0.0.0.0/0", "[::1]:9", false);
    check("2001:db8::/32", "[2001:db8:ffff::1]:9", true);
    check("2001:db8::/32", "[2001:db9::1]:9", false);
    check("::1", "[::1]:9", true);
    check("unix", "unix:/run/x", true);
    check("unix", "unix:@x", true);
    check("unix", "127.0.0.1:9", false);
    check("0.0.0.0/0", "unix:/run/x", false);
    for text in
        ["", "10.0.0.0/33", "10.0.0/8", "10.0.0.1/8", "2001:db8::1/32", "::ffff:10.0.0.0/104", "host", "Unix"]
    {
        assert!(text.parse::<Network>().is_err(), "{text}");
    }
    let problem = "10.0.0.1/8".parse::<Network>().unwrap_err().to_string();
    assert!(problem.contains("10.0.0.0/8") && problem.contains("10.0.0.1 for that address"), "{problem}");
}

/// What is written is read again as it was meant, by us and by `ppp`.
#[test]
fn written_headers() {
    let address = |text: &str| (text != "-").then(|| text.parse::<Address>().unwrap());
    let check = |ends: [&str; 2], authority, one: &str, two: &str| {
        let [peer, local] = ends.map(address);
        for (version, expected) in [(Version::One, one), (Version::Two, two)] {
            let mut header = Vec::new();
            write_header(version, peer.as_ref(), local.as_ref(), authority, &mut header);
            super::tests::check(&header, &format!("{}: {expected}", header.len()));
        }
    };
    let ipv4 = "192.0.2.1:65535 to 198.51.100.2:80";
    check(["192.0.2.1:65535", "198.51.100.2:80"], None, ipv4, ipv4);
    check(["[::ffff:192.0.2.1]:65535", "[::ffff:198.51.100.2]:80"], None, ipv4, ipv4);
    let ipv6 = "[2001:db8::1]:1 to [::1]:2";
    check(["[2001:db8::1]:1", "[::1]:2"], None, ipv6, ipv6);
    let mixed = "[::ffff:192.0.2.1]:1 to [::1]:2";
    check(["192.0.2.1:1", "[::1]:2"], None, mixed, mixed);
    let unknown = "kernel to kernel";
    check(["unix:/run/a.sock", "unix:@b"], None, unknown, "unix:/run/a.sock to unix:@b");
    check(["192.0.2.1:1", "-"], Some("a.example"), unknown, unknown);
    check(["unix:/run/a.sock", "192.0.2.1:1"], None, unknown, unknown);
    check([&format!("unix:/{}", "x".repeat(108)), "unix:/b"], None, unknown, unknown);
    for (version, bytes) in [(Version::One, 15), (Version::Two, 16)] {
        let mut header = Vec::new();
        write_own_header(version, &mut header);
        super::tests::check(&header, &format!("{bytes}: {unknown}"));
    }
    let named = Proxied { authority: Some("a.example".to_owned()), ..Proxied::default() };
    check(
        ["192.0.2.1:1", "192.0.2.2:2"],
        Some("a.example"),
        "192.0.2.1:1 to 192.0.2.2:2",
        &format!("192.0.2.1:1 to 192.0.2.2:2 {named:?}"),
    );
}
