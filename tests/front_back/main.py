"""Attacks on `ringmill proxy` and `ringmill serve --config` in front of other servers: `../front_back.sh`.

Each attack is followed by victims: one on its own connection, where that goes on, one on another. The alarms:
- a request reaches the server behind it that the proxy has not marked, which it does with X-Forwarded-For: it was smuggled;
- a victim gets the reply to somebody else's request, or none; or anybody gets a reply to what somebody else asked;
- a good request is not answered; a field that belongs to a connection, or is a client's word for who it is, reaches the server; a
  path that a route keeps for itself is reached by way of another spelling.
An alarm names its number: `--backend NAME --seed S --only N` does it again, alone."""

import argparse
import asyncio
import os
import posixpath
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from urllib.parse import unquote

import backends
from attacks import SPOOF, Attack, strictly

LANES = 16
PATIENCE = 10
# So long nothing may come before an attack is given up of which nobody knows what should come.
QUIET = 0.04
SAID = re.compile(rb"id=(.*?)\|up=(.*?)\|xff=(.*?)\|hop=(.*?)\|proxy=(.*?)\|real=(.*?)\|path=(.*)", re.S)


class Gone(Exception):
    """The connection has ended, or nothing comes in time."""


class Reply:
    def __init__(self, status, fields, body):
        self.status, self.body = status, body
        self.closes = "close" in fields.get("connection", "")
        self.is_passed_on = "via" in fields
        said = SAID.fullmatch(body)
        values = [part.decode("latin-1") for part in said.groups()] if said else [""] * 7
        self.id, self.up, self.xff, self.hop, self.proxy, self.real, self.path = values


class Connection:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port):
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def send(self, data):
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            pass

    async def reply(self, is_head, patience):
        """The next final reply."""
        try:
            return await asyncio.wait_for(self.read(is_head), patience)
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            raise Gone(type(error).__name__) from error

    async def read(self, is_head):
        while True:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = int(head.split(" ", 2)[1])
            if status == 101 or status >= 200:
                break
        fields = {}
        for line in head.split("\r\n")[1:-2]:
            name, value = line.split(": ", 1)
            fields[name.lower()] = value.lower()
        body = b""
        if is_head or status in (101, 204, 304):
            pass
        elif "content-length" in fields:
            body = await self.reader.readexactly(int(fields["content-length"]))
        elif "transfer-encoding" in fields:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readuntil(b"\r\n")
        else:
            body = await self.reader.read()
        return Reply(status, fields, body)

    def is_open(self):
        return not self.reader.at_eof() and not self.writer.is_closing()

    def reset(self):
        one = self.writer.get_extra_info("socket")
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self):
        self.writer.transport.abort()


class Run:
    """All attacks on one proxy in front of one backend."""

    def __init__(self, backend, fronts, seed):
        self.backend, self.fronts, self.seed = backend, fronts, seed
        self.alarms, self.counts, self.victims = [], Counter(), {}
        # Requests that the server behind refused and whose client was told so.
        self.refused_behind = 0

    def alarm(self, number, what):
        self.alarms.append(f"{self.backend.name} --seed {self.seed} --only {number}: {what}")

    def check(self, number, reply, id_start):
        """What holds for every reply."""
        self.counts[reply.status] += 1
        self.refused_behind += reply.is_passed_on and reply.status in (400, 501)
        if reply.id and not reply.id.startswith(id_start):
            self.alarm(number, f"got the reply to {reply.id}")
        if SPOOF in reply.xff + reply.real or reply.id and reply.xff.split(", ")[-1] != "127.0.0.1":
            self.alarm(number, f"the server was told that the client is {reply.xff!r}, {reply.real!r}")
        if reply.proxy:
            self.alarm(number, f"Proxy: {reply.proxy}")

    async def attack(self, attack):
        number, port = attack.number, self.fronts[attack.is_routed]
        connection = await Connection.to(port)
        for piece in attack.cuts:
            await connection.send(piece)
            if len(attack.cuts) > 1:
                await asyncio.sleep(0.001)
        if attack.ends_by:
            if attack.rng.random() < 0.5:
                await asyncio.sleep(attack.rng.random() * 0.01)
            connection.reset() if attack.ends_by == "rst" else connection.close()
        else:
            await self.replies(attack, connection)
        connection.close()
        await self.victim(attack, port)

    async def replies(self, attack, connection):
        number, good = attack.number, strictly(attack.bytes)
        self.counts["good" if good else "odd"] += 1
        if not good:
            # What is odd may be refused at any point, or wait for more.
            while True:
                try:
                    # Room for where a good part is answered slowly.
                    reply = await connection.reply("HEAD " in attack.bytes.decode("latin-1"), QUIET if self.backend.name != "gunicorn" else 4 * QUIET)
                except (Gone, ValueError):
                    break
                self.check(number, reply, attack.id_start)
                self.check_odd(attack, reply)
            if not connection.is_open():
                return
            # Whatever it was: the next request gets its own reply, none, or is part of it.
            await connection.send(attack.own("/victim"))
            try:
                self.check(number, await connection.reply(False, QUIET), attack.id_start)
            except (Gone, ValueError):
                pass
            return
        for method, target, id, is_last in good:
            try:
                reply = await connection.reply(method == "HEAD", PATIENCE)
            except Gone as gone:
                # Who answers before a body came may end the connection with it.
                is_early = any("/early" in target for _, target, *_ in good)
                if not (is_early and not connection.is_open()):
                    self.alarm(number, f"{method} {target} {id} is not answered: {gone}")
                return
            self.check(number, reply, attack.id_start)
            self.check_odd(attack, reply)
            if method != "HEAD" and reply.status == 200 and reply.id != id:
                self.alarm(number, f"{id} got the reply to {reply.id!r}")
            elif method == "POST" and reply.status == 502:
                self.counts["lost posts"] += 1
            elif reply.status >= 500:
                self.alarm(number, f"{method} {target} {id} got {reply.status} {reply.body}")
            if reply.closes or is_last:
                return
        await connection.send(attack.own("/victim"))
        try:
            reply = await connection.reply(False, PATIENCE)
        except Gone as gone:
            return self.alarm(number, f"the victim on the same connection is not answered: {gone}")
        self.check(number, reply, attack.id_start)
        if reply.id != f"{attack.id_start}{attack.ids}":
            self.alarm(number, f"the victim on the same connection got {reply.status} {reply.id!r}")

    def check_odd(self, attack, reply):
        if attack.kind == "hops" and reply.id and reply.hop and b"\r\nConnection: close, X-Forwarded-For\r\n" not in attack.bytes:
            self.alarm(attack.number, f"a field that Connection names was passed on: {reply.hop}")
        if reply.up and not (attack.kind == "upgrades" and reply.up == "websocket"):
            self.alarm(attack.number, f"Upgrade: {reply.up}")
        path = reply.path
        if self.backend.name in ("strict", "ringmill"):
            # They say it as it came, and it is read as Java's servers do.
            path = unquote("/".join(part.split(";")[0] for part in re.split(r"/|%2F", path.split("?")[0])))
        # As it stands, and for a server that takes backslashes for slashes.
        readings = [posixpath.normpath("/" + reading).lstrip("/").split("/")[0] for reading in (path, path.replace("\\", "/"))]
        if attack.is_routed and "private" in readings:
            self.alarm(attack.number, f"reached {reply.path!r}")

    async def victim(self, attack, port):
        """A request on a connection of another client, which goes on from attack to attack."""
        key = (port, attack.number % LANES)
        connection, number = self.victims.get(key), attack.number
        if connection is None or not connection.is_open():
            connection = self.victims[key] = await Connection.to(port)
        id = f"v{attack.id_start}{attack.number}"
        body = b"victim" if attack.number % 3 == 0 else b""
        method, length = ("POST", b"Content-Length: 6\r\n") if body else ("GET", b"")
        await connection.send(f"{method} /victim HTTP/1.1\r\nHost: a.test\r\nX-Id: {id}\r\n".encode() + length + b"\r\n" + body)
        try:
            reply = await connection.reply(False, PATIENCE)
        except Gone as gone:
            self.victims.pop(key)
            return self.alarm(number, f"the victim is not answered: {gone}")
        self.check(number, reply, id)
        if reply.status != 200 or reply.id != id:
            # A POST on a connection that the server ended just then fails, and has to.
            is_lost = bool(body) and reply.status == 502
            self.counts["lost posts"] += is_lost
            if not is_lost:
                self.alarm(number, f"the victim {id} got {reply.status} {reply.id!r} {reply.body[:200]}")

    def check_seen(self):
        with open(self.backend.seen, "rb") as file:
            lines = file.read().decode("latin-1").splitlines()
        marked = refused = 0
        for line in lines:
            xff, *rest = line.split("|", 2)
            # Some refuse a request line before they read a field.
            is_refused = re.match(r"-?\|-?\|", line) and re.search(r"\|(400|501)( [A-Z-]+)?$", line)
            if xff == "127.0.0.1":
                marked += 1
            elif is_refused and refused < self.refused_behind:
                refused += 1
            elif line.strip() and not (line.startswith("[") or "NOTICE" in line):
                number = re.search(rf"{self.seed}-([0-9]+)-", line)
                self.alarm(number[1] if number else "?", f"a request without its mark: {line!r}")
        return marked

    async def lane(self, numbers):
        for number in numbers:
            await self.attack(Attack(self.seed, number))

    async def all(self, numbers):
        lanes = [[number for number in numbers if number % LANES == lane] for lane in range(LANES)]
        await asyncio.gather(*(self.lane(lane) for lane in lanes))
        for connection in self.victims.values():
            connection.close()
        await asyncio.sleep(0.3)


FILE = """
[server]
workers = 1
pin = "off"
driver = "{driver}"
[[listen]]
address = "127.0.0.1:{port}"
[[route]]
to = "app"
[[route]]
match = {{ path = "/private" }}
reply = {{ status = 403, body = "private" }}
[upstream.app]
servers = ["127.0.0.1:{behind}"]
timeout = {{ first_byte = "5s" }}
"""


def start_fronts(ringmill, backend, scratch, arguments):
    fronts, children = {}, []
    log = open(os.path.join(scratch, f"{backend.name}.front"), "ab")
    for is_routed in (False, True):
        port = backends.free_port()
        command = [ringmill, "proxy", str(port), str(backend.port), "--workers", "1", "--pin", "off", "--driver", arguments.driver, "--first-byte-timeout", "5s"]
        if is_routed:
            path = os.path.join(scratch, f"{backend.name}.toml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(FILE.format(driver=arguments.driver, port=port, behind=backend.port))
            command = [ringmill, "serve", "--config", path]
        if arguments.lax:
            command = ["python3", os.path.join(os.path.dirname(__file__), "lax.py"), str(port), str(backend.port)]
        # Every option of ringmill is also a variable, and a file takes none.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RINGMILL_")}
        children.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        backends.wait_for(port)
        fronts[is_routed] = port
    return fronts, children, log.name


def run_backend(name, arguments, scratch):
    backend = backends.Backend(name, scratch, arguments.ringmill)
    fronts, children, log = start_fronts(arguments.ringmill, backend, scratch, arguments)
    run, began = Run(backend, fronts, arguments.seed), time.monotonic()
    try:
        numbers = [arguments.only] if arguments.only is not None else range(arguments.count)
        asyncio.run(run.all(numbers))
        marked = run.check_seen()
        if run.counts["lost posts"] * 100 > len(numbers):
            run.alarm("?", f"{run.counts['lost posts']} times POST was lost")
        for child in children:
            if child.poll() is not None:
                run.alarm("?", f"the proxy ended with {child.returncode}")
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                run.alarm("?", f"{child.args} does not end, though all clients have left")
    finally:
        for child in children:
            child.kill()
            child.wait()
        backend.stop()
    with open(log, encoding="utf-8", errors="replace") as file:
        if "panicked" in file.read():
            run.alarm("?", "the proxy panicked")
    counts = ", ".join(f"{key}: {run.counts[key]}" for key in sorted(run.counts, key=str))
    print(f"  {name}: {len(numbers)} attacks in {time.monotonic() - began:.0f} s, {marked} requests arrived marked ({counts})")
    if marked == 0:
        run.alarm("?", "nothing has arrived")
    return run.alarms


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ringmill", required=True)
    parser.add_argument("--backend", action="append", help="only this one; repeat for several")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", type=int)
    parser.add_argument("--driver", default="auto")
    parser.add_argument("--lax", action="store_true", help="attack a proxy that is wrong: there must be alarms of every kind")
    parser.add_argument("--keep", action="store_true", help="leave the logs")
    arguments = parser.parse_args()
    has, lacks = backends.there()
    for name in lacks:
        if not arguments.backend or name in arguments.backend:
            print(f"  left out: {name}, as there is no {backends.PROGRAMS[name]}")
    alarms, scratch = [], tempfile.mkdtemp()
    os.chmod(scratch, 0o755)
    try:
        for name in has:
            if not arguments.backend or name in arguments.backend:
                alarms += run_backend(name, arguments, scratch)
    finally:
        if arguments.keep:
            print(scratch)
        else:
            shutil.rmtree(scratch)
    for alarm in alarms[:100]:
        print(f"ALARM: {alarm}", file=sys.stderr)
    if alarms:
        sys.exit(f"{len(alarms)} alarms")


main()
