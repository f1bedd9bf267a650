"""Attacks on a proxy, each from a seed and a number: what is sent, in which pieces, and what a strict reader makes of it."""

import random
import re

# What no request that the proxy let through says of itself: it would be a client's word.
SPOOF = "6.6.6.6"
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"([A-Z]+) (/[\x21-\x7e]*) HTTP/1\.([01])\r\n")
FIELD = re.compile(rb"(" + TOKEN + rb"): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)\r\n")
CHUNK = re.compile(rb"([0-9a-f]{1,6})\r\n")


class Attack:
    """One attack: bytes, where they are cut, and whether the connection is given up behind them."""

    def __init__(self, seed, number):
        self.number = number
        self.rng = random.Random(f"{seed}/{number}")
        self.ids = 0
        self.kind = self.rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        self.id_start = f"{seed}-{number}-"
        # None, "fin" or "rst".
        self.ends_by = None
        self.is_routed = self.rng.random() < 0.5
        self.bytes = KINDS[self.kind][1](self)
        self.cuts = self.cut()

    def cut(self):
        if self.rng.random() < 0.6 or len(self.bytes) < 2:
            return [self.bytes]
        at = sorted(self.rng.randrange(1, len(self.bytes)) for _ in range(self.rng.randrange(1, 4)))
        return [self.bytes[a:b] for a, b in zip([0, *at], [*at, len(self.bytes)])]

    def next_id(self):
        self.ids += 1
        return f"{self.id_start}{self.ids}"

    def pick(self, *choices):
        return self.rng.choice(choices)

    def own(self, target="/own", method="GET", fields=b"", body=b"", version="1.1"):
        """A request that is good, as far as these fields are."""
        start = f"{method} {target} HTTP/{version}\r\nHost: a.test\r\nX-Id: {self.next_id()}\r\n"
        return start.encode() + fields + b"\r\n" + body

    def smuggled(self):
        """What would be a request if somebody read it as one; some of these swallow what follows."""
        start = f"GET /private/smuggled HTTP/1.1\r\nHost: a.test\r\nX-Id: {self.id_start}smuggled\r\n"
        start += f"X-Forwarded-For: {SPOOF}\r\n"
        return (start + self.pick("\r\n", "\r\n", "X-Swallow: ", "Content-Length: 400\r\n\r\n")).encode()

    def any_body(self):
        data = self.rng.randbytes(self.rng.randrange(0, 60)).hex().encode()
        if self.rng.random() < 0.5:
            return b"Content-Length: %d\r\n" % len(data), data
        return b"Transfer-Encoding: chunked\r\n", chunked(data, self.rng)

    def behind(self):
        """What follows in the same breath."""
        return self.pick(b"", b"", self.own("/behind"))


def chunked(data, rng, trailers=b""):
    out = b""
    while data:
        size = rng.randrange(1, len(data) + 1)
        out += b"%x\r\n%s\r\n" % (size, data[:size])
        data = data[size:]
    return out + b"0\r\n" + trailers + b"\r\n"


def framing(attack):
    """Lengths and codings, in all spellings, alone and together."""
    pick, body = attack.pick, attack.smuggled()
    if pick(True, False):
        body = pick(b"0\r\n\r\n" + body, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), b"0\n\n" + body)
    n = pick(len(body), 0, 1, 5, len(body) + 5, max(0, len(body) - 5))
    length_name = pick("Content-Length", "content-length", "Content-Length ", "Content-Length\t", " Content-Length",
                       "Content_Length", "X: y\rContent-Length", "X: y\nContent-Length", "Content\0-Length", "\x0bContent-Length",
                       "Content-Length:", "Content-\r\n Length", "Content-Length\xa0", "Content-Length\0")
    length = pick(f"{n}", f"{n}", f"+{n}", f"-{n}", f"0{n}", f" {n}", f"\t{n}", f"{n} ", f"{n},{n}", f"{n}, {n + 1}", f"0x{n:x}", f"{n};a",
                  f"{n}e0", f"{n}\x0b", f"\x0b{n}", f'"{n}"', f"{n}.0", "", "9" * 20, f"{2**64 + n}", f"{n}\r\n ", f"\r\n {n}", f"{n}\0",
                  f"{n}_0", f"{n}\xb2", f"{n}\r", f"{n} {n}")
    coding_name = pick("Transfer-Encoding", "transfer-encoding", "Transfer-Encoding ", "Transfer_Encoding", " Transfer-Encoding",
                       "Transfer-Encoding\t", "X: y\rTransfer-Encoding", "X: y\nTransfer-Encoding", "Transfer\0-Encoding",
                       "Transfer-\r\n Encoding", "Transfer-Encoding\x0b", "Transfer-Encodin\xe7", "\tTransfer-Encoding")
    coding = pick("chunked", "chunked", "Chunked", "CHUNKED", "xchunked", "chunked, identity", "identity, chunked", '"chunked"',
                  "chunked;q=1", "\tchunked", "  chunked", "chunked ", "chunked\x0b", "\x0bchunked", "chu\0nked", "gzip, chunked", ", chunked",
                  "chunked,", "identity", "cow", "chunked, chunked", "chunked\r\n\t", "\r\n chunked", "x\r\nTransfer-Encoding: chunked",
                  "chunked\r\nTransfer-Encoding: x", "ch\xfcnked", "chunked\n", "chunked\r", "'chunked'", "", "chunked\xa0", "trailers")
    lines = [f"{length_name}: {length}\r\n", f"{coding_name}: {coding}\r\n"]
    good_length, good_coding = f"Content-Length: {n}\r\n", "Transfer-Encoding: chunked\r\n"
    fields = pick(lines[:1], lines[1:], lines, lines[::-1], [good_length, lines[1]], [lines[0], good_coding], [lines[1], good_length],
                  [good_coding, lines[0]], [good_length, lines[0]], [lines[0], good_length], [good_coding, lines[1]], [lines[1], good_coding])
    method = pick("POST", "POST", "PUT", "GET", "DELETE", "PATCH", "OPTIONS", "QUERY")
    version = pick("1.1", "1.1", "1.1", "1.0")
    keep = pick(b"", b"", b"Connection: keep-alive\r\n", b"Connection: close\r\n")
    return attack.own("/framing", method, keep + "".join(fields).encode("latin-1"), body, version) + attack.behind()


def chunks(attack):
    """Chunk sizes, extensions, ends and trailers."""
    pick, body = attack.pick, attack.smuggled()
    n = len(body)
    size = pick(f"{n:x}", f"{n:X}", f"0x{n:x}", f"+{n:x}", f"-{n:x}", f"{n:x} ", f" {n:x}", f"0{n:x}", "0" * 20 + f"{n:x}", f"{n:x}\t", f"{n:x}_", f"{n:x}\0",
                f"{2**64 + n:x}", f"{2**32 + n:x}", "ffffffffffffffff", "", f"{n:x}\x0b", f"{n:x}g", f"{n:x}.", f"{n:x}\xa0", f"{n + 2:x}", f"{n - 1:x}")
    extension = pick("", "", ";a", ";a=b", '; a="b"', ";a\n", ';a="\r\n', ";\0", ";" + "x" * 300, ";\r", ' ;a="\\"', ";a=b;c=d", ";\x7f", ";\xff", "\r\r", ";a\rb")
    end = pick("\r\n", "\r\n", "\r\n", "\n", "\r", "\n\r", "\r\r\n", "")
    close = pick("\r\n", "\r\n", "\r\n", "\n", "\r", "", "\r\r\n", "xx", "\n\n", "\r\nx")
    last = pick("0\r\n", "0\r\n", "00\r\n", "0;x\r\n", "0 \r\n", "0\n", "0x0\r\n", "-0\r\n", "0\r", "+0\r\n", "000000000000000000000\r\n")
    trailers = pick("", "", "X-Good: 1\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Host: b.test\r\n", "X : y\r\n", " fold\r\n",
                    f"X-Forwarded-For: {SPOOF}\r\n", f"X_Forwarded_For: {SPOOF}\r\n", f"Forwarded: for={SPOOF}\r\n", "Connection: close\r\n", "no colon\r\n",
                    "X: \0\r\n", "X: y\n", "X: y\r", "Content_Length: 5\r\n", "Authorization: x\r\n", "X-Id: trailed\r\n", "Upgrade: h2c\r\n", "Proxy: evil\r\n")
    finish = pick("\r\n", "\r\n", "\r\n", "\n", "\r", "", " \r\n", "x\r\n")
    text = (size + extension + end).encode("latin-1") + body + (close + last + trailers + finish).encode("latin-1")
    return attack.own("/chunks", "POST", b"Transfer-Encoding: chunked\r\n", text) + attack.behind()


def lines(attack):
    """Line ends, folds, blanks, bytes that do not belong, old and new versions."""
    pick, id = attack.pick, attack.next_id()
    good = f"GET /lines HTTP/1.1\r\nHost: a.test\r\nX-Id: {id}\r\n\r\n"
    if attack.rng.random() < 0.4:
        first = pick("GET  /lines HTTP/1.1", "GET /lines  HTTP/1.1", "GET\t/lines HTTP/1.1", "GET /lines", "GET /lines HTTP/0.9", "GET /lines HTTP/1.2",
                     "GET /lines HTTP/2.0", "GET /lines http/1.1", "GET /lines HTTP/1.1 ", "GET /lines HTTP/1.1\t", "GET /lines HTTP/01.1", "GET /lines HTTP/1.10",
                     " GET /lines HTTP/1.1", "GET /li nes HTTP/1.1", "GET /lines\0 HTTP/1.1", "G\0ET /lines HTTP/1.1", "GET /l\xefnes HTTP/1.1", "get /lines HTTP/1.1",
                     "GET /lines HTTP/1.1 HTTP/1.1", "GET lines HTTP/1.1", "GET /lines HTTP/1,1", "GET /lines#x HTTP/1.1", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                     "GET /lines\x7f HTTP/1.1", "GET /lines HTTP/+1.1", "GET /lines HTTP/1.1\r", "\r\nGET /lines HTTP/1.1", "\nGET /lines HTTP/1.1",
                     "\r\n\r\nGET /lines HTTP/1.1", "GET * HTTP/1.1", "OPTIONS * HTTP/1.1", "CONNECT a.test:80 HTTP/1.1", "TRACE /lines HTTP/1.1",
                     "GET /lines HTTP/1.0", "GET /lines HTTP/1.0\r\nConnection: keep-alive", "POST /lines HTTP/1.0\r\nContent-Length: 3")
        text = good.replace("GET /lines HTTP/1.1", first, 1)
    else:
        odd = pick("X : y\r\n", "X\t: y\r\n", " X: y\r\n", "\tX: y\r\n", "X: y\r\n z\r\n", "X: y\r\n\tz\r\n", ": y\r\n", "X\r\n", "X: y\n", "X: y\r", "X: \0\r\n", "X\0: y\r\n",
                   "X: \x01\r\n", "X: \x7f\r\n", "X: \xe9\r\n", "\xe9: y\r\n", "X: y\r\r\n", "X(a): y\r\n", "X[]: y\r\n", "X@: y\r\n", "X: " + "y" * 20000 + "\r\n",
                   "X: y\r\n" * 120, "\r\n ", "\n\n", "\n\r\n", "\r\r\n", "X: y\r\n\r", "\x0bX: y\r\n", "X: y\x0b\r\n", "X:\r\n", "X:y\r\n", "X: \t y \t \r\n", "\r\n\n",
                   "X: y\x85Z: w\r\n", 'X": y\r\n', "X: y\r\n : z\r\n")
        at = pick("Host", "X-Id", "\r\n\r\n")
        text = good.replace(at, odd + at if at != "\r\n\r\n" else "\r\n" + odd + "\r\n", 1)
    return text.encode("latin-1") + pick(b"", attack.smuggled(), attack.own("/behind"))


def hosts(attack):
    """Who is asked: Host and absolute targets."""
    pick, id = attack.pick, attack.next_id()
    target = pick("/hosts", "http://a.test/hosts", "http://b.test/hosts", "http://a.test", "HTTP://A.TEST/hosts", "http://a.test:80/hosts", "http://a@b.test/hosts",
                  "http:///hosts", "http://a.test?x", "https://a.test/hosts", "ftp://a.test/", "http:/a.test/", "//b.test/hosts", "http://a.test\\@b.test/",
                  "http://a.test#@b.test/", "http://a.test/http://b.test/", "http://[::1]/hosts", "http://a.test:/hosts", "http://a.test/../private/x",
                  "@b.test/", "*", "http://a.test//private/x")
    host = pick(["a.test"], ["a.test"], ["A.TEST"], ["a.test:80"], ["a.test", "b.test"], ["a.test", "a.test"], [], [""], ["a.test, b.test"], ["a@b.test"],
                ["a.test/x"], ["a.test:x"], ["a.test:99999"], ["a.test "], ["a.test\tb.test"], ["a.test?x"], ["a.test#x"], ["[::1]"], ["a..test"], ["a.test\\b"], ["%61.test"],
                ["a.test:80:80"], ["\x7f"], ["a.test\r\n b.test"])
    names = [pick("Host", "host", "HOST", "Host ", " Host", "X: y\nHost", "Ho\0st") for _ in host]
    fields = "".join(f"{name}: {value}\r\n" for name, value in zip(names, host))
    version = pick("1.1", "1.1", "1.0")
    return f"GET {target} HTTP/{version}\r\n{fields}X-Id: {id}\r\n\r\n".encode("latin-1") + attack.behind()


def paths(attack):
    """Ways to /private that a server might find, and the routes might not."""
    pick = attack.pick
    attack.is_routed = True
    parts = ["/", "/", "//", "private", "%70rivate", "priv%61te", "PRIVATE", "..", ".", "%2e%2e", ".%2e", "%2E.", "%2f", "%2F", "%5c", "\\", ";", ";x", "..;", "%00", "%252e%252e",
             "%252f", "a", "a", "%c0%ae", "%c0%af", "%u002e", "%", "%2", "?", "#", "%3f", "%23", "%20", "%09", "%0d%0a", "~", "%ef%bc%8f", "*", "'", "%7e", ":", "@", "&", "..%00", "%2e%2e%2f"]
    start = pick("/private", "//private", "/./private", "/a/../private", "/a/%2e%2e/private", "/a/..%2fprivate", "/%2e/private", "/a/..;/private", "/a%2f..%2fprivate", "/%70rivate",
                 "/a/..\\private", "/a/..%5cprivate", "/private%2fx", "/private;x", "/private%00", "/private/", "/a//../private", "/a/b/../../private", "/%2fprivate", "/..%2fprivate",
                 "/a/.%00./private", "/x/%2e%2e%2fprivate", "/private%20", "/private.", "/private%09", "/private%3b", "/a/.//../private", "/?/../private", "/a?/../../private",
                 "/%%37%30rivate", "/pri%76ate/..%2fprivate", "/a;/../private", "/a;..;/private", "/..;a/private", "http://a.test/a/../private", "http://a.test//private", None, None, None)
    if start is None:
        start = "/" + "".join(pick(*parts) for _ in range(attack.rng.randrange(1, 9)))
    else:
        start += "".join(pick(*parts) for _ in range(pick(0, 0, 1, 2, 4)))
    return attack.own(start) + attack.behind()


def hops(attack):
    """Fields that belong to a connection, those that Connection names, and those that say who the client is."""
    pick = attack.pick
    named = pick("close, X-Forwarded-For", "X-Hop", "keep-alive, X-Hop", "x-hop,", ", ,X-Hop", "X-Hop, Host", "X-Hop, Content-Length", "X-Hop, Transfer-Encoding", "close, Via, X-Hop",
                 "X-Hop, Cookie, Authorization", "X-HOP", "upgrade, X-Hop", "X-Hop, X-Forwarded-For, X-Forwarded-Proto", "X-Hop, " + ", ".join(f"a{n}" for n in range(40)), "TE, X-Hop", "X-Hop, Date")
    more = pick("", f"X-Forwarded-For: {SPOOF}\r\n", f"X_Forwarded_For: {SPOOF}\r\n", f"x-forwarded-FOR: {SPOOF}\r\nX-Forwarded-For: {SPOOF}\r\n", f"Forwarded: for={SPOOF}\r\n",
                f"X-Real-IP: {SPOOF}\r\n", f"X-Forwarded_For: {SPOOF}\r\n", f"X-Forwarded-For : {SPOOF}\r\n", "Proxy: evil\r\n", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
                "Keep-Alive: timeout=5\r\n", "Proxy-Connection: keep-alive\r\n", "TE: trailers, deflate\r\n", "Te: chunked\r\n", "Trailer: X-A\r\n", "Proxy-Authorization: Basic eA==\r\n",
                "Max-Forwards: 0\r\n", "Range: bytes=0-1\r\n", "Cookie: " + "a=b; " * 200 + "\r\n")
    again = pick("", "", "Connection: X-Hop\r\n", "CONNECTION: close\r\n")
    fields = f"Connection: {named}\r\n{more}{again}X-Hop: kept\r\n".encode()
    framed, body = attack.any_body() if pick(True, False) else (b"", b"")
    return attack.own("/hops", pick("GET", "POST", "OPTIONS"), fields + framed, body) + attack.behind()


def expects(attack):
    """Expect, with the body at once, later or never."""
    pick = attack.pick
    expect = pick("100-continue", "100-Continue", "100-continue", "100-continue, x", "200-ok", "", "100-continue\r\nExpect: 100-continue", "100-continue;q", "100 -continue")
    framed, body = attack.any_body()
    if pick(True, False):
        body = pick(b"", body[:3], body, attack.smuggled())
    target = pick("/expects", "/early")
    version = pick("1.1", "1.1", "1.0")
    return attack.own(target, "POST", b"Expect: " + expect.encode() + b"\r\n" + framed, body, version) + attack.behind()


def upgrades(attack):
    """Other protocols, asked for with and without a body, and what follows as if it were one."""
    pick = attack.pick
    protocol = pick("h2c", "websocket", "websocket", "WebSocket", "websocket, h2c", "h2c\r\nUpgrade: websocket", "websocket\r\nUpgrade: h2c", "TLS/1.0", "HTTP/2.0", "websocket/13", "")
    connection = pick("Upgrade", "upgrade, HTTP2-Settings", "Upgrade\r\nConnection: close", "keep-alive, Upgrade", "close", "Upgrade, X-Forwarded-For", "")
    fields = f"Connection: {connection}\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    fields += pick("", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "Sec-WebSocket-Version: 777\r\nSec-WebSocket-Key: x\r\n")
    framed, body = attack.any_body() if pick(True, False, False) else (b"", b"")
    return attack.own("/upgrades", pick("GET", "GET", "POST"), fields.encode() + framed, body) + pick(b"", attack.smuggled(), attack.own("/behind"))


def pipelines(attack):
    """Several requests in a row, of which all are good; for some the answer comes before they are read."""
    pick, out = attack.pick, b""
    for _ in range(attack.rng.randrange(1, 7)):
        kind = attack.rng.randrange(8)
        target = pick("/pipelines", "/pipelines?a=b", "/early")
        if kind < 3:
            out += attack.own(target, pick("GET", "GET", "HEAD", "DELETE"))
        elif kind < 6:
            framed, body = attack.any_body()
            out += attack.own(target, pick("POST", "PUT", "GET"), framed, body)
        elif kind == 6:
            data = b"d" * attack.rng.randrange(1, 100_000)
            out += attack.own(target, "POST", b"Content-Length: %d\r\n" % len(data), data)
        else:
            out += attack.own(target, fields=b"Connection: keep-alive\r\n", version="1.0")
    if attack.rng.random() < 0.2:
        out += attack.own(fields=b"Connection: close\r\n")
    return out


def aborts(attack):
    """Good requests that are left at any byte, by an end or a reset."""
    pick = attack.pick
    attack.ends_by = pick("fin", "rst")
    whole = pick(
        lambda: attack.own("/aborts"),
        lambda: attack.own("/aborts", "POST", b"Content-Length: 30\r\n", b"b" * 30),
        lambda: attack.own("/aborts", "POST", b"Transfer-Encoding: chunked\r\n", chunked(attack.smuggled(), attack.rng, b"X-Sum: 1\r\n")),
        lambda: attack.own("/early", "POST", b"Content-Length: 3000\r\n", (attack.smuggled() * 30)[:3000]),
        lambda: attack.own("/aborts", "POST", b"Expect: 100-continue\r\nContent-Length: 9\r\n", b"b" * 9) + attack.own("/behind"),
    )()
    return whole[: attack.rng.randrange(1, len(whole) + 1)]


KINDS = {
    "framing": (30, framing),
    "chunks": (18, chunks),
    "lines": (12, lines),
    "hosts": (7, hosts),
    "paths": (12, paths),
    "hops": (6, hops),
    "expects": (5, expects),
    "upgrades": (5, upgrades),
    "pipelines": (8, pipelines),
    "aborts": (15, aborts),
}


def strictly(data):
    """The methods and targets of the requests in `data` if it is nothing but good and plain ones, else None. Who reads less strictly than this
    may see something else in what is not plain."""
    requests = []
    while data:
        line = REQUEST_LINE.match(data)
        if not line or line[1] in (b"TRACE", b"CONNECT"):
            return None
        at, fields = line.end(), []
        while data[at : at + 2] != b"\r\n":
            field = FIELD.match(data, at)
            if not field:
                return None
            at = field.end()
            fields.append((field[1].lower(), field[2].lower()))
        at += 2
        values = dict(fields)
        is_plain = len(values) == len(fields) and values.get(b"host") == b"a.test" and len(fields) < 50
        plain = {b"host", b"x-id", b"content-length", b"transfer-encoding", b"connection"}
        if not is_plain or not set(values) <= plain or values.get(b"connection", b"keep-alive") not in (b"keep-alive", b"close"):
            return None
        coding, length = values.get(b"transfer-encoding"), values.get(b"content-length")
        if coding is not None:
            if coding != b"chunked" or length is not None or line[3] == b"0":
                return None
            while True:
                size = CHUNK.match(data, at)
                if not size:
                    return None
                at = size.end() + int(size[1], 16)
                if data[at : at + 2] != b"\r\n":
                    return None
                at += 2
                if int(size[1], 16) == 0:
                    break
        elif length is not None:
            if not re.fullmatch(rb"0|[1-9][0-9]{0,6}", length):
                return None
            at += int(length)
        if at > len(data):
            return None
        is_last = values.get(b"connection") == b"close" or line[3] == b"0" and b"connection" not in values
        requests.append((line[1].decode(), line[2].decode(), values.get(b"x-id", b"").decode(), is_last))
        data = data[at:]
    return requests
