//! Conversations from a seed: requests that are mostly good, with something odd in every second or third, cut at
//! random. One seed gives one conversation, on every machine.

/// What a client sends, in pieces. The last is a good request: whether and how it is answered tells what the
/// server made of all before.
pub struct Conversation {
    pub seed: u64,
    pub pieces: Vec<Vec<u8>>,
}

impl Conversation {
    pub fn bytes(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

pub const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: a\r\n\r\n";

/// The conversation of a seed.
pub fn conversation(seed: u64) -> Conversation {
    let mut random = Random { state: seed, was_odd: false };
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(4) {
        bytes.extend(request(&mut random));
    }
    match random.below(8) {
        0 => {
            bytes = without_head(bytes);
            nonsense(&mut bytes, &mut random);
        }
        1 if random.one_in(8) => bytes = random_bytes(&mut random),
        _ => {}
    }
    let mut cuts: Vec<usize> = (0..random.below(5)).map(|_| random.below(bytes.len().max(1))).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    let mut pieces: Vec<Vec<u8>> = cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect();
    pieces.push(PROBE.to_vec());
    Conversation { seed, pieces }
}

/// A request whose parts are each odd once in forty times.
fn request(random: &mut Random) -> Vec<u8> {
    random.was_odd = false;
    let mut text: Vec<u8> = Vec::new();
    let mut put = |part: &[u8]| text.extend_from_slice(part);
    let version = random.odd(&[b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"], VERSIONS);
    let is_old = version == b"HTTP/1.0";
    let kind = random.below(3);
    let methods: &[&[u8]] =
        if kind == 0 { &[b"GET", b"GET", b"HEAD", b"DELETE"] } else { &[b"POST", b"PUT"] };
    if random.one_in(40) {
        put(random.pick(BEFORE));
    }
    put(random.odd(methods, METHODS));
    put(random.odd(&[b" "], SPACES));
    put(random.odd(&[b"/", b"/a", b"/a/b?c=d", b"/a?b&c=%20", b"http://a/b"], TARGETS));
    put(random.odd(&[b" "], SPACES));
    put(version);
    put(random.odd(&[b"\r\n"], LINE_ENDS));
    put(random.odd(&[b"Host: a\r\n", b"host:a\r\n", b"Host: a \r\n"], HOSTS));
    for _ in 0..random.below(3) {
        put(random.odd(FIELDS_GOOD, FIELDS_ODD));
    }
    if is_old && random.one_in(2) {
        put(b"Connection: keep-alive\r\n");
    } else if random.one_in(15) {
        put(random.pick(CONNECTIONS));
    }
    if random.one_in(20) {
        put(random.pick(EXPECTATIONS));
    }
    let body: Vec<u8> = (0..random.below(30)).map(|_| b'a' + random.below(26) as u8).collect();
    match kind {
        1 => {
            let length = match random.one_in(25) {
                true => random.pick(LENGTHS).to_vec(),
                false => body.len().to_string().into_bytes(),
            };
            let line = [b"Content-Length: ", &length[..], b"\r\n"].concat();
            put(&line);
            if random.one_in(40) {
                let second = random.pick(SECOND_FRAMING);
                put(if second.is_empty() { &line } else { second });
            }
            put(random.odd(&[b"\r\n"], HEAD_ENDS));
            put(&body);
        }
        2 => {
            put(random.odd(&[b"Transfer-Encoding: chunked\r\n"], CODINGS));
            put(random.odd(&[b"\r\n"], HEAD_ENDS));
            for chunk in body.chunks(1 + random.below(10)) {
                let size = format!("{:x}", chunk.len()).into_bytes();
                put(random.odd(&[b""], BEFORE_SIZE));
                put(&size);
                put(random.odd(&[b"", b"", b";a=b"], EXTENSIONS));
                put(random.odd(&[b"\r\n"], LINE_ENDS));
                put(chunk);
                put(random.odd(&[b"\r\n"], LINE_ENDS));
            }
            put(random.odd(&[b"0\r\n", b"000\r\n", b"0;x\r\n"], LAST_CHUNKS));
            if random.one_in(6) {
                put(random.odd(&[b"X-Sum: 1\r\n"], TRAILERS));
            }
            put(random.odd(&[b"\r\n"], HEAD_ENDS));
        }
        _ => put(random.odd(&[b"\r\n"], HEAD_ENDS)),
    }
    if random.was_odd { without_head(text) } else { text }
}

/// The refusal of a HEAD has no body that says why. So only good requests have that method.
fn without_head(mut bytes: Vec<u8>) -> Vec<u8> {
    while let Some(at) = bytes.windows(5).position(|window| window == b"HEAD ") {
        bytes.splice(at..at + 4, *b"GET");
    }
    bytes
}

/// Breaks a few bytes anywhere.
fn nonsense(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        let byte = random.pick(&[b"\0", b"\r", b"\n", b" ", b":", b"\t", b"\xff", b"0", b"A", b",", b";"])[0];
        match random.below(4) {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => {
                let end = (at + random.below(20)).min(bytes.len());
                let twice = bytes[at..end].to_vec();
                bytes.splice(at..at, twice);
            }
        }
    }
}

fn random_bytes(random: &mut Random) -> Vec<u8> {
    (0..1 + random.below(60)).map(|_| random.next() as u8).collect()
}

const VERSIONS: &[&[u8]] = &[
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"HTTP/1",
    b"HTTP/1.10",
    b"",
    b"HTTP/11",
];
const BEFORE: &[&[u8]] = &[b"\r\n", b"\r\n\r\n", b"\n", b" ", b"\0", b"\r\n\r\n\r\n"];
const METHODS: &[&[u8]] = &[
    b"get",
    b"G@T",
    b"",
    b"OPTIONS",
    b"PATCH",
    b"TRACE",
    b"CONNECT",
    b"FOO",
    b"M-SEARCH",
    b"a!#$%&'*+-.^_`|~",
];
const SPACES: &[&[u8]] = &[b"  ", b"\t", b"", b"\x0b", b"\r", b" \t"];
const TARGETS: &[&[u8]] = &[
    b"*",
    b"a",
    b"/a b",
    b"/a#b",
    b"/\xc3\xa9",
    b"/a\tb",
    b"/a\0b",
    b"http://b/",
    b"http://a:80/",
    b"https://a/",
    b"ftp://a/",
    b"http://u@a/",
    b"http:///a",
    b"//a",
    b"/%zz",
    b"/\"<>\\^`{|}",
    b"a:80",
    b"/..",
    b"/a/../b",
    b"/%00",
    b"/?",
    b"?a",
    b"http://a",
    b"/a\x7fb",
    b"http:a",
];
const LINE_ENDS: &[&[u8]] = &[b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n", b"\r\n ", b""];
const HEAD_ENDS: &[&[u8]] = &[b"\n", b"\r", b"\r\r\n", b" \r\n\r\n", b"\r\n\r\n"];
const HOSTS: &[&[u8]] = &[
    b"",
    b"Host: a\r\nHost: a\r\n",
    b"Host:\r\n",
    b"Host: a b\r\n",
    b"Host: a/b\r\n",
    b"Host: u@a\r\n",
    b"Host: a:80\r\n",
    b"Host: a:x\r\n",
    b"Host: [::1]\r\n",
    b"Host: [::1\r\n",
    b"Host: a,b\r\n",
    b"Host : a\r\n",
    b"Host: \xff\r\n",
    b"Host: A\r\n",
    b"Host: a?b\r\n",
];
const FIELDS_GOOD: &[&[u8]] = &[
    b"X: y\r\n",
    b"Accept: */*\r\n",
    b"x-empty:\r\n",
    b"Cookie: a=b; c=d\r\n",
    b"X-Tab:\ta\tb \r\n",
    b"User-Agent: a/1 (b; c)\r\n",
];
const FIELDS_ODD: &[&[u8]] = &[
    b"X : y\r\n",
    b" X: y\r\n",
    b"X: y\r\n z\r\n",
    b"X: a\rb\r\n",
    b"X: a\nY: b\r\n",
    b"X: a\0b\r\n",
    b"X: a\x01b\r\n",
    b"X: a\x7fb\r\n",
    b"X: \xff\r\n",
    b"X\r\n",
    b": y\r\n",
    b"X Y: z\r\n",
    b"X@: y\r\n",
    b"X\xe9: y\r\n",
    b"X_Y: z\r\n",
    b"Upgrade: h2c\r\n",
    b"Trailer: X\r\n",
    b"TE: trailers\r\n",
    b"Content_Length: 3\r\n",
    b"X(: y\r\n",
    b"X/: y\r\n",
    b"X: y\n",
];
const CONNECTIONS: &[&[u8]] = &[
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: x, Close\r\n",
    b"Connection: closed\r\n",
    b"Connection: keep-alive, close\r\n",
    b"Connection:\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
];
const EXPECTATIONS: &[&[u8]] =
    &[b"Expect: 100-continue\r\n", b"Expect: 100-Continue\r\n", b"Expect: magic\r\n", b"Expect:\r\n"];
const LENGTHS: &[&[u8]] = &[
    b"",
    b"+3",
    b"-3",
    b"3,3",
    b"3, 4",
    b"0x3",
    b"3 3",
    b"18446744073709551616",
    b"0003",
    b"a",
    b"3.0",
    b"99999999",
    b"\t3 ",
];
/// Beside the first Content-Length; the empty one stands for that field once more.
const SECOND_FRAMING: &[&[u8]] = &[
    b"",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\r\n",
];
const CODINGS: &[&[u8]] = &[
    b"Transfer-Encoding: Chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: \"chunked\"\r\n",
    b"Transfer-Encoding: chunked;a=b\r\n",
    b"Transfer-Encoding: ,chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n",
    b"Transfer-Encoding:\r\n",
    b"Transfer-Encoding: chunked,\r\n",
];
const BEFORE_SIZE: &[&[u8]] =
    &[b"0x", b"+", b"-", b" ", b"0", b"0000000000000000", b"f000000000000000", b"g", b"\r\n"];
const EXTENSIONS: &[&[u8]] = &[
    b";",
    b" ;a",
    b";a=\"b;c\"",
    b" ",
    b"\t",
    b";a=\"b",
    b";;",
    b"; a",
    b";a\0",
    b";=b",
    b";a\n",
    b";\xff",
    b";a b",
    b";a=\"\\\"",
];
const LAST_CHUNKS: &[&[u8]] = &[b"", b"0\n", b"0 \r\n", b"-0\r\n", b"0\r", b"00000000000000000\r\n"];
const TRAILERS: &[&[u8]] = &[
    b"X : y\r\n",
    b" X: y\r\n",
    b"X: a\0b\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"X\r\n",
    b"X: y\n",
    b"X: a\rb\r\n",
    b"Host: b\r\n",
    b": y\r\n",
];

/// SplitMix64.
struct Random {
    state: u64,
    /// Something odd was picked.
    was_odd: bool,
}

impl Random {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Something odd.
    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        self.was_odd = true;
        from[self.below(from.len())]
    }

    fn odd<'a>(&mut self, good: &[&'a [u8]], odd: &[&'a [u8]]) -> &'a [u8] {
        if self.one_in(40) { self.pick(odd) } else { good[self.below(good.len())] }
    }
}
