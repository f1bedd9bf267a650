//! Bodies as data, cut in every way.

use super::*;
use proptest::prelude::*;

const LIMITS: BodyLimits = BodyLimits { framing_bytes_max: 16 << 10 };

/// Feeds the pieces one after the other, as a session would, and says in one line what came of it: the
/// data, then `...` (partial), `.` (end, with trailers and what is left over) or `!` and the reason.
fn decode<'p>(framing: Framing, limits: &BodyLimits, pieces: impl IntoIterator<Item = &'p [u8]>) -> String {
    let mut decoder = Decoder::new(framing);
    let (mut buffer, mut data) = (Vec::new(), Vec::new());
    let mut end = None;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while end.is_none() {
            let consumed = match decoder.decode(&buffer, limits) {
                Decoded::Data { consumed, data: part } => {
                    assert!(!part.is_empty() && buffer[..consumed].ends_with(part));
                    data.extend_from_slice(part);
                    consumed
                }
                Decoded::Partial { consumed } => {
                    buffer.drain(..consumed);
                    assert!(buffer.len() <= limits.framing_bytes_max + 2, "the buffer must stay bounded");
                    break;
                }
                Decoded::End { consumed, trailers } => {
                    let trailers = trailers.escape_ascii().to_string();
                    end = Some(if trailers.is_empty() { ".".into() } else { format!(". [{trailers}]") });
                    consumed
                }
                Decoded::Malformed(reject) => {
                    assert_eq!(decoder.decode(&buffer, limits), Decoded::Malformed(reject), "for good");
                    return format!("{}! {} {reject:?}", data.escape_ascii(), reject.status());
                }
            };
            buffer.drain(..consumed);
        }
    }
    let Some(end) = end else { return format!("{}...", data.escape_ascii()) };
    assert_eq!(decoder.decode(b"GET", limits), Decoded::End { consumed: 0, trailers: b"" }, "for good");
    let left = if buffer.is_empty() { String::new() } else { format!(" + {}", buffer.escape_ascii()) };
    format!("{}{end}{left}", data.escape_ascii())
}

/// The law of split invariance: every cut in two, and byte by byte.
fn check_cuts(framing: Framing, limits: &BodyLimits, input: &[u8]) {
    let whole = decode(framing, limits, [input]);
    for cut in 0..=input.len() {
        let (head, tail) = input.split_at(cut);
        assert_eq!(decode(framing, limits, [head, tail]), whole, "cut at {cut}");
    }
    let bytes = [&input[..0]].into_iter().chain(input.chunks(1));
    assert_eq!(decode(framing, limits, bytes), whole, "byte by byte");
}

#[track_caller]
fn check_with(framing: Framing, limits: &BodyLimits, input: impl AsRef<[u8]>, expected: &str) {
    let input = input.as_ref();
    assert_eq!(decode(framing, limits, [input]), expected, "{:?}", input.escape_ascii().to_string());
    check_cuts(framing, limits, input);
}

#[track_caller]
fn check_length(length: u64, input: &str, expected: &str) {
    check_with(Framing::Length(length), &LIMITS, input, expected);
}

/// A chunked body.
#[track_caller]
fn check(input: impl AsRef<[u8]>, expected: &str) {
    check_with(Framing::Chunked, &LIMITS, input, expected);
}

/// What stands between a chunk's size and the CRLF.
#[track_caller]
fn check_extension(extension: impl AsRef<[u8]>, expected: &str) {
    check([b"3", extension.as_ref(), b"\r\nabc\r\n0\r\n\r\n"].concat(), expected);
    check([b"0", extension.as_ref(), b"\r\n\r\n"].concat(), expected.strip_prefix("abc").unwrap_or(expected));
}

/// What stands between the last chunk and the empty line.
#[track_caller]
fn check_trailers(trailers: impl AsRef<[u8]>, expected: &str) {
    check([b"0\r\n", trailers.as_ref(), b"\r\n\r\n"].concat(), expected);
}

#[test]
fn lengths_rfc9112_section_6_2() {
    check_with(Framing::None, &LIMITS, "", ".");
    check_with(Framing::None, &LIMITS, "GET", ". + GET");
    check_length(0, "GET", ". + GET");
    check_length(5, "", "...");
    check_length(5, "hell", "hell...");
    check_length(5, "hello", "hello.");
    check_length(5, "hello\r\nGET", "hello. + \\r\\nGET");
    check_length(u64::MAX, "hello", "hello...");
}

#[test]
fn chunks_rfc9112_section_7_1() {
    check("", "...");
    check("0\r\n\r\n", ".");
    check("5\r\nhello\r\n0\r\n\r\n", "hello.");
    check("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET", "hello world. + GET");
    check("1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n\r\n", "abc. + \\r\\n");
    check("a\r\n0123456789\r\n0\r\n\r\n", "0123456789.");
    check("A\r\n0123456789\r\n0\r\n\r\n", "0123456789.");
    check("005\r\nhello\r\n000\r\n\r\n", "hello.");
    check("0000000000000003\r\nabc\r\n0000000000000000\r\n\r\n", "abc."); // 16 digits
    check("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\\r\\n\\r\\n."); // data looks like framing
    check("5\r\nhel", "hel...");
    check("5\r\nhello", "hello...");
    check("5\r\nhello\r", "hello...");
    check("5\r\nhello\r\n", "hello...");
    check("5\r\nhello\r\n0\r\n", "hello...");
    check("5\r\nhello\r\n0\r\n\r", "hello...");
    check("ffffffffffffffff\r\nabc", "abc..."); // u64::MAX
    check("7fffffffffffffff\r\nabc", "abc...");
}

#[test]
fn chunk_sizes_rfc9112_section_7_1() {
    check("00000000000000003\r\nabc", "! 400 ChunkSizeLong"); // 17 digits
    check("10000000000000000\r\nabc", "! 400 ChunkSizeLong"); // 2^64
    check("\r\nabc", "! 400 ChunkSize");
    check("\nabc", "! 400 ChunkSize");
    check("g\r\nabc", "! 400 ChunkSize");
    check("0x3\r\nabc", "! 400 ChunkSize");
    check("+3\r\nabc", "! 400 ChunkSize");
    check("-3\r\nabc", "! 400 ChunkSize");
    check(" 3\r\nabc", "! 400 ChunkSize");
    check("3 \r\nabc", "! 400 ChunkSize");
    check("3\t\r\nabc", "! 400 ChunkSize");
    check("3 ;a\r\nabc", "! 400 ChunkSize");
    check("3_0\r\nabc", "! 400 ChunkSize");
    check("3,3\r\nabc", "! 400 ChunkSize");
    check("3h\r\nabc", "! 400 ChunkSize");
    check("3\0\r\nabc", "! 400 ChunkSize");
    check("٣\r\nabc", "! 400 ChunkSize"); // a digit, but not an ASCII one
    check(";a\r\nabc", "! 400 ChunkSize");
    check("3\r\nabc\r\n\r\n", "abc! 400 ChunkSize");
    check("3\r\nabc\r\nGET / HTTP/1.1\r\n", "abc! 400 ChunkSize");
}

#[test]
fn chunk_line_ends_rfc9112_section_2_2() {
    check("3\nabc\r\n0\r\n\r\n", "! 400 ChunkSize");
    check("3\rabc\r\n0\r\n\r\n", "! 400 ChunkLine");
    check("3\r\r\nabc\r\n0\r\n\r\n", "! 400 ChunkLine");
    check("3;a\nabc\r\n0\r\n\r\n", "! 400 ChunkExtension");
    check("3;a\rb\r\nabc\r\n0\r\n\r\n", "! 400 ChunkLine");
    check("3\r\nabc\n0\r\n\r\n", "abc! 400 ChunkEnd");
    check("3\r\nabc\r0\r\n\r\n", "abc! 400 ChunkEnd");
    check("3\r\nabc0\r\n\r\n", "abc! 400 ChunkEnd");
    check("3\r\nabcd\r\n0\r\n\r\n", "abc! 400 ChunkEnd"); // longer than its size
    check("3\r\nab\r\n0\r\n\r\n", "ab\\r! 400 ChunkEnd"); // shorter than its size
    check("0\n\n", "! 400 ChunkSize");
    check("0\r\n\n", "! 400 BareLf");
    check("0\r\n\rX\n", "! 400 BareCr");
}

#[test]
fn chunk_extensions_rfc9112_section_7_1_1() {
    check_extension(";a", "abc.");
    check_extension(";a=b", "abc.");
    check_extension(";a=\"b\"", "abc.");
    check_extension(";a=\"\"", "abc.");
    check_extension(";a=\"b;c=d, \t\"", "abc.");
    check_extension(";a=\"b\\\"c\\\\\"", "abc."); // quoted pairs
    check_extension(";a=\"\\\t\\ é\"", "abc."); // obs-text
    check_extension(";a;b=c;d=\"e\";f", "abc.");
    check_extension("; a = b ;\tc\t=\t\"d\" ; e", "abc."); // BWS
    check_extension(";", "! 400 ChunkExtension");
    check_extension(";;a", "! 400 ChunkExtension");
    check_extension(";a;", "! 400 ChunkExtension");
    check_extension("; ", "! 400 ChunkExtension");
    check_extension(";=b", "! 400 ChunkExtension");
    check_extension(";a=", "! 400 ChunkExtension");
    check_extension(";a= ", "! 400 ChunkExtension");
    check_extension(";a=;b", "! 400 ChunkExtension");
    check_extension(";a==b", "! 400 ChunkExtension");
    check_extension(";a b", "! 400 ChunkExtension");
    check_extension(";a ", "! 400 ChunkExtension");
    check_extension(";a=b ", "! 400 ChunkExtension");
    check_extension(";a=b c", "! 400 ChunkExtension");
    check_extension(";a=b\"c\"", "! 400 ChunkExtension");
    check_extension(";a=\"b\"c", "! 400 ChunkExtension");
    check_extension(";a=\"b", "! 400 ChunkExtension");
    check_extension(";a=\"b\\", "! 400 ChunkExtension");
    check_extension(";\"a\"", "! 400 ChunkExtension");
    check_extension(";a\0", "! 400 ChunkExtension");
    check_extension(";a=b\x01", "! 400 ChunkExtension");
    check_extension(";a=\"\x7f\"", "! 400 ChunkExtension");
    check_extension(";a=\"\\\0\"", "! 400 ChunkExtension");
    check_extension(";a=\"\n\"", "! 400 ChunkExtension");
    check_extension(";é", "! 400 ChunkExtension");
    check_extension(";a,b", "! 400 ChunkExtension");
}

#[test]
fn trailers_rfc9112_section_7_1_2() {
    check_trailers("A: b", ". [A: b\\r\\n]");
    check_trailers("A: b\r\nC:\td \r\nE:", ". [A: b\\r\\nC:\\td \\r\\nE:\\r\\n]");
    check("3\r\nabc\r\n0;a=b\r\nD: \"e\"\r\n\r\nGET", "abc. [D: \\\"e\\\"\\r\\n] + GET");
    check_trailers(b"A: \xff", ". [A: \\xff\\r\\n]");
    check("0\r\nA: b\r\n", "...");
    check("0\r\nA: b\r\n\r", "...");
    check("0\r\nA", "...");
    check_trailers(" A: b", "! 400 FieldFolded");
    check_trailers("A: b\r\n c", "! 400 FieldFolded");
    check_trailers("A : b", "! 400 FieldNameSpace");
    check_trailers("A", "! 400 FieldColon");
    check_trailers(": b", "! 400 FieldNameEmpty");
    check_trailers("A\0: b", "! 400 FieldNameByte");
    check_trailers("A: \0", "! 400 FieldValueByte");
    check_trailers("A: b\nC: d", "! 400 BareLf");
    check_trailers("A: b\rC: d", "! 400 BareCr");
    check("0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "! 400 FieldNameSpace"); // the client forgot the empty line
}

#[test]
fn trailers_must_not_frame_rfc9110_section_6_5_1() {
    check_trailers("Content-Length: 5", "! 400 TrailerForbidden");
    check_trailers("A: b\r\ncontent-length: 5", "! 400 TrailerForbidden");
    check_trailers("Transfer-Encoding: chunked", "! 400 TrailerForbidden");
    check_trailers("HOST: a", "! 400 TrailerForbidden");
    check_trailers("Trailer: a", "! 400 TrailerForbidden");
    check_trailers("TE: trailers", "! 400 TrailerForbidden");
    check_trailers("Connection: close", "! 400 TrailerForbidden");
    check_trailers("Upgrade: a", "! 400 TrailerForbidden");
    check_trailers("Expect: 100-continue", "! 400 TrailerForbidden");
    check_trailers("Content-Type: a/b", "! 400 TrailerForbidden");
    check_trailers("Content-Encoding: gzip", "! 400 TrailerForbidden");
    check_trailers("Content-Range: bytes 0-1/2", "! 400 TrailerForbidden");
    check_trailers("Content-MD5: a", ". [Content-MD5: a\\r\\n]");
}

#[test]
fn limit_on_framing_rfc9112_section_7_1_1() {
    let limits = BodyLimits { framing_bytes_max: 8 };
    let check = |input: &str, expected: &str| check_with(Framing::Chunked, &limits, input, expected);
    check("3;abcdefg\r\nabc\r\n0\r\n\r\n", "abc."); // the semicolon counts, size and CRLF do not
    check("3;abcdefgh\r\nabc\r\n0\r\n\r\n", "! 400 ChunkFramingLong");
    check("3;abcdefghijklmnopqrst", "! 400 ChunkFramingLong");
    check("3;a=\"              ", "! 400 ChunkFramingLong");
    check("3;abc\r\nabc\r\n3;abc\r\ndef\r\n0\r\n\r\n", "abcdef."); // in all
    check("3;abc\r\nabc\r\n3;abcd\r\ndef\r\n0\r\n\r\n", "abc! 400 ChunkFramingLong");
    check("0\r\nA: bcd\r\n\r\n", ". [A: bcd\\r\\n]"); // a trailer counts with its CRLF, the empty line does not
    check("0\r\nA: bcde\r\n\r\n", "! 400 ChunkFramingLong");
    check("0\r\nA: bcdefghijklmnop", "! 400 ChunkFramingLong");
    check("0\r\nAAAAAAAAAAAAAAAAAA", "! 400 ChunkFramingLong");
    check("0;abc\r\nA:\r\n\r\n", ". [A:\\r\\n]"); // both in all
    check("0;abcd\r\nA:\r\n\r\n", "! 400 ChunkFramingLong");
    check("0;abcdefg\r\n\r\n", ".");
    let tiny_chunks = "1\r\na\r\n".repeat(100);
    check(&format!("{tiny_chunks}0\r\n\r\n"), &format!("{}.", "a".repeat(100))); // sizes are not bounded in all
    let huge = BodyLimits { framing_bytes_max: usize::MAX };
    let trailers = format!("0\r\nA: {}", "a".repeat(HEAD_BYTES_MAX));
    assert_eq!(decode(Framing::Chunked, &huge, [trailers.as_bytes()]), "! 400 ChunkFramingLong");
}

#[test]
fn decoder_is_small() {
    assert!(size_of::<Decoder>() <= 32);
}

/// Pieces that make chunked bodies, nearly good ones more often than not.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(
        &[
            "3\r\nabc\r\n",
            "3\r\nabc\r\n",
            "0\r\n\r\n",
            "0\r\n",
            "3",
            "\r\n",
            "\r",
            "\n",
            "abc",
            ";a",
            ";a=b",
            ";a=\"b\"",
            "\"",
            "\\",
            " ",
            "=",
            ";",
            "A: b\r\n",
            "A:",
            "Host: a\r\n",
            "ffffffffffffffff",
            "\0",
            "é",
        ][..],
    );
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn random_bytes_never_panic_nor_depend_on_cuts(input in prop::collection::vec(any::<u8>(), 0..48)) {
        check_cuts(Framing::Chunked, &LIMITS, &input);
        check_cuts(Framing::Length(20), &LIMITS, &input);
    }

    #[test]
    fn nearly_good_bodies_do_not_depend_on_cuts(input in soup()) {
        check_cuts(Framing::Chunked, &LIMITS, &input);
        check_cuts(Framing::Chunked, &BodyLimits { framing_bytes_max: 6 }, &input);
    }

    #[test]
    fn chunks_carry_what_was_put_in(chunks in prop::collection::vec("[ -~\r\n]{1,40}", 0..8)) {
        let encode = |chunk: &String| format!("{:x}\r\n{chunk}\r\n", chunk.len());
        let body: String = chunks.iter().map(encode).chain(["0\r\n\r\nnext".into()]).collect();
        let expected = format!("{}. + next", chunks.concat().as_bytes().escape_ascii());
        prop_assert_eq!(decode(Framing::Chunked, &LIMITS, [body.as_bytes()]), expected);
        check_cuts(Framing::Chunked, &LIMITS, body.as_bytes());
    }
}
