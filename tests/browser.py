"""What Chromium makes of `ringmill serve` and of `ringmill proxy`, for tests/browser.sh, which says what it needs: browser.py RINGMILL DRIVER FOLDER_FOR_PROFILES

One browser, told what to do through its pipe for debuggers (Chrome DevTools Protocol), and a relay between it and the server that can
cut all connections, and be pointed at another server.
"""

import json, os, re, signal, socket, subprocess, sys, threading, time, urllib.request


class Server:
    """A running ringmill; `log` is what it said until it was ready."""

    def __init__(self, *options, what=("serve", "--listen", "127.0.0.1:0")):
        command = [ringmill, *what, "--driver", driver, "--workers", "2", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log = ""
        while "worker(s) on CPU" not in self.log:
            line = self.process.stderr.readline()
            if not line:
                raise SystemExit(f"the server did not start: {self.log}")
            self.log += line
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.port = int(re.search(r"listening on 127\.0\.0\.1:(\d+)", self.log)[1])

    def publish(self, topic, text):
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/publish/{topic}", text.encode(), timeout=20).read()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        expect("exit status of the server", 0, self.process.wait(30))


class Relay:
    """Carries connections to a server, and counts them."""

    def __init__(self, server):
        self.server, self.count, self.sockets = server, 0, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            self.count += 1
            try:
                server = socket.create_connection(("127.0.0.1", self.server.port))
            except OSError:
                client.close()
                continue
            self.sockets += [client, server]
            for source, sink in (client, server), (server, client):
                threading.Thread(target=self.carry, args=(source, sink), daemon=True).start()

    def carry(self, source, sink):
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self):
        for one in self.sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.sockets.clear()


class Browser:
    def __init__(self, name, *options):
        (read, theirs_out), (theirs_in, write) = os.pipe(), os.pipe()
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--remote-debugging-pipe",
                   f"--user-data-dir={folder}/{name}", *options, "about:blank"]
        # It reads what it is told from descriptor 3, and answers on 4. (sh of Debian knows no descriptors above 9.)
        self.process = subprocess.Popen(["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
                                        pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        os.close(theirs_in), os.close(theirs_out)
        self.write, self.read, self.last = os.fdopen(write, "wb", 0), os.fdopen(read, "rb"), 0

    def end(self):
        self.process.kill()
        self.process.wait()

    def tell(self, method, session=None, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self.write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = b""
            while not answer.endswith(b"\0"):
                byte = self.read.read(1)
                if not byte:
                    raise SystemExit("chromium has ended")
                answer += byte
            answer = json.loads(answer[:-1])
            if answer.get("id") == self.last:
                return answer.get("result") or answer

    def open(self, url, shown=None):
        """A page, once it is there; `shown` is its address if that is another one."""
        target = self.tell("Target.createTarget", url=url)["targetId"]
        page = Page(self, self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        there = f"{shown or url} complete"
        until(f"{url} is loaded", lambda: page.run("location.href + ' ' + document.readyState") == there)
        return page


class Page:
    def __init__(self, browser, session):
        self.browser, self.session = browser, session

    def run(self, script):
        """The value of an expression, once it has one."""
        answer = self.browser.tell("Runtime.evaluate", self.session, expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            return f"exception: {answer['exceptionDetails'].get('exception', answer['exceptionDetails'])}"
        return answer.get("result", {}).get("value", answer)


def expect(what, expected, got):
    if expected != got:
        raise SystemExit(f"FAILED {driver}: {what}: expected {expected!r:.300}, got {got!r:.1000}")


def until(what, is_so):
    """Waits for it, half a minute."""
    end = time.monotonic() + 30
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"FAILED {driver}: {what}: not within 30 s")
        time.sleep(0.05)


# A text, bytes, and a text of 50,000 letters go back; then what was agreed on, what came, and how it closed.
ECHO = """new Promise((done, failed) => {
    const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws"), heard = [];
    const long = "round and round ".repeat(3125);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { socket.send("hello"); socket.send(new Uint8Array([1, 2, 255])); socket.send(long); };
    socket.onmessage = event => {
        heard.push(event.data === long ? "long" : typeof event.data == "string" ? event.data : [...new Uint8Array(event.data)].join());
        if (heard.length == 3) socket.close(4321, "enough");
    };
    socket.onclose = event => done([socket.extensions, heard.join(" "), event.code, event.wasClean].join("; "));
    setTimeout(() => failed("no answer in 20 s: " + heard), 20000);
})"""


def secured(browser, server):
    url = "https://localhost:%s/peer" % tls_port(server)
    seen = json.loads(browser.open(url).run("document.body.innerText"))["secure"]
    expect("TLS", ("TLSv1.3", "localhost"), (seen["version"], seen["server_name"]))
    yield "a page is shown by TLS 1.3, if the key is trusted"
    strict = Browser("strict")
    try:
        text = strict.open(url, "chrome-error://chromewebdata/").run("document.body.innerText")
        expect("the name of the error", True, "ERR_CERT_AUTHORITY_INVALID" in text)
    finally:
        strict.end()
    yield "and not if it is not"


def tls_port(server):
    return re.search(r"TLS on 127\.0\.0\.1:(\d+)", server.log)[1]


def websocket(browser, server):
    plain = browser.open(f"http://127.0.0.1:{server.port}/plaintext")
    expect("WebSocket", "; hello 1,2,255 long; 4321; true", plain.run(ECHO))
    yield "WebSocket echoes, and closes as asked"
    page = browser.open(f"https://localhost:{tls_port(server)}/plaintext")
    expect("WebSocket over TLS", "; hello 1,2,255 long; 4321; true", page.run(ECHO))
    yield "WebSocket does the same over TLS"
    packing = Server("--ws-deflate")
    page = browser.open(f"http://127.0.0.1:{packing.port}/plaintext")
    agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    expect("WebSocket, compressed", f"{agreed}; hello 1,2,255 long; 4321; true", page.run(ECHO))
    packing.end()
    packing = Server("--ws-deflate", "--ws-contexts", "1")
    page = browser.open(f"http://127.0.0.1:{packing.port}/plaintext")
    expect("WebSocket with a window", "permessage-deflate; hello 1,2,255 long; 4321; true", page.run(ECHO))
    packing.end()
    yield "WebSocket agrees on compression, with and without a window that is kept"


def first_page(browser, server):
    """The page at / has a demo: what is said in one window is heard in both."""
    one, other = (browser.open(f"http://127.0.0.1:{server.port}/") for _ in range(2))
    for page in one, other:
        until("the page listens", lambda: page.run("document.getElementById('state').textContent") == "connected")
    say = "document.getElementById('text').value = 'hello & <b>all</b>'; document.querySelector('#say button').click()"
    one.run(say)
    for page in one, other:
        heard = lambda: page.run("document.querySelector('#heard li')?.textContent")
        until("what was said is heard", lambda: heard() == "hello & <b>all</b>")
    yield "what is said on the first page is heard on all that are open"


def events(browser, server):
    relay = Relay(server)
    page = browser.open(f"{relay.url}/plaintext")
    page.run("""heard = []; opened = 0; source = new EventSource("/events/clock");
        source.onopen = () => opened++;
        source.onmessage = event => heard.push(event.data);
        source.addEventListener("reset", event => heard.push("reset: " + event.data))""")
    has_opened = lambda times: page.run("opened") == times
    has_heard = lambda *what: lambda: page.run("heard.join(' ')") == " ".join(what)
    until("it is open", lambda: has_opened(1))
    server.publish("clock", "one")
    until("it hears", has_heard("one"))
    relay.cut()
    server.publish("clock", "two")
    server.publish("clock", "three")
    until("it goes on where it was", has_heard("one", "two", "three"))
    expect("times it was opened", 2, page.run("opened"))
    yield "EventSource comes back by itself, and goes on where it was"
    # A server that is started anew has other places, and one that was killed says nothing.
    server.kill()
    relay.cut()
    relay.server = server = Server()
    until("it is open again", lambda: has_opened(3))
    server.publish("clock", "four")
    until("it is told what it does not know", has_heard("one", "two", "three", "reset: unknown", "four"))
    server.end()
    relay.cut()
    yield "EventSource is told by a server that was started anew that it may have missed something"


# How the page came, and what a request of it said.
FETCH = """fetch("/echo", {method: "POST", body: "what it says"}).then(reply => reply.text()).then(text =>
    [performance.getEntriesByType("navigation")[0].nextHopProtocol, text].join("; "))"""


def behind_a_proxy(browser, backend, proxy):
    """Each version of HTTP to the proxy; HTTP/1.1 from there."""
    for version, url in ("http/1.1", f"http://127.0.0.1:{proxy.port}"), ("h2", f"https://localhost:{tls_port(proxy)}"):
        page = browser.open(f"{url}/plaintext")
        expect("a request", f"{version}; what it says", page.run(FETCH))
        expect("WebSocket", "; hello 1,2,255 long; 4321; true", page.run(ECHO))
        topic = version[-1]
        page.run(f"""heard = []; source = new EventSource("/events/{topic}"); source.onmessage = event => heard.push(event.data)""")
        until("it is open", lambda: page.run("source.readyState") == 1)
        backend.publish(topic, "news")
        until("it hears", lambda: page.run("heard.join()") == "news")
        page.run("source.close()")
        yield f"behind a proxy a page has requests, WebSocket and events over {version}"


ringmill, driver, folder = sys.argv[1:]
secure = "--tls-listen", "127.0.0.1:0", "--tls-self-signed"
server = Server(*secure)
# Its origin is that of the proxy.
backend = Server("--ws-origin", "any")
proxy = Server(*secure, what=("proxy", "127.0.0.1:0", f"127.0.0.1:{backend.port}"))
pins = ",".join(re.search(r"--pinnedpubkey sha256//(\S+)", one.log)[1] for one in (server, proxy))
browser = Browser("trusting", f"--ignore-certificate-errors-spki-list={pins}")
try:
    for done in behind_a_proxy(browser, backend, proxy):
        print(f"ok {driver}: {done}")
    for part in secured, websocket, first_page, events:
        for done in part(browser, server):
            print(f"ok {driver}: {done}")
finally:
    browser.end()
    for one in server, proxy, backend:
        one.kill()
