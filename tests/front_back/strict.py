"""A server that takes only what a proxy may send: `strict.py PORT LOG`. What breaks the rules is a line that begins with `!`."""

import asyncio
import re
import sys

LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.1")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e\x80-\xff]*)")
HOP = {"transfer-encoding", "content-length", "connection", "upgrade", "te", "keep-alive", "proxy-connection", "http2-settings", "expect", "proxy"}


class Broken(Exception):
    pass


async def read_head(reader):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head[:-4].split(b"\r\n")
    line = LINE.fullmatch(lines[0])
    if not line:
        raise Broken(f"a request line {lines[0]!r}")
    fields = {}
    for text in lines[1:]:
        field = FIELD.fullmatch(text)
        if not field:
            raise Broken(f"a field {text!r}")
        fields.setdefault(field[1].decode().lower().replace("_", "-"), []).append(field[2].decode("latin-1"))
    for name in HOP | {"host"}:
        if len(fields.get(name, [])) > 1:
            raise Broken(f"{name} twice")
    coding, length = fields.get("transfer-encoding"), fields.get("content-length")
    if coding and length:
        raise Broken("two framings")
    if coding and coding != ["chunked"]:
        raise Broken(f"the coding {coding}")
    if length and not re.fullmatch(r"0|[1-9][0-9]*", length[0]):
        raise Broken(f"the length {length}")
    for name, good in (("connection", {"te", "upgrade"}), ("te", {"trailers"}), ("upgrade", {"websocket"}), ("expect", {"100-continue"}),
                       ("keep-alive", ()), ("proxy-connection", ()), ("http2-settings", ()), ("proxy", ())):
        if fields.get(name, [None])[0] not in {None, *good}:
            raise Broken(f"{name}: {fields[name]}")
    if "host" not in fields:
        raise Broken("no host")
    return line[1].decode(), line[2].decode(), {name: ", ".join(values) for name, values in fields.items()}


async def read_body(reader, fields):
    if "content-length" in fields:
        await reader.readexactly(int(fields["content-length"]))
    while "transfer-encoding" in fields:
        line = await reader.readuntil(b"\r\n")
        if not re.fullmatch(rb"[0-9a-f]+\r\n", line):
            raise Broken(f"a chunk's line {line!r}")
        size = int(line, 16)
        if size == 0:
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                field = FIELD.fullmatch(line[:-2])
                if not field or field[1].decode().lower().replace("_", "-") in HOP | {"host", "x-forwarded-for", "forwarded", "x-real-ip"}:
                    raise Broken(f"a trailer {line!r}")
            return
        data = await reader.readexactly(size + 2)
        if data[-2:] != b"\r\n":
            raise Broken("a chunk without its end")


async def serve(reader, writer, log):
    def note(text):
        log.write(text.encode("latin-1", "replace") + b"\n")
    try:
        while head := await read_head(reader):
            method, target, fields = head
            note(f"{fields.get('x-forwarded-for', '')}|{fields.get('x-id', '')}|{method} {target}")
            of = lambda name: fields.get(name, "")
            said = f"id={of('x-id')}|up={of('upgrade')}|xff={of('x-forwarded-for')}|hop={of('x-hop')}|proxy={of('proxy')}|real={of('x-real-ip')}|path={target}".encode()
            is_early = target.startswith("/early")
            if not is_early:
                if "expect" in fields:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await read_body(reader, fields)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + (said if method != "HEAD" else b""))
            if is_early:
                await read_body(reader, fields)
            await writer.drain()
    except Broken as broken:
        note(f"!{broken}")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    except asyncio.LimitOverrunError:
        note("!a head or a line without an end")
    finally:
        writer.transport.abort()


async def main():
    with open(sys.argv[2], "ab", buffering=0) as log:
        server = await asyncio.start_server(lambda reader, writer: serve(reader, writer, log), "127.0.0.1", int(sys.argv[1]))
        await server.serve_forever()


try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
