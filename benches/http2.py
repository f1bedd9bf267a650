#!/usr/bin/env python3
"""What a request over HTTP/2 costs a proxy: http2.py NAME=RINGMILL [NAME=RINGMILL...], on Debian with nginx, haproxy and h2load (nghttp2-client).

Each proxy runs alone on CPU 1 with one worker, kept connections enough for all requests at a time, and TLS; h2load and the backend, an nginx
that serves files, on CPU 0. Rounds are interleaved, the first is not counted, and a round in which a request failed is void. It says the
CPU time of the proxy's threads a request in microseconds (/proc/PID/task/*/schedstat): median, least and most; and as a part of HAProxy's, median of
the rounds.
"""

import argparse, glob, os, re, signal, socket, statistics, subprocess, sys, tempfile, time

options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("ringmill", nargs="+", help="NAME=PROGRAM")
options.add_argument("--shapes", default="1x1,1x10,1x100,16x1,16x10,16x100", help="connections x streams")
options.add_argument("--sizes", default="100,65536")
options.add_argument("--rounds", type=int, default=5)
options.add_argument("--requests", type=int, default=8000)
options.add_argument("--port", type=int, default=25100)
options.add_argument("--driver", choices=["auto", "uring", "poll"], default="auto", help="how Ringmill moves bytes")
options.add_argument("--upstream", choices=["http1", "h2"], default="http1", help="what the backend is spoken to in; nginx cannot speak h2")
options = options.parse_args()
is_h2 = options.upstream == "h2"
folder = tempfile.mkdtemp(prefix="http2-bench")
os.chmod(folder, 0o755)
log = open(f"{folder}/log", "ab")
running = []


def start(command, cpu):
    process = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, {cpu}), stdout=log, stderr=log, start_new_session=True)
    running.append(process)
    return process


def write(name, text):
    path = f"{folder}/{name}"
    with open(path, "w") as file:
        file.write(text)
    return path


def nginx(name, servers, cpu):
    temporary = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return start(["/usr/sbin/nginx", "-c", write(f"{name}.conf", f"""
        user root; daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/errors crit;
        events {{ worker_connections 4096; }}
        http {{ access_log off; keepalive_requests 100000000; {temporary} {servers} }}""")], cpu)


def wait(port):
    for _ in range(400):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nobody listens on {port}: see {folder}/log")


def cpu_micros(process):
    tasks = [process]
    for task in tasks:
        for children in glob.glob(f"/proc/{task}/task/*/children"):
            tasks += open(children).read().split()
    return sum(int(open(file).read().split()[0]) for task in tasks for file in glob.glob(f"/proc/{task}/task/*/schedstat")) / 1000


def serve():
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"], check=True, stderr=subprocess.DEVNULL)
    write("both.pem", open(f"{folder}/cert.pem").read() + open(f"{folder}/key.pem").read())
    os.mkdir(f"{folder}/files")
    for size in options.sizes.split(","):
        write(f"files/{size}", "x" * int(size))
    backend, port, fronts = options.port, options.port, {}
    nginx("backend", f"""server {{ listen 127.0.0.1:{backend} {'http2' if is_h2 else ''} backlog=4096; root {folder}/files;
        open_file_cache max=10; http2_max_concurrent_streams 256; }}""", 0)
    wait(backend)
    for named in options.ringmill:
        name, program = named.split("=")
        port += 1
        fronts[name] = port, start([program, "serve", "--config", write(f"{port}.toml", f"""
            [server]
            workers = 1
            driver = "{options.driver}"
            [[listen]]
            address = "127.0.0.1:{port}"
            tls = [{{ cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}]
            [[route]]
            to = "app"
            [upstream.app]
            servers = ["127.0.0.1:{backend}"]
            protocol = "{'h2' if is_h2 else 'http/1.1'}"
            connections = {{ max = 2000, keep = 512 }}""")], 1)
    if not is_h2:
        port += 1
        fronts["nginx"] = port, nginx("front", f"""
            upstream app {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 100000000; }}
            server {{ listen 127.0.0.1:{port} ssl http2 backlog=4096; http2_max_concurrent_streams 256;
                ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
                location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection '';
                    proxy_set_header X-Forwarded-For $remote_addr; }} }}""", 1)
    port += 1
    fronts["haproxy"] = port, start(["/usr/sbin/haproxy", "-db", "-f", write("haproxy.cfg", f"""
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
  http-reuse always
frontend front
  bind 127.0.0.1:{port} ssl crt {folder}/both.pem alpn h2
  default_backend app
backend app
  server one 127.0.0.1:{backend}{' proto h2' if is_h2 else ''} pool-max-conn 512
""")], 1)
    for port, _ in fronts.values():
        wait(port)
    return fronts


def measure(fronts, size, shape):
    connections, streams = shape.split("x")
    requests = options.requests // (1 if int(size) < 10_000 else 4) // (3 if shape == "1x1" else 1)
    found = {name: [] for name in fronts}
    for number in range(options.rounds + 1):
        for name in list(fronts)[:: 1 if number % 2 else -1]:
            port, process = fronts[name]
            before = cpu_micros(process.pid)
            said = subprocess.run(["taskset", "-c", "0", "h2load", "-n", str(requests), "-c", connections, "-m", streams, f"https://127.0.0.1:{port}/{size}"],
                                  capture_output=True, text=True, timeout=300).stdout
            used = cpu_micros(process.pid) - before
            is_void = f" {requests} succeeded" not in said
            if is_void:
                print(f"{name}, {size} bytes, {shape}: void: {re.findall('requests:.*', said)}", flush=True)
            if number > 0:
                found[name].append(None if is_void else used / requests)
    row = []
    for name, all in found.items():
        good = [used for used in all if used]
        pairs = [ours / theirs for ours, theirs in zip(all, found["haproxy"]) if ours and theirs]
        ratio = f", of haproxy's {statistics.median(pairs):.2f}" if name != "haproxy" and pairs else ""
        row.append(f"{name} {statistics.median(good):.1f} ({min(good):.1f} to {max(good):.1f}){ratio}" if good else f"{name} void")
    print(f"{size:>6} bytes, {shape:>6}: " + "; ".join(row), flush=True)


try:
    fronts = serve()
    for size in options.sizes.split(","):
        for shape in options.shapes.split(","):
            measure(fronts, size, shape)
finally:
    for process in running:
        os.killpg(process.pid, signal.SIGTERM)
    for process in running:
        process.wait()
