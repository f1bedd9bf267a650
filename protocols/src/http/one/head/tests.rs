//! Heads as data: what each is read as, however it is cut.

use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits =
    HeadLimits { request_line_bytes_max: 8 << 10, head_bytes_max: 16 << 10, fields_max: FIELDS_MAX };

/// One line for a verdict: `METHOD path?query version host framing keep|close [continue] [upgrade] [https]`.
fn verdict(input: &[u8], limits: &HeadLimits) -> String {
    let mut slots = Slots::new();
    let head = match parse_head(input, &mut slots, limits) {
        Outcome::Partial => return "partial".into(),
        Outcome::Malformed(reject) => return format!("{} {reject:?}", reject.status()),
        Outcome::Complete { head, .. } => head,
    };
    let query = head.query.map(|query| format!("?{}", query.as_str())).unwrap_or_default();
    let version = if head.version == Version::Http11 { "1.1" } else { "1.0" };
    let framing = match head.framing {
        Framing::None => "none".into(),
        Framing::Length(length) => format!("length={length}"),
        Framing::Chunked => "chunked".into(),
    };
    let keep = if head.keep_alive { "keep" } else { "close" };
    let expect = if head.expect == Expect::Continue { " continue" } else { "" };
    let upgrade = if head.upgrade { " upgrade" } else { "" };
    let https = if head.is_https { " https" } else { "" };
    let (method, host) = (head.method.as_str(), head.host.map_or("-", Ascii::as_str));
    format!(
        "{method} {}{query} {version} {host} {framing} {keep}{expect}{upgrade}{https}",
        head.path.as_str()
    )
}

/// The law of split invariance: a prefix is partial or already has the verdict, and a verdict stays.
fn check_cuts(input: &[u8], limits: &HeadLimits) {
    let whole = verdict(input, limits);
    let (mut decided, mut searched) = (false, 0);
    let mut dripped = String::from("partial");
    for cut in 0..=input.len() {
        let prefix = verdict(&input[..cut], limits);
        assert!(prefix == whole || (prefix == "partial" && !decided), "{prefix} at {cut}, then {whole}");
        decided = prefix != "partial";
        // A session that parses a dripping head only when it is told to.
        if dripped == "partial" && (cut == 0 || verdict_due(&input[..cut], searched, limits)) {
            dripped = prefix;
        }
        searched = cut;
    }
    let is_full = whole == "431 HeadLong";
    let is_refused = !is_full && whole.starts_with(|first: char| first.is_ascii_digit());
    assert!(dripped == whole || is_refused && dripped == "partial", "dripped {dripped}, whole {whole}");
    if decided {
        let longer = [input, b" \r\n\r\n\0\n"].concat();
        assert_eq!(verdict(&longer, limits), whole, "what follows a verdict changed it");
    }
}

#[track_caller]
fn check_with(limits: &HeadLimits, input: impl AsRef<[u8]>, expected: &str) {
    let input = input.as_ref();
    assert_eq!(verdict(input, limits), expected, "{:?}", input.escape_ascii().to_string());
    check_cuts(input, limits);
}

/// A whole head.
#[track_caller]
fn check(input: impl AsRef<[u8]>, expected: &str) {
    check_with(&LIMITS, input, expected);
}

/// A request line before one Host field.
#[track_caller]
fn check_line(line: impl AsRef<[u8]>, expected: &str) {
    check([line.as_ref(), b"\r\nHost: a\r\n\r\n"].concat(), expected);
}

/// Field lines of an HTTP/1.1 request, Host among them.
#[track_caller]
fn check_host(lines: impl AsRef<[u8]>, expected: &str) {
    check([b"GET / HTTP/1.1\r\n", lines.as_ref(), b"\r\n\r\n"].concat(), expected);
}

/// Field lines after Host in an HTTP/1.1 request.
#[track_caller]
fn check_fields(lines: impl AsRef<[u8]>, expected: &str) {
    check([b"POST / HTTP/1.1\r\nHost: a\r\n", lines.as_ref(), b"\r\n\r\n"].concat(), expected);
}

/// Field lines of an HTTP/1.0 request.
#[track_caller]
fn check_fields_10(lines: impl AsRef<[u8]>, expected: &str) {
    check([b"POST / HTTP/1.0\r\n", lines.as_ref(), b"\r\n\r\n"].concat(), expected);
}

#[test]
fn lines_rfc9112_section_2_2() {
    check("", "partial");
    check("GET / HTTP/1.1\r\nHost: a\r\n", "partial");
    check("GET / HTTP/1.1\r\nHost: a\r\n\r", "partial");
    check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / 1.1 a none keep");
    check("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next", "GET / 1.1 a none keep");
    check("\r", "partial");
    check("\r\n", "partial");
    check("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / 1.1 a none keep");
    check("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 EmptyLines");
    check("\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 EmptyLines");
    check("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 BareLf");
    check("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 BareCr");
    check("\r\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 BareCr");
    check("GET / HTTP/1.1\nHost: a\r\n\r\n", "400 BareLf");
    check("GET / HTTP/1.1\r\nHost: a\n\r\n", "400 BareLf");
    check("GET / HTTP/1.1\r\nHost: a\r\nB: c\nD: e\r\n\r\n", "400 BareLf");
    check("GET / HTTP/1.1\r\nHost: a\r\n\n", "400 BareLf");
    check("GET / HTTP/1.1\nHost: a\n\n", "400 BareLf");
    check("GET / HTTP/1.1\n\n", "400 BareLf");
    check("GET / HTTP/1.1\rHost: a\r\n\r\n", "400 BareCr");
    check("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "400 BareCr");
    check("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "400 BareCr");
    check("GET / HTTP/1.1\r\nHost: a\r\n\rX", "400 BareCr");
    check("GET / HTTP/1.1\r\nHost: a\r\nB: c\rd\r\n\r\n", "400 BareCr");
}

#[test]
fn methods_rfc9112_section_3_1() {
    check_line("GET / HTTP/1.1", "GET / 1.1 a none keep");
    check_line("HEAD / HTTP/1.1", "HEAD / 1.1 a none keep");
    check_line("POST / HTTP/1.1", "POST / 1.1 a none keep");
    check_line("PUT / HTTP/1.1", "PUT / 1.1 a none keep");
    check_line("DELETE / HTTP/1.1", "DELETE / 1.1 a none keep");
    check_line("OPTIONS / HTTP/1.1", "OPTIONS / 1.1 a none keep");
    check_line("PATCH / HTTP/1.1", "PATCH / 1.1 a none keep");
    check_line("TRACE / HTTP/1.1", "TRACE / 1.1 a none keep");
    check_line("get / HTTP/1.1", "get / 1.1 a none keep"); // another method: case matters
    check_line("M-SEARCH!#$%&'*+.^_`|~ / HTTP/1.1", "M-SEARCH!#$%&'*+.^_`|~ / 1.1 a none keep");
    check_line(" GET / HTTP/1.1", "400 MethodMalformed");
    check_line("G@T / HTTP/1.1", "400 MethodMalformed");
    check_line("GET\t/ HTTP/1.1", "400 MethodMalformed");
    check_line("GET", "400 MethodMalformed");
    check_line("G\0T / HTTP/1.1", "400 MethodMalformed");
    check_line("GÉT / HTTP/1.1", "400 MethodMalformed");
    check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400 MethodMalformed"); // TLS ClientHello
}

#[test]
fn method_is_an_enum_of_its_token() {
    assert_eq!(Method::from_token(b"GET"), Method::Get);
    assert_eq!(Method::from_token(b"CONNECT"), Method::Connect);
    assert_eq!(Method::from_token(b"Get"), Method::Other("Get"));
}

#[test]
fn origin_form_rfc9112_section_3_2_1() {
    check_line("GET /a/b HTTP/1.1", "GET /a/b 1.1 a none keep");
    check_line("GET /a?b=c&d HTTP/1.1", "GET /a?b=c&d 1.1 a none keep");
    check_line("GET /? HTTP/1.1", "GET /? 1.1 a none keep");
    check_line("GET /a?b?c HTTP/1.1", "GET /a?b?c 1.1 a none keep");
    check_line(
        "GET /abcdefgh?ijklmnopqrstuvwxyz? HTTP/1.1",
        "GET /abcdefgh?ijklmnopqrstuvwxyz? 1.1 a none keep",
    );
    check_line("GET //a//b HTTP/1.1", "GET //a//b 1.1 a none keep");
    check_line("GET /%2e%00/../x HTTP/1.1", "GET /%2e%00/../x 1.1 a none keep"); // decoding is not done here
    check_line("GET /\"<>[]\\^`{|}* HTTP/1.1", "GET /\"<>[]\\^`{|}* 1.1 a none keep"); // seen in the field
    check_line("GET  / HTTP/1.1", "400 TargetEmpty");
    check_line("GET /a b HTTP/1.1", "400 VersionMalformed");
    check_line("GET /a#b HTTP/1.1", "400 TargetFragment");
    check_line("GET /a?b#c HTTP/1.1", "400 TargetFragment");
    check_line("GET /é HTTP/1.1", "400 TargetNotAscii");
    check_line("GET /12345678?é HTTP/1.1", "400 TargetNotAscii");
    check_line(b"GET /\xff HTTP/1.1", "400 TargetNotAscii");
    check_line("GET /a\tb HTTP/1.1", "400 TargetByte");
    check_line("GET /a\0b HTTP/1.1", "400 TargetByte");
    check_line("GET /a\x7fb HTTP/1.1", "400 TargetByte");
    check_line("GET a HTTP/1.1", "400 TargetForm");
    check_line("GET a/b HTTP/1.1", "400 TargetForm");
    check_line("GET ?a HTTP/1.1", "400 TargetForm");
    check_line("GET \\a HTTP/1.1", "400 TargetForm");
}

#[test]
fn absolute_form_rfc9112_section_3_2_2() {
    check_line("GET http://a/b?c HTTP/1.1", "GET /b?c 1.1 a none keep");
    check_line("GET http://a HTTP/1.1", "GET / 1.1 a none keep");
    check_line("GET http://a?b HTTP/1.1", "GET /?b 1.1 a none keep");
    check_line("GET http://a/?http://b/ HTTP/1.1", "GET /?http://b/ 1.1 a none keep");
    check_line("GET HTTP://A/ HTTP/1.1", "GET / 1.1 A none keep"); // the URI's authority wins
    check_line("GET https://a/ HTTP/1.1", "GET / 1.1 a none keep https"); // RFC 9110 section 7.4
    check_line("GET http://a:80/ HTTP/1.1", "GET / 1.1 a:80 none keep"); // RFC 9110 section 4.2.3
    check_line("GET http://a:/ HTTP/1.1", "GET / 1.1 a: none keep");
    check_line("OPTIONS http://a HTTP/1.1", "OPTIONS / 1.1 a none keep");
    check_line("GET HTTPS://a:443/ HTTP/1.1", "GET / 1.1 a:443 none keep https");
    check_line("GET https://a:80/ HTTP/1.1", "400 HostMismatch");
    check_line("GET https://b/ HTTP/1.1", "400 HostMismatch");
    check_line("GET http://a:443/ HTTP/1.1", "400 HostMismatch");
    check_line("GET http://b/ HTTP/1.1", "400 HostMismatch");
    check_line("GET http://aa/ HTTP/1.1", "400 HostMismatch");
    check_line("GET ftp://a/ HTTP/1.1", "400 TargetScheme");
    check_line("GET ://a/ HTTP/1.1", "400 TargetScheme");
    check_line("GET http:a HTTP/1.1", "400 TargetForm");
    check_line("GET http:/a HTTP/1.1", "400 TargetForm");
    check_line("GET http:// HTTP/1.1", "400 TargetAuthority");
    check_line("GET http:///b HTTP/1.1", "400 TargetAuthority");
    check_line("GET http://:80/ HTTP/1.1", "400 TargetAuthority");
    check_line("GET http://user@a/ HTTP/1.1", "400 TargetAuthority"); // RFC 9110 section 4.2.4
    check_line("GET http://a:b/ HTTP/1.1", "400 TargetAuthority");
    check("GET http://a/ HTTP/1.1\r\n\r\n", "400 HostMissing");
    check("GET http://a/ HTTP/1.0\r\n\r\n", "GET / 1.0 a none close");
    check("GET http://[::1]:8/ HTTP/1.1\r\nHost: [::1]:8\r\n\r\n", "GET / 1.1 [::1]:8 none keep");
}

#[test]
fn authority_form_rfc9112_section_3_2_3() {
    check_line("CONNECT a:443 HTTP/1.1", "CONNECT  1.1 a none keep");
    check_line("CONNECT [::1]:443 HTTP/1.1", "CONNECT  1.1 a none keep");
    check_line("CONNECT a HTTP/1.1", "400 TargetConnect");
    check_line("CONNECT a: HTTP/1.1", "400 TargetConnect");
    check_line("CONNECT a:0 HTTP/1.1", "400 TargetConnect"); // RFC 9110 section 9.3.6
    check_line("CONNECT a:65536 HTTP/1.1", "400 TargetConnect");
    check_line("CONNECT a:+1 HTTP/1.1", "400 TargetConnect");
    check_line("CONNECT :443 HTTP/1.1", "400 TargetConnect");
    check_line("CONNECT /a HTTP/1.1", "400 TargetConnect");
    check_line("CONNECT a:443?b HTTP/1.1", "400 TargetConnect");
    check_line("CONNECT u@a:443 HTTP/1.1", "400 TargetConnect");
    check_line("CONNECT http://a:443 HTTP/1.1", "400 TargetConnect");
    check_line("CONNECT * HTTP/1.1", "400 TargetConnect");
    check_line("GET a:443 HTTP/1.1", "400 TargetForm");
}

#[test]
fn asterisk_form_rfc9112_section_3_2_4() {
    check_line("OPTIONS * HTTP/1.1", "OPTIONS * 1.1 a none keep");
    check_line("GET * HTTP/1.1", "400 TargetAsterisk");
    check_line("options * HTTP/1.1", "400 TargetAsterisk");
    check_line("OPTIONS *?a HTTP/1.1", "400 TargetAsterisk");
    check_line("OPTIONS ** HTTP/1.1", "400 TargetForm");
}

#[test]
fn versions_rfc9112_section_2_3() {
    check_line("GET / HTTP/1.0", "GET / 1.0 a none close");
    check_line("GET / HTTP/1.2", "505 VersionUnsupported");
    check_line("GET / HTTP/2.0", "505 VersionUnsupported");
    check_line("GET / HTTP/0.9", "505 VersionUnsupported");
    check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 VersionUnsupported"); // RFC 9113 section 3.4
    check("GET /\r\n", "400 VersionMissing"); // HTTP/0.9
    check("GET /a?b\n", "400 VersionMissing");
    check("GET / \r\n\r\n", "400 VersionMalformed");
    check_line("GET / HTTP/2", "400 VersionMalformed");
    check_line("GET / HTTP/1", "400 VersionMalformed");
    check_line("GET / http/1.1", "400 VersionMalformed");
    check_line("GET / HTTP/1.10", "400 VersionMalformed");
    check_line("GET / HTTP/01.1", "400 VersionMalformed");
    check_line("GET / HTTP/1,1", "400 VersionMalformed");
    check_line("GET / HTTP/1.1 ", "400 VersionMalformed");
    check_line("GET /  HTTP/1.1", "400 VersionMalformed");
    check_line("GET / HTTP/1.x", "400 VersionMalformed");
    check_line("GET / HTTP", "400 VersionMalformed");
    check_line("GET / ICE/1.0", "400 VersionMalformed");
}

#[test]
fn field_lines_rfc9112_section_5() {
    check_fields("A: b", "POST / 1.1 a none keep");
    check_fields("A:b", "POST / 1.1 a none keep");
    check_fields("A:", "POST / 1.1 a none keep");
    check_fields("A: ", "POST / 1.1 a none keep");
    check_fields("A: \t b\tc d \t ", "POST / 1.1 a none keep");
    check_fields("!#$%&'*+-.^_`|~09: b", "POST / 1.1 a none keep");
    check_fields("A: é", "POST / 1.1 a none keep"); // obs-text, RFC 9110 section 5.5
    check_fields(b"A: \x80\xff", "POST / 1.1 a none keep");
    check_fields("A: 0123456789abcdef0123456789abcdef\t", "POST / 1.1 a none keep");
    check_fields(" A: b", "400 FieldFolded"); // section 5.2
    check_fields("\tA: b", "400 FieldFolded");
    check_fields("A: b\r\n c", "400 FieldFolded");
    check_fields("A: b\r\n\tc: d", "400 FieldFolded");
    check("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400 FieldFolded");
    check_fields("A : b", "400 FieldNameSpace"); // section 5.1
    check_fields("A\t: b", "400 FieldNameSpace");
    check_fields("A B: c", "400 FieldNameSpace");
    check_fields("Content-Length : 5", "400 FieldNameSpace");
    check_fields(": b", "400 FieldNameEmpty");
    check_fields("A", "400 FieldColon");
    check_fields("A\n", "400 FieldColon");
    check_fields("A(: b", "400 FieldNameByte");
    check_fields("A\0: b", "400 FieldNameByte");
    check_fields("\0: b", "400 FieldNameByte");
    check_fields("é: b", "400 FieldNameByte");
    check_fields("[A]: b", "400 FieldNameByte");
    check_fields("A: b\0", "400 FieldValueByte"); // RFC 9110 section 5.5
    check_fields("A: \0b", "400 FieldValueByte");
    check_fields("A: b\x01c", "400 FieldValueByte");
    check_fields("A: b\x0bc", "400 FieldValueByte");
    check_fields("A: b\x7f", "400 FieldValueByte");
    check_fields("A: b\x7f0123456789abcdef0123456789abcdef", "400 FieldValueByte");
    check_fields("A: b\x1f0123456789abcdef0123456789abcdef", "400 FieldValueByte");
    check_fields("A: b\0 0123456789abcdef0123456789abcdef", "400 FieldValueByte");
    check_fields("A: 0123456789abcdef0123456789abcde\x1b", "400 FieldValueByte");
}

#[test]
fn field_values_lose_outer_white_space_only() {
    let input = b"GET / HTTP/1.1\r\nHost:\t a \r\nX: \xe9 b\t c \t\r\nx:\r\n\r\n";
    let mut slots = Slots::new();
    let Outcome::Complete { head, len } = parse_head(input, &mut slots, &LIMITS) else { panic!("complete") };
    assert_eq!((len, head.fields.len(), head.fields.is_empty()), (input.len(), 3, false));
    let fields: Vec<_> = head.fields.iter().map(|field| (field.name, field.value)).collect();
    assert_eq!(fields, [(&b"Host"[..], &b"a"[..]), (b"X", b"\xe9 b\t c"), (b"x", b"")]);
    assert_eq!((head.fields.value("x"), head.fields.value("y")), (Some(&b"\xe9 b\t c"[..]), None));
}

#[test]
fn host_rfc9112_section_3_2() {
    check_host("Host: example.com", "GET / 1.1 example.com none keep");
    check_host("hOST:a.b:8080", "GET / 1.1 a.b:8080 none keep");
    check_host("Host: 127.0.0.1:80", "GET / 1.1 127.0.0.1:80 none keep");
    check_host("Host: a:", "GET / 1.1 a: none keep"); // RFC 3986 section 3.2.3: port = *DIGIT
    check_host("Host: a:65535", "GET / 1.1 a:65535 none keep");
    check_host("Host: a:0000080", "GET / 1.1 a:0000080 none keep");
    check_host("Host: [::1]:65535", "GET / 1.1 [::1]:65535 none keep");
    for port in ["65536", "99999", "065536", "18446744073709551696", "8000O", "1234x"] {
        check_host(format!("Host: a:{port}"), "400 HostMalformed");
        check_host(format!("Host: %41:{port}"), "400 HostMalformed");
        check_host(format!("Host: [::1]:{port}"), "400 HostMalformed");
    }
    check_host("Host: a_b-c.~d!$&'()*+;=", "GET / 1.1 a_b-c.~d!$&'()*+;= none keep");
    check_host("Host: %41b%2c:1", "GET / 1.1 %41b%2c:1 none keep");
    check_host("Host: [::1]", "GET / 1.1 [::1] none keep");
    check_host("Host: [2001:DB8::1.2.3.4]:443", "GET / 1.1 [2001:DB8::1.2.3.4]:443 none keep");
    check_host("A: é\r\nHost: a", "GET / 1.1 a none keep"); // text is cut out of a head with obs-text
    check_host(b"A: \xff\r\nHost: example.com\r\nB: \xff", "GET / 1.1 example.com none keep");
    check("GET / HTTP/1.1\r\n\r\n", "400 HostMissing");
    check_host("A: b", "400 HostMissing");
    check_host("Host:", "400 HostEmpty");
    check_host("Host: \t ", "400 HostEmpty");
    check_host("Host: a\r\nHost: a", "400 HostRepeated");
    check_host("Host: a\r\nB: c\r\nhost: b", "400 HostRepeated");
    check_host("Host:\r\nHost: a", "400 HostRepeated");
    check_host("Host: a,b", "400 HostMalformed");
    check_host("Host: a b", "400 HostMalformed");
    check_host("Host: a/b", "400 HostMalformed");
    check_host("Host: a?b", "400 HostMalformed");
    check_host("Host: a#b", "400 HostMalformed");
    check_host("Host: u@a", "400 HostMalformed");
    check_host("Host: u:p@a", "400 HostMalformed");
    check_host("Host: http://a", "400 HostMalformed");
    check_host("Host: a:b", "400 HostMalformed");
    check_host("Host: a:8 0", "400 HostMalformed");
    check_host("Host: a:-1", "400 HostMalformed");
    check_host("Host: a:1:2", "400 HostMalformed");
    check_host("Host: :80", "400 HostMalformed"); // RFC 9110 section 4.2.1
    check_host("Host: %4", "400 HostMalformed");
    check_host("Host: %zz", "400 HostMalformed");
    check_host("Host: ::1", "400 HostMalformed");
    check_host("Host: [::1", "400 HostMalformed");
    check_host("Host: [::1]a", "400 HostMalformed");
    check_host("Host: [::1]:a", "400 HostMalformed");
    check_host("Host: [::1%25eth0]", "400 HostMalformed");
    check_host("Host: []", "400 HostMalformed");
    check_host("Host: [v1.a]", "400 HostMalformed");
    check_host("Host: é", "400 HostMalformed");
    check_host(b"Host: a\xff", "400 HostMalformed");
    check("GET / HTTP/1.0\r\n\r\n", "GET / 1.0 - none close");
    check_fields_10("Host:", "POST / 1.0 - none close");
    check_fields_10("Host: b", "POST / 1.0 b none close");
    check_fields_10("Host: a b", "400 HostMalformed");
    check_fields_10("Host: a\r\nHost: a", "400 HostRepeated");
}

#[test]
fn content_length_rfc9112_section_6_2() {
    check_fields("Content-Length: 5", "POST / 1.1 a length=5 keep");
    check_fields("content-LENGTH:0", "POST / 1.1 a length=0 keep");
    check_fields("Content-Length: 0005", "POST / 1.1 a length=5 keep");
    check_fields("Content-Length: 18446744073709551615", "POST / 1.1 a length=18446744073709551615 keep");
    check_fields_10("Content-Length: 5", "POST / 1.0 - length=5 close");
    check_fields("Content_Length: 5", "POST / 1.1 a none keep"); // another field
    check_fields("Content-Length: 18446744073709551616", "400 LengthOverflow");
    check_fields("Content-Length: 99999999999999999999999", "400 LengthOverflow");
    check_fields("Content-Length:", "400 LengthMalformed");
    check_fields("Content-Length: +5", "400 LengthMalformed");
    check_fields("Content-Length: -5", "400 LengthMalformed");
    check_fields("Content-Length: 5, 5", "400 LengthMalformed");
    check_fields("Content-Length: 5 5", "400 LengthMalformed");
    check_fields("Content-Length: 0x5", "400 LengthMalformed");
    check_fields("Content-Length: 5.0", "400 LengthMalformed");
    check_fields("Content-Length: 1_0", "400 LengthMalformed");
    check_fields("Content-Length: five", "400 LengthMalformed");
    check_fields("Content-Length: ٥", "400 LengthMalformed"); // a digit, but not an ASCII one
    check_fields("Content-Length: 5\r\nContent-Length: 5", "400 LengthRepeated"); // section 6.3
    check_fields("Content-Length: 5\r\nA: b\r\ncontent-length: 6", "400 LengthRepeated");
}

#[test]
fn transfer_encoding_rfc9112_section_6_1() {
    check_fields("Transfer-Encoding: chunked", "POST / 1.1 a chunked keep");
    check_fields("transfer-encoding:\tCHUNKED ", "POST / 1.1 a chunked keep");
    check_fields("Transfer-Encoding: chunked\r\nContent-Length: 5", "400 LengthAndCoding");
    check_fields("Content-Length: 5\r\nTransfer-Encoding: gzip, chunked", "400 LengthAndCoding");
    check_fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "400 CodingRepeated");
    check_fields("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "400 CodingRepeated");
    check_fields("Transfer-Encoding: chunked, chunked", "400 CodingRepeated");
    check_fields("Transfer-Encoding: chunked, gzip", "400 CodingNotFinal"); // section 6.3
    check_fields("Transfer-Encoding: gzip", "400 CodingNotFinal");
    check_fields("Transfer-Encoding: identity", "400 CodingNotFinal");
    check_fields("Transfer-Encoding: xchunked", "400 CodingNotFinal");
    check_fields("Transfer-Encoding: chunked;a=b", "400 CodingNotFinal");
    check_fields("Transfer-Encoding: gzip, chunked", "501 CodingUnknown");
    check_fields("Transfer-Encoding: a;b=c,\tgzip ,CHUNKED", "501 CodingUnknown");
    check_fields("Transfer-Encoding:", "400 CodingMalformed");
    check_fields("Transfer-Encoding: ,chunked", "400 CodingMalformed");
    check_fields("Transfer-Encoding: chunked,", "400 CodingMalformed");
    check_fields("Transfer-Encoding: \"chunked\"", "400 CodingMalformed");
    check_fields("Transfer-Encoding: chunked chunked", "400 CodingMalformed");
    check_fields("Transfer-Encoding: é", "400 CodingMalformed");
    check_fields_10("Transfer-Encoding: chunked", "400 CodingVersion");
}

#[test]
fn keep_alive_rfc9112_section_9_3() {
    check_fields("Connection: close", "POST / 1.1 a none close");
    check_fields("connection: CLOSE", "POST / 1.1 a none close");
    check_fields("Connection: keep-alive", "POST / 1.1 a none keep");
    check_fields("Connection: keep-alive, close", "POST / 1.1 a none close");
    check_fields("Connection: , a ,\tclose\t,", "POST / 1.1 a none close");
    check_fields("Connection: a\r\nConnection: close", "POST / 1.1 a none close");
    check_fields("Connection: close\r\nConnection: keep-alive", "POST / 1.1 a none close");
    check_fields("Connection: closed", "POST / 1.1 a none keep");
    check_fields("Connection: not close", "POST / 1.1 a none keep");
    check_fields("Connection:", "POST / 1.1 a none keep");
    check_fields_10("Connection: keep-alive", "POST / 1.0 - none keep");
    check_fields_10("Connection: a, Keep-Alive", "POST / 1.0 - none keep");
    check_fields_10("Connection: keep-alive\r\nConnection: close", "POST / 1.0 - none close");
    check_fields_10("A: b", "POST / 1.0 - none close");
}

#[test]
fn upgrade_rfc9110_section_7_8() {
    check_fields("Connection: Upgrade\r\nUpgrade: websocket", "POST / 1.1 a none keep upgrade");
    check_fields("Connection: keep-alive, upgrade", "POST / 1.1 a none keep upgrade");
    check_fields("Upgrade: websocket", "POST / 1.1 a none keep");
    check_fields_10("Connection: upgrade", "POST / 1.0 - none close");
}

#[test]
fn expect_rfc9110_section_10_1_1() {
    check_fields("Expect: 100-continue", "POST / 1.1 a none keep continue");
    check_fields("Expect: 100-Continue\r\nContent-Length: 5", "POST / 1.1 a length=5 keep continue");
    check_fields("Expect: 200-ok", "417 Expectation");
    check_fields("Expect:", "417 Expectation");
    check_fields("Expect: 100-continue, a", "417 Expectation");
    check_fields("Expect: 100-continue\r\nExpect: a", "417 Expectation");
    check_fields("Expect: a\r\nContent-Length: x", "400 LengthMalformed"); // framing first
    check_fields_10("Expect: 100-continue", "POST / 1.0 - none close");
    check_fields_10("Expect: a", "417 Expectation");
}

#[test]
fn limit_on_the_request_line_rfc9112_section_3() {
    let limits = HeadLimits { request_line_bytes_max: 16, ..LIMITS };
    let tail = "\r\nHost: a\r\n\r\n";
    check_with(&limits, format!("GET /aa HTTP/1.1{tail}"), "GET /aa 1.1 a none keep");
    check_with(&limits, format!("\r\nGET /aa HTTP/1.1{tail}"), "GET /aa 1.1 a none keep");
    check_with(&limits, format!("GET /aaa HTTP/1.1{tail}"), "414 RequestLineLong");
    check_with(&limits, format!("\r\nGET /aaa HTTP/1.1{tail}"), "414 RequestLineLong");
    check_with(&limits, "GET /aaaaaaaaaaaaaaaaaaaaaaaaa", "414 RequestLineLong");
    check_with(&limits, "GET /?aaaaaaaaaaaaaaaaaaaaaaaa", "414 RequestLineLong");
    check_with(&limits, "GET /aaaaaaaaaaaa\nHost: a\n\n", "414 RequestLineLong");
    check_with(&limits, "GET /aaaaaaaaaaaaé HTTP/1.1", "414 RequestLineLong");
    check_with(&limits, "GET /aé", "400 TargetNotAscii");
    check_with(&limits, "AAAAAAAAAAAAAAAAA", "400 MethodLong");
    check_with(&limits, format!("GET /aaa HTTP/1.0{tail}"), "414 RequestLineLong");
    check_with(&limits, "GET /a HTTP/3.0x", "505 VersionUnsupported");
    check(
        format!("GET /{} HTTP/1.1{tail}", "a".repeat(8178)),
        &format!("GET /{} 1.1 a none keep", "a".repeat(8178)),
    );
    check(format!("GET /{} HTTP/1.1{tail}", "a".repeat(8179)), "414 RequestLineLong");
}

#[test]
fn limit_on_the_head_rfc6585_section_5() {
    let limits = HeadLimits { head_bytes_max: 32, ..LIMITS };
    check_with(&limits, "GET / HTTP/1.1\r\nHost: abcdef\r\n\r\n", "GET / 1.1 abcdef none keep");
    check_with(&limits, "GET / HTTP/1.1\r\nHost: abcdefg\r\n\r\n", "431 HeadLong");
    check_with(&limits, "\r\nGET / HTTP/1.1\r\nHost: abcde\r\n\r\n", "431 HeadLong");
    check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nA: bcdefghijklmnopq", "431 HeadLong");
    check_with(&limits, "GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "431 HeadLong");
    check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nABCDEFGHIJKLMNOPQ", "431 HeadLong");
    check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nA: b\0cdefghijklm", "400 FieldValueByte");
    check_with(&HeadLimits { head_bytes_max: 0, ..LIMITS }, "", "431 HeadLong");
    let huge =
        HeadLimits { head_bytes_max: usize::MAX, request_line_bytes_max: usize::MAX, fields_max: usize::MAX };
    let value = "a".repeat(HEAD_BYTES_MAX);
    assert_eq!(verdict(format!("GET / HTTP/1.1\r\nA: {value}").as_bytes(), &huge), "431 HeadLong");
    assert_eq!(verdict(format!("GET /{value}").as_bytes(), &huge), "431 HeadLong");
    assert_eq!(verdict(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &huge), "GET / 1.1 a none keep");
}

#[test]
fn limit_on_fields_rfc6585_section_5() {
    let limits = HeadLimits { fields_max: 2, ..LIMITS };
    check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n", "GET / 1.1 a none keep");
    check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD: e\r\n\r\n", "431 FieldsMany");
    check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\nD: e\r\n\r\n", "431 FieldsMany");
    check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD : e\r\n\r\n", "400 FieldNameSpace");
    check_host(["Host: a", &"\r\nA: b".repeat(99)].concat(), "GET / 1.1 a none keep");
    check_host(["Host: a", &"\r\nA: b".repeat(100)].concat(), "431 FieldsMany");
}

#[test]
fn head_end_finds_empty_lines_and_bare_lfs() {
    let check = |input: &str, from: usize, expected: Option<usize>| {
        assert_eq!(head_end(input.as_bytes(), from), expected, "{input:?} from {from}");
    };
    check("", 0, None);
    check("", 9, None);
    check("a\r\nb\r\n", 0, None);
    check("a\r\n\r\nb\r\n\r\n", 0, Some(5));
    check("a\r\n\r\nb\r\n\r\n", 4, Some(5));
    check("a\r\n\r\nb\r\n\r\n", 5, Some(10));
    check("\r\na", 0, Some(2));
    check("\r\na", 2, None);
    check("a\n", 0, Some(2));
    check("\n", 0, Some(1));
    check("a\r\nb\n", 3, Some(5));
}

#[test]
fn verdict_is_due_at_an_end_or_a_limit() {
    let limits = HeadLimits { request_line_bytes_max: 16, head_bytes_max: 64, ..LIMITS };
    let check = |input: &str, searched: usize, expected: bool| {
        assert_eq!(verdict_due(input.as_bytes(), searched, &limits), expected, "{input:?} from {searched}");
    };
    check("", 0, false);
    check("GET / HTTP/1.1\r\nHost: a\r\n", 0, false);
    check("GET / HTTP/1.1\r\nHost: a\r\n\r", 25, false);
    check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 26, true);
    check("GET / HTTP/1.1\r\nHost: a\n", 16, true);
    check("GET /aaaaaaaaaaaaaa", 0, false); // 19 bytes: 16 with two CRLFs less one
    check("GET /aaaaaaaaaaaaaaa", 19, true);
    check("\r\nGET /aaaaaaaaaaaaa", 19, true);
    check("GET /aaaaaaaaaaaaaaaa", 20, false); // the parser has seen it
    check(&format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(44)), 62, false);
    check(&format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(45)), 63, true);
}

#[test]
fn every_reject_has_a_status_and_cites_its_rule() {
    for reject in Reject::ALL {
        assert!(matches!(reject.status(), 400 | 414 | 417 | 421 | 431 | 501 | 505), "{reject:?}");
        let reason = reject.reason();
        assert!(
            reason.contains("(RFC ") && reason.contains(" section") && reason.ends_with(")."),
            "{reason}"
        );
    }
}

/// Pieces that make heads, nearly good ones more often than not.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(
        &[
            "GET ",
            "POST ",
            "OPTIONS ",
            "/",
            "*",
            "a",
            "http://a",
            "?q=1",
            " ",
            "HTTP/1.1",
            "HTTP/1.0",
            "HTTP/2.0",
            "\r\n",
            "\r\n",
            "\r\n",
            "\r\n\r\n",
            "\r",
            "\n",
            "\0",
            "\t",
            ":",
            ": ",
            ",",
            "Host: a\r\n",
            "Host:",
            "A: b\r\n",
            "é",
            "#",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Connection: close\r\n",
            "Expect: x\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "POST / HTTP/1.0\r\n",
            "0123456789abcdef",
        ][..],
    );
    prop::collection::vec(pieces, 0..16).prop_map(|pieces| pieces.concat().into_bytes())
}

const TIGHT: HeadLimits = HeadLimits { request_line_bytes_max: 20, head_bytes_max: 48, fields_max: 2 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn random_bytes_never_panic_nor_depend_on_cuts(input in prop::collection::vec(any::<u8>(), 0..64)) {
        check_cuts(&input, &LIMITS);
        check_cuts(&[b"GET / HTTP/1.1\r\n", &input[..]].concat(), &TIGHT);
    }

    #[test]
    fn nearly_good_heads_do_not_depend_on_cuts(input in soup()) {
        check_cuts(&input, &LIMITS);
        check_cuts(&input, &TIGHT);
    }

    /// httparse is the oracle: it is more lenient, so what is accepted here it must accept, and read
    /// alike.
    #[test]
    fn httparse_agrees_with_what_is_accepted(input in soup()) {
        let mut slots = Slots::new();
        if let Outcome::Complete { head, len } = parse_head(&input, &mut slots, &LIMITS) {
            let mut headers = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut request = httparse::Request::new(&mut headers);
            prop_assert_eq!(request.parse(&input), Ok(httparse::Status::Complete(len)));
            prop_assert_eq!(request.method, Some(head.method.as_str()));
            prop_assert_eq!(request.path, Some(head.target.as_str()));
            let theirs: Vec<_> = request.headers.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
            let ours: Vec<_> = head.fields.iter().map(|field| (field.name, field.value)).collect();
            prop_assert_eq!(theirs, ours);
        }
    }
}
