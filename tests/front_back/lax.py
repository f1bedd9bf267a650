"""A proxy as it should not be, by which the alarms are tried: `lax.py PORT BEHIND`. It believes Content-Length alone, takes any line end, copies fields
as they came, and sends everything over one connection."""

import asyncio
import re
import sys


async def main():
    port, behind = map(int, sys.argv[1:])
    lock, upstream = asyncio.Lock(), []

    async def serve(reader, writer):
        try:
            while True:
                head = b""
                while not re.search(rb"\r?\n\r?\n\Z", head):
                    line = await reader.readuntil(b"\n")
                    head += line
                length = re.search(rb"(?i)\ncontent-length[ \t]*:[ \t]*\+?([0-9]+)", head)
                body = await reader.readexactly(int(length[1][:6]) if length else 0)
                async with lock:
                    if not upstream:
                        upstream.extend(await asyncio.open_connection("127.0.0.1", behind))
                    try:
                        upstream[1].write(re.sub(rb"\r?\n\r?\n\Z", b"\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n", head) + body)
                        reply = await asyncio.wait_for(upstream[0].readuntil(b"\r\n\r\n"), 0.5)
                        length = re.search(rb"(?i)\ncontent-length: ([0-9]+)", reply)
                        reply += await upstream[0].readexactly(int(length[1])) if length else b""
                    except BaseException:
                        upstream[1].close()
                        upstream.clear()
                        raise
                writer.write(reply)
        except (asyncio.IncompleteReadError, asyncio.TimeoutError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


asyncio.run(main())
