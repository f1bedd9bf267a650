"""What `ringmill proxy` takes in memory for a gigabyte down, a gigabyte up and down again, and a thousand clients that ask for 8 MiB and do not
read; Ringmill is behind it, too. By hand: `python3 tests/proxy_memory.py DIRECTORY_OF_RINGMILL uring|poll` (and `ulimit -n 8000`)."""

import socket
import subprocess
import sys
import threading
import time

GIB = 1 << 30
READERS = 1000


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    raise SystemExit("it does not start")


def rss(process):
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def ask(port, head):
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(head.encode() + b"\r\n\r\n")
    return client


def drink(client, proxy, before):
    """Reads a gigabyte. The most that the proxy had meanwhile."""
    buffer, got, peak, reads = bytearray(1 << 20), 0, 0, 0
    while got < GIB:
        read = client.recv_into(buffer)
        if read == 0:
            raise SystemExit(f"it ended after {got} bytes")
        got, reads = got + read, reads + 1
        if reads % 100 == 0:
            peak = max(peak, rss(proxy))
    return (peak - before) / 1e6


def main():
    program, driver = f"{sys.argv[1]}/ringmill", sys.argv[2]
    behind, port = free_port(), free_port()
    common = ["--workers", "1", "--pin", "off", "--driver", driver, "--max-memory", "8GiB"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    children = [subprocess.Popen([program, "serve", "--listen", f"127.0.0.1:{behind}", *common], **quiet)]
    try:
        wait_for(behind)
        more = ["--upstream-connections", str(2 * READERS)]
        proxy = subprocess.Popen([program, "proxy", str(port), str(behind), *common, *more], **quiet)
        children.append(proxy)
        wait_for(port)
        before = rss(proxy)
        down = drink(ask(port, f"GET /bytes/{GIB} HTTP/1.1\r\nHost: a"), proxy, before)
        client = ask(port, f"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {GIB}")
        sender = threading.Thread(target=lambda: [client.sendall(bytes(1 << 20)) for _ in range(GIB >> 20)])
        sender.start()
        both = drink(client, proxy, before)
        sender.join()
        before, readers = rss(proxy), []
        for _ in range(READERS):
            reader = socket.socket()
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", port))
            reader.sendall(b"GET /bytes/8388608 HTTP/1.1\r\nHost: a\r\n\r\n")
            readers.append(reader)
        last, now = 0, rss(proxy)
        while abs(now - last) > 1_000_000:
            time.sleep(2)
            last, now = now, rss(proxy)
        each = (now - before) / READERS / 1e3
        victim = ask(port, "GET /plaintext HTTP/1.1\r\nHost: a")
        assert victim.recv(15) == b"HTTP/1.1 200 OK"
        print(f"{driver}: a gigabyte down +{down:.1f} MB, both ways +{both:.1f} MB; {READERS} slow readers {each:.0f} kB each")
    finally:
        for child in children:
            child.kill()
            child.wait()


main()
