"""Servers behind the proxy. Each says in its reply what it was asked, and in its log what it has read, one line a request:
`X-Forwarded-For|X-Id|request line`."""

import os
import shutil
import socket
import subprocess
import time

ECHO = ("id", "up", "xff", "hop", "proxy", "real", "path")
NGINX_FIELDS = ("$http_x_id", "$http_upgrade", "$http_x_forwarded_for", "$http_x_hop", "$http_proxy", "$http_x_real_ip", "$uri")

NODE = """
const fs = require('fs');
const log = fs.openSync(process.argv[3], 'a');
const server = require('http').createServer((request, response) => {
  const of = name => request.headers[name] || '';
  fs.writeSync(log, `${of('x-forwarded-for')}|${of('x-id')}|${request.method} ${request.url}\\n`);
  let path = request.url;
  try { path = decodeURIComponent(new URL(request.url, 'http://a.test').pathname); } catch {}
  const said = `id=${of('x-id')}|up=${of('upgrade')}|xff=${of('x-forwarded-for')}|hop=${of('x-hop')}|proxy=${of('proxy')}|real=${of('x-real-ip')}|path=${path}`;
  const answer = () => response.end(said);
  if (request.url.startsWith('/early')) answer(); else request.resume().on('end', answer);
});
server.keepAliveTimeout = 60000;
server.listen(process.argv[2], '127.0.0.1');
"""

GO = """
package main

import ("fmt"; "io"; "net/http"; "os"; "path"; "strings"; "sync")

func main() {
	log, _ := os.OpenFile(os.Args[2], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0644)
	var lock sync.Mutex
	handle := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		of := func(name string) string { return strings.Join(r.Header.Values(name), ", ") }
		lock.Lock()
		fmt.Fprintf(log, "%s|%s|%s %s\\n", of("X-Forwarded-For"), of("X-Id"), r.Method, r.RequestURI)
		lock.Unlock()
		if !strings.HasPrefix(r.URL.Path, "/early") { io.Copy(io.Discard, r.Body) }
		fmt.Fprintf(w, "id=%s|up=%s|xff=%s|hop=%s|proxy=%s|real=%s|path=%s", of("X-Id"), of("Upgrade"), of("X-Forwarded-For"),
			of("X-Hop"), of("Proxy"), of("X-Real-Ip"), path.Clean(r.URL.Path))
	})
	http.ListenAndServe("127.0.0.1:" + os.Args[1], handle)
}
"""

WSGI = """
import os
log = os.open(os.environ["SEEN"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
def app(environ, start):
    of = lambda name: environ.get("HTTP_" + name, "")
    target = environ.get("RAW_URI", "").encode("latin-1", "replace")
    os.write(log, f"{of('X_FORWARDED_FOR')}|{of('X_ID')}|{environ['REQUEST_METHOD']} ".encode("latin-1") + target + b"\\n")
    path = environ["PATH_INFO"]
    # It would take a body that is left unread for the next request.
    while environ["wsgi.input"].read(65536):
        pass
    said = f"id={of('X_ID')}|up={of('UPGRADE')}|xff={of('X_FORWARDED_FOR')}|hop={of('X_HOP')}|proxy={of('PROXY')}|real={of('X_REAL_IP')}|path={path}"
    said = said.encode("latin-1")
    start("200 OK", [("Content-Length", str(len(said)))])
    # It would send a body behind the reply to HEAD as well.
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [said]
"""

LUA = """
function handle(r)
  local of = function(name) return r.headers_in[name] or "" end
  r.content_type = "text/plain"
  r:puts("id=" .. of("X-Id") .. "|up=" .. of("Upgrade") .. "|xff=" .. of("X-Forwarded-For") .. "|hop=" .. of("X-Hop") .. "|proxy=" .. of("Proxy")
    .. "|real=" .. of("X-Real-Ip") .. "|path=" .. r.uri)
  return apache2.OK
end
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Backend:
    """A server as a process of its own. `seen` is its log."""

    def __init__(self, name, scratch, ringmill):
        self.name, self.port, self.children = name, free_port(), []
        self.folder = os.path.join(scratch, name)
        os.makedirs(self.folder)
        os.chmod(self.folder, 0o755)
        self.seen = self.file("seen", "")
        getattr(self, "start_" + name)(ringmill)
        wait_for(self.port)

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def run(self, *command, output=None, **more):
        output = open(output or os.path.join(self.folder, "output"), "ab")
        # Killed one by one, and so without a shell or a group.
        self.children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, **more))

    def stop(self):
        for child in self.children:
            child.terminate()
        for child in self.children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()

    def start_nginx(self, _):
        said = "|".join(f"{name}={value}" for name, value in zip(ECHO, NGINX_FIELDS))
        config = self.file("conf", f"""
            daemon off; master_process off; pid {self.folder}/pid; error_log {self.folder}/errors;
            events {{ worker_connections 1000; }}
            http {{
                log_format seen escape=none '$http_x_forwarded_for|$http_x_id|$request|$status';
                access_log {self.seen} seen; keepalive_requests 1000000; client_max_body_size 0; underscores_in_headers on;
                client_body_temp_path {self.folder}; proxy_temp_path {self.folder}; fastcgi_temp_path {self.folder};
                uwsgi_temp_path {self.folder}; scgi_temp_path {self.folder};
                server {{ listen 127.0.0.1:{self.port} backlog=1000; location / {{ default_type text/plain; return 200 "{said}"; }} }}
            }}""")
        self.run("nginx", "-c", config, "-e", self.folder + "/errors")

    def start_haproxy(self, _):
        fetch = {"id": "req.hdr(x-id)", "up": "req.hdr(upgrade)", "xff": "req.fhdr(x-forwarded-for)", "hop": "req.hdr(x-hop)", "proxy": "req.hdr(proxy)",
                 "real": "req.hdr(x-real-ip)", "path": "path,url_dec"}
        said = "|".join(f"{name}=%[{fetch[name]}]" for name in ECHO)
        config = self.file("conf", f"""
global
    log stdout format raw local0
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
    timeout http-request 60s
    option dontlognull
frontend all
    bind 127.0.0.1:{self.port}
    log global
    http-request capture req.fhdr(x-forwarded-for) len 100
    http-request capture req.hdr(x-id) len 100
    log-format "%[capture.req.hdr(0)]|%[capture.req.hdr(1)]|%r|%ST %ts"
    http-request return status 200 content-type text/plain lf-string "{said}"
""")
        self.run("haproxy", "-f", config, output=self.seen)

    def start_apache(self, _):
        modules = "/usr/lib/apache2/modules"
        script = self.file("handle.lua", LUA)
        load = "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in ("mpm_event", "authz_core", "lua"))
        config = self.file("conf", f"""
ServerName a.test
ServerRoot {self.folder}
Listen 127.0.0.1:{self.port}
PidFile {self.folder}/pid
DefaultRuntimeDir {self.folder}
{load}
User nobody
ErrorLog {self.folder}/errors
LogFormat "%{{X-Forwarded-For}}i|%{{X-Id}}i|%r|%s" seen
CustomLog {self.seen} seen
KeepAliveTimeout 60
MaxKeepAliveRequests 0
AllowEncodedSlashes NoDecode
LuaMapHandler / {script} handle
""")
        self.run("apache2", "-f", config, "-D", "FOREGROUND")

    def start_node(self, _):
        self.run("node", self.file("server.js", NODE), str(self.port), self.seen)

    def start_go(self, _):
        program = os.path.join(self.folder, "server")
        environment = dict(os.environ, GOPROXY="off", GO111MODULE="off")
        subprocess.run(["go", "build", "-o", program, self.file("server.go", GO)], check=True, env=environment)
        self.run(program, str(self.port), self.seen)

    def start_gunicorn(self, _):
        self.file("app.py", WSGI)
        arguments = ["-k", "gthread", "--threads", "16", "--keep-alive", "60", "-b", f"127.0.0.1:{self.port}", "--log-level", "critical", "app:app"]
        self.run("gunicorn", *arguments, cwd=self.folder, env=dict(os.environ, SEEN=self.seen))

    def start_ringmill(self, ringmill):
        """Ringmill once more, before the strict server: only that one has a log."""
        behind = free_port()
        self.strict(behind)
        self.run(ringmill, "proxy", str(self.port), str(behind), "--workers", "1", "--pin", "off")

    def start_strict(self, _):
        self.strict(self.port)

    def strict(self, port):
        self.run("python3", os.path.join(os.path.dirname(__file__), "strict.py"), str(port), self.seen)
        wait_for(port)


def wait_for(port):
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


PROGRAMS = {"nginx": "nginx", "haproxy": "haproxy", "apache": "apache2", "node": "node", "go": "go", "gunicorn": "gunicorn", "ringmill": "python3", "strict": "python3"}


def there():
    """The backends that this machine has, and those that it lacks."""
    names = {name: shutil.which(program) is not None for name, program in PROGRAMS.items()}
    return [name for name, has in names.items() if has], [name for name, has in names.items() if not has]
