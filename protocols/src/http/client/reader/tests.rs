//! Cases as data, cut in every way, and compared with httparse.

use super::*;

pub(super) const LIMITS: BodyLimits = BodyLimits { framing_bytes_max: 1024 };

fn asked(text: &str) -> Asked {
    let is = |name| text == name;
    assert!(["get", "head", "connect", "upgrade"].contains(&text), "{text}");
    Asked { is_head: is("head"), is_connect: is("connect"), upgrades: is("upgrade") }
}

/// The bytes that a line of the cases stands for.
fn bytes_of(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.chars());
    while let Some(next) = rest.next() {
        match next {
            '~' => bytes.extend_from_slice(b"\r\n"),
            '\\' => bytes.push(match rest.next().expect("something is escaped") {
                'r' => b'\r',
                'n' => b'\n',
                't' => b'\t',
                '0' => 0,
                '\\' => b'\\',
                'x' => {
                    let digits: String = rest.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16).expect("two hexadecimal digits")
                }
                other => panic!("\\{other} in {text}"),
            }),
            plain => bytes.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

pub(super) fn text_of(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\r\\n", "~").replace("\\\"", "\"").replace("\\'", "'")
}

fn head_of(response: &Response<'_, '_>) -> String {
    let body = match response.body {
        None => "none".to_owned(),
        Some(Framing::Length(length)) => format!("length={length}"),
        Some(Framing::Chunked) => "chunked".to_owned(),
        Some(Framing::UntilClose) => "until-close".to_owned(),
    };
    let version = if response.version == Version::Http10 { "1.0 " } else { "" };
    let keep = if response.keep_alive { "keep" } else { "close" };
    format!("{} {version}{body} {keep} ", response.status)
}

/// Feeds the pieces one after the other, as a session would, and says in one line what came of it.
fn read<'p>(asked: Asked, pieces: impl IntoIterator<Item = &'p [u8]>) -> String {
    let (mut reader, mut slots) = (Reader::new(asked), Slots::new());
    let (mut buffer, mut told, mut data, mut end) = (Vec::new(), String::new(), Vec::new(), None);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while end.is_none() {
            let consumed = match reader.read(&buffer, &mut slots, &LIMITS) {
                Event::Interim(response) => {
                    told += &format!("{}| ", head_of(&response));
                    response.bytes
                }
                Event::Head(response) => {
                    told += &head_of(&response);
                    response.bytes
                }
                Event::Data { consumed, data: part } => {
                    assert!(!part.is_empty() && buffer[..consumed].ends_with(part));
                    data.extend_from_slice(part);
                    consumed
                }
                Event::Partial { consumed } => {
                    buffer.drain(..consumed);
                    break;
                }
                Event::End { consumed, trailers } => {
                    end = Some(match trailers {
                        [] => ".".to_owned(),
                        trailers => format!(". [{}]", text_of(trailers)),
                    });
                    consumed
                }
                Event::Bad(defect) => {
                    assert!(
                        matches!(reader.read(&buffer, &mut slots, &LIMITS), Event::Bad(again) if again == defect)
                    );
                    return format!("{told}{}! {}", text_of(&data), defect.0);
                }
            };
            buffer.drain(..consumed);
        }
    }
    let Some(end) = end else { return format!("{told}{}...", text_of(&data)) };
    let left = if buffer.is_empty() { String::new() } else { format!(" + {}", text_of(&buffer)) };
    format!("{told}{}{end}{left}", text_of(&data))
}

pub(super) fn cases() -> impl Iterator<Item = (&'static str, Asked, Vec<u8>, &'static str)> {
    let lines = include_str!("replies.cases").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (left, expected) = line.split_once(" => ").expect("a case has an outcome");
        let (name, input) = left.split_once(' ').expect("a case has an input");
        (line, asked(name), bytes_of(input), expected)
    })
}

#[test]
fn replies_are_read_as_the_cases_say_however_they_are_cut() {
    let mut count = 0;
    for (line, asked, input, expected) in cases() {
        count += 1;
        assert_eq!(read(asked, [&input[..]]), expected, "{line}");
        for cut in 0..=input.len() {
            let (front, back) = input.split_at(cut);
            assert_eq!(read(asked, [front, back]), expected, "{line}: cut at {cut}");
        }
        assert_eq!(read(asked, input.chunks(1)), expected, "{line}: byte by byte");
        assert_eq!(read(asked, input.chunks(3)), expected, "{line}: by threes");
    }
    assert!(count >= 250, "{count} cases");
}

#[test]
fn fields_are_kept_in_order_without_outer_white_space() {
    let input = b"HTTP/1.1 200 Yes, \xe9\r\nA:\t b \r\na: c\t d\r\nE:\r\n\r\n";
    let mut slots = Slots::new();
    let response = parse_response(input, &mut slots, Asked::default()).unwrap().unwrap();
    let fields: Vec<_> = response.fields.iter().map(|field| (field.name, field.value)).collect();
    assert_eq!(fields, [(&b"A"[..], &b"b"[..]), (b"a", b"c\t d"), (b"E", b"")]);
    assert_eq!((response.bytes, response.reason), (input.len(), &b"Yes, \xe9"[..]));
}

#[test]
fn heads_have_limits() {
    let with_fields = |count| format!("HTTP/1.1 204 No\r\n{}\r\n", "A: b\r\n".repeat(count));
    let check = |input: &[u8], expected: &str| assert_eq!(read(Asked::default(), [input]), expected);
    check(with_fields(FIELDS_MAX).as_bytes(), "204 none keep .");
    check(with_fields(FIELDS_MAX + 1).as_bytes(), "! the head has more fields than are taken");
    let (start, end) = ("HTTP/1.1 204 No\r\nA: ", "\r\n\r\n");
    let long = |bytes: usize| format!("{start}{}{end}", "x".repeat(bytes - start.len() - end.len()));
    check(long(HEAD_BYTES_MAX).as_bytes(), "204 none keep .");
    check(long(HEAD_BYTES_MAX + 1).as_bytes(), "! the head is longer than is taken");
    let endless = long(2 * HEAD_BYTES_MAX);
    assert_eq!(read(Asked::default(), endless.as_bytes().chunks(1000)), "! the head is longer than is taken");
    let storm = |count| format!("{}HTTP/1.1 204 No\r\n\r\n", "HTTP/1.1 102 Wait\r\n\r\n".repeat(count));
    let max = usize::from(INTERIM_MAX);
    assert!(read(Asked::default(), [storm(max).as_bytes()]).ends_with("204 none keep ."));
    assert!(read(Asked::default(), [storm(max + 1).as_bytes()]).ends_with("! too many interim replies"));
}

#[test]
fn the_end_of_the_connection_ends_only_what_has_no_other_end() {
    let check = |input: &str, in_body, ends| {
        let (mut reader, mut slots) = (Reader::new(Asked::default()), Slots::new());
        let mut rest = input.as_bytes();
        while let Event::Head(Response { bytes, .. }) | Event::Interim(Response { bytes, .. }) =
            reader.read(rest, &mut slots, &LIMITS)
        {
            rest = &rest[bytes..];
        }
        assert_eq!((reader.is_in_body(), reader.ends_with_connection()), (in_body, ends), "{input:?}");
    };
    check("", false, false);
    check("HTTP/1.1 100 \r\n\r\n", false, false);
    check("HTTP/1.1 200 \r\n\r\n", true, true);
    check("HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\n", true, false);
    check("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", true, false);
    check("HTTP/1.1 204 \r\n\r\n", false, false);
}

/// Heads made of the cases by changes that follow from a number alone.
pub(super) fn mutated(all: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound.max(1) as u64) as usize
    };
    let mut input = all[below(all.len())].clone();
    const ALPHABET: &[u8] = b"\r\n\t :;,-_0159AaHT/.\x00\x7f\x80\xff\"\\";
    for _ in 0..below(4) {
        let at = below(input.len());
        match below(4) {
            0 => input[at] = ALPHABET[below(ALPHABET.len())],
            1 => input.insert(at, ALPHABET[below(ALPHABET.len())]),
            2 => drop(input.remove(at)),
            _ => {
                let other = &all[below(all.len())];
                let from = below(other.len());
                input.splice(at..at, other[from..].iter().copied());
            }
        }
        if input.is_empty() {
            break;
        }
    }
    input
}

#[test]
fn changed_replies_are_read_the_same_however_they_are_cut() {
    let all: Vec<Vec<u8>> = cases().map(|(_, _, input, _)| input).collect();
    for seed in 0..20_000 {
        let input = mutated(&all, seed);
        let is = |n| seed % 4 == n;
        let asked = Asked { is_head: is(1), is_connect: is(2), upgrades: is(3) };
        let whole = read(asked, [&input[..]]);
        for piece in [1, 2, 7] {
            assert_eq!(read(asked, input.chunks(piece)), whole, "{seed}: {} by {piece}", text_of(&input));
        }
    }
}

/// What we take, httparse takes and sees the same in it. What it takes and we do not is one of what is listed.
#[test]
fn what_is_taken_httparse_takes_too() {
    let all: Vec<Vec<u8>> = cases().map(|(_, _, input, _)| input).collect();
    let mut taken = 0;
    for seed in 0..40_000 {
        let input = mutated(&all, seed);
        let mut theirs = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut theirs);
        let parsed = head.parse(&input);
        let mut slots = Slots::new();
        match parse_response(&input, &mut slots, Asked { upgrades: true, ..Asked::default() }) {
            Ok(Some(response)) => {
                taken += 1;
                assert_eq!(
                    parsed,
                    Ok(httparse::Status::Complete(response.bytes)),
                    "{seed}: {}",
                    text_of(&input)
                );
                assert_eq!(head.code, Some(response.status), "{seed}");
                let ours: Vec<_> = response.fields.iter().map(|field| (field.name, field.value)).collect();
                let theirs: Vec<_> =
                    head.headers.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
                assert_eq!(ours, theirs, "{seed}: {}", text_of(&input));
            }
            Ok(None) => assert!(
                !matches!(parsed, Ok(httparse::Status::Complete(_)))
                // It takes lines that end in LF alone.
                || input.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'),
                "{seed}: {}",
                text_of(&input)
            ),
            Err(Defect(reason)) => {
                if let Ok(httparse::Status::Complete(_)) = parsed {
                    // On syntax: line ends, folded lines, what stands in the status line, and white space at its start.
                    const LENIENT: [&str; 5] = [
                        "the status line is malformed (RFC 9112 section 4)",
                        Reject::BareLf.reason(),
                        Reject::BareCr.reason(),
                        Reject::FieldFolded.reason(),
                        Reject::FieldValueByte.reason(),
                    ];
                    // On meaning, of which it knows nothing.
                    const MEANING: [&str; 9] = [
                        Reject::LengthMalformed.reason(),
                        Reject::LengthOverflow.reason(),
                        Reject::LengthRepeated.reason(),
                        Reject::LengthAndCoding.reason(),
                        Reject::CodingRepeated.reason(),
                        Reject::CodingUnknown.reason(),
                        Reject::CodingVersion.reason(),
                        "an interim reply announces a body (RFC 9112 section 6.1)",
                        "204 announces a body (RFC 9112 section 6.1)",
                    ];
                    assert!(
                        LENIENT.contains(&reason) || MEANING.contains(&reason),
                        "{seed}: httparse takes it, we say {reason}: {}",
                        text_of(&input)
                    );
                }
            }
        }
    }
    assert!(taken > 10_000, "{taken} of the generated heads were taken");
}
