#!/usr/bin/env bash
# The tests that need other programs: ringmill and the custom_protocol example against curl, openssl, wrk, h2load, redis-cli,
# redis-benchmark, Python's http.client, the scanners sslyze and testssl.sh, and haproxy in front of it, and a gRPC service of
# examples/backend against Python's grpcio, and WebSockets against Python's websockets, npm's ws and Autobahn's test suite, on both
# drivers, and some of the attacks of tests/front_back.sh; and against nginx, on generated requests.
# Traffic stays on loopback.
#
#   tests/programs.sh [DIRECTORY_OF_RINGMILL]     (default: target/release; it also holds examples/custom_protocol)
#
# RINGMILL_TEST_DRIVERS=poll tests one driver only, where the machine forbids io_uring. A check that fails prints what
# was expected and what came; the rest still runs, and the exit status is 1.
set -euo pipefail

main() {
    PATH=$PATH:/usr/sbin # where Debian keeps nginx
    need cargo:cargo nginx:nginx-light haproxy:haproxy curl:curl wrk:wrk h2load:nghttp2-client redis-cli:redis-tools redis-benchmark:redis-tools python3:python3 openssl:openssl testssl:testssl.sh
    sslyze=$(command -v sslyze || echo "$(dirname "$0")/../target/sslyze/bin/sslyze")
    if [[ ! -x $sslyze ]]; then
        echo "sslyze is missing: python3 -m venv target/sslyze && target/sslyze/bin/pip install sslyze==6.3.1" >&2
        exit 1
    fi
    grpcio=$(realpath --no-symlinks "$(dirname "$0")/../target/grpcio/bin/python")
    if [[ ! -x $grpcio ]]; then
        echo "grpcio is missing: .ci/run installs it in target/grpcio" >&2
        exit 1
    fi
    websockets=$(realpath --no-symlinks "$(dirname "$0")/../target/websockets/bin/python")
    if [[ ! -x $websockets ]]; then
        echo "websockets is missing: .ci/run installs it in target/websockets" >&2
        exit 1
    fi
    backend=$(realpath "$(dirname "$0")/../examples/backend")
    cargo build --quiet --locked --manifest-path "$backend/Cargo.toml" --bin grpc
    programs=$(realpath "${1:-$(dirname "$0")/../target/release}")
    if [[ ! -x $programs/ringmill || ! -x $programs/examples/custom_protocol ]]; then
        echo "$programs lacks ringmill or examples/custom_protocol: cargo build --release --example custom_protocol && cargo build --release --bins" >&2
        exit 1
    fi
    drivers=${RINGMILL_TEST_DRIVERS:-uring poll}
    unset "${!RINGMILL_@}" # Every option of ringmill is also a variable: none may leak in.

    scratch=$(mktemp -d)
    log=$scratch/log
    trap end_everything EXIT
    trap 'exit 130' INT TERM
    write_clients
    python3 "$scratch/clients.py" payload "$scratch/payload"

    for driver in $drivers; do
        export RINGMILL_DRIVER=$driver
        if start "worker(s) on CPU" "$programs/ringmill" serve --drain 10s --listen 127.0.0.1:0 \
            --listen "unix:$scratch/socket" --tcp-echo 127.0.0.1:0 --udp-echo 127.0.0.1:0 --udp-echo-rate 0 ${ipv6:+--listen "$ipv6"}; then
            http=$(address 'listening on 127' 1)
            check_routes
            check_connections
            check_bodies
            check_load
            check_generators
            check_python
            check_drain
        elif [[ $driver == uring ]]; then
            echo "  where the machine forbids io_uring, RINGMILL_TEST_DRIVERS=poll tests without it"
        fi
        if start "worker(s) on CPU" "$programs/ringmill" serve --listen 127.0.0.1:0 --proxy-protocol 127.0.0.0/8; then
            check_haproxy "$(address 'listening on 127' 1)"
            check_nginx_in_front "$(address 'listening on 127' 1)"
            kill -KILL "$server" && { wait "$server" 2>/dev/null || true; }
        fi
        if start "worker(s) on CPU" "$programs/ringmill" serve --listen 127.0.0.1:0 --ws-deflate --ws-contexts 64; then
            check_websocket "$(address 'listening on 127' 1)"
            kill -KILL "$server" && { wait "$server" 2>/dev/null || true; }
            check "no panic in the log over WebSocket" "" "$(grep -i panicked "$log" || true)"
        fi
        if start "worker(s) on CPU" "$programs/ringmill" serve --listen 127.0.0.1:0 --ws-deflate --ws-max-message 16MiB; then
            check_autobahn "$(address 'listening on 127' 1)"
            kill -KILL "$server" && { wait "$server" 2>/dev/null || true; }
        fi
        make_certificate
        if start "worker(s) on CPU" "$programs/ringmill" serve --listen 127.0.0.1:0 --workers 2 --tls-listen 127.0.0.1:0 \
            --tls-cert "$scratch/cert.pem" --tls-key "$scratch/key.pem"; then
            check_https
            check_load_over_tls
            check_scanners
            kill -KILL "$server" && { wait "$server" 2>/dev/null || true; }
            check "no panic in the log over TLS" "" "$(grep -i panicked "$log" || true)"
        fi
        make_clients
        if start "worker(s) on CPU" "$programs/ringmill" serve --listen 127.0.0.1:0 --tls-listen 127.0.0.1:0 \
            --tls-cert "$scratch/cert.pem" --tls-key "$scratch/key.pem" \
            --tls-client-ca "$scratch/ca.pem" --tls-crl "$scratch/crl.pem"; then
            check_clients
            kill -KILL "$server" && { wait "$server" 2>/dev/null || true; }
        fi
        if start "key-value store on" "$programs/examples/custom_protocol" 127.0.0.1:0; then
            check_redis
            kill -KILL "$server" && { wait "$server" 2>/dev/null || true; }
            check "no panic in the log of custom_protocol" "" "$(grep -i panicked "$log" || true)"
        fi
        if start "http://127" "$backend/target/debug/grpc" 127.0.0.1:0; then
            check_grpc
            kill -KILL "$server" && { wait "$server" 2>/dev/null || true; }
            check "no panic in the log of grpc" "" "$(grep -i panicked "$log" || true)"
        fi
        check "generated attacks on the proxy, with nginx, haproxy, Ringmill and a strict server behind it" "" \
            "$(python3 -B "$(dirname "$0")/front_back/main.py" --ringmill "$programs/ringmill" --driver "$driver" --count 600 \
                --backend nginx --backend haproxy --backend ringmill --backend strict 2>&1 >/dev/null || echo failed)"
    done
    driver=${drivers%% *}
    check "generated requests: nginx does the same, or it is said why" "test result: ok. 1 passed" "$(compare_with_nginx)"
    echo "$passed passed, $failed failed"
    ((failed == 0))
}

# need PROGRAM:DEBIAN_PACKAGE...
need() {
    local pair missing=0
    for pair in "$@"; do
        if ! command -v "${pair%:*}" >/dev/null; then
            echo "${pair%:*} is missing: apt-get install ${pair#*:}" >&2
            missing=1
        fi
    done
    ((missing == 0)) || exit 1
}

# ---- The one check, and what it is told

passed=0 failed=0
bounded=(timeout --foreground --kill-after=5 60)

# check NAME EXPECTED ACTUAL
check() {
    if [[ $2 == "$3" ]]; then
        passed=$((passed + 1))
        echo "ok $driver: $1"
    else
        failed=$((failed + 1))
        printf 'FAILED %s: %s\n  expected: %s\n  got:      %s\n' "$driver" "$1" "${2:0:4000}" "${3:0:4000}"
        tail -n 3 "$log" | sed 's/^/  log:      /'
    fi
}

# start READY_TEXT PROGRAM [ARGUMENT...]: runs a server until its log says that it is ready; sets `server`.
start() {
    : >"$log" # What the program before wrote must not be taken for this one's.
    "${@:2}" >"$log" 2>&1 &
    server=$!
    for _ in {1..100}; do
        if grep -qF "$1" "$log"; then return 0; fi
        if ! kill -0 "$server" 2>/dev/null; then break; fi
        sleep 0.1
    done
    check "$(basename "$2") starts" "a line with '$1'" "$(tail -n 1 "$log")"
    kill -KILL "$server" 2>/dev/null || true
    return 1
}

# address LOG_TEXT N: the address in the Nth line of the log that has the text.
address() {
    grep -oE "$1[^ ]*" "$log" | sed -n "$2{s/.* //;p}"
}

end_everything() {
    # shellcheck disable=SC2046 # one word for each process
    kill -KILL $(jobs -p) 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$scratch"
}

ipv6=
if grep -qs '^00000000000000000000000000000001 ' /proc/net/if_inet6; then ipv6='[::1]:0'; fi

# ---- nginx

# What the test says at its end; all of its output where it failed.
compare_with_nginx() {
    local output
    output=$(cd "$(dirname "$0")/.." && RINGMILL_DRIVER=$driver timeout --foreground --kill-after=5 580 \
        cargo test --quiet --locked --test differential_nginx 2>&1) || true
    grep -oE '^test result: ok\. 1 passed' <<<"$output" || echo "$output"
}

# ---- haproxy in front, with the PROXY protocol

# check_haproxy ADDRESS_OF_RINGMILL
check_haproxy() {
    local proxy ports version
    read -ra ports < <(free_ports 2)
    cat >"$scratch/haproxy.cfg" <<EOF
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    unique-id-format known
listen version_1
    bind 127.0.0.1:${ports[0]}
    server ringmill $1 send-proxy
listen version_2
    bind 127.0.0.1:${ports[1]}
    server ringmill $1 send-proxy-v2 proxy-v2-options unique-id,crc32c check inter 200ms
EOF
    haproxy -db -f "$scratch/haproxy.cfg" >"$scratch/haproxy.log" 2>&1 &
    proxy=$!
    for version in 1 2; do
        http=127.0.0.1:${ports[version - 1]}
        check "haproxy, PROXY protocol version $version: the client is curl" "the same to $http" "$(client_of_curl)"
    done
    check "haproxy, PROXY protocol version 2: its unique id" '"unique_id":"known"' \
        "$(fetch "http://$http/peer" | grep -o '"unique_id":"[^"]*"')"
    check "haproxy, 10 MB through it" "$(pattern 10000000 | sha256sum)" "$(fetch "http://$http/bytes/10000000" | sha256sum)"
    check "without a header there is no answer" "curl: (52) Empty reply from server" "$(fetch "http://$1/health" || true)"
    check "haproxy, what was counted" '"proxy_late":0,"proxy_malformed":0,"proxy_missing":1,"proxy_unlisted":0' \
        "$(fetch "http://$http/stats" | sed 's/.*"total"//' | tr ',' '\n' |
            grep -E '^"proxy_(unlisted|missing|malformed|late)"' | tr -d '}' | sort | paste -sd ,)"
    kill -KILL "$proxy" && { wait "$proxy" 2>/dev/null || true; }
}

# The same with nginx, whose stream module speaks version 1.
check_nginx_in_front() {
    local proxy ports
    read -ra ports < <(free_ports 1)
    cat >"$scratch/front.conf" <<EOF
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
pid $scratch/front.pid;
error_log $scratch/front.log;
events {}
stream {
    server {
        listen 127.0.0.1:${ports[0]};
        proxy_pass $1;
        proxy_protocol on;
    }
}
EOF
    nginx -p "$scratch" -c "$scratch/front.conf" >/dev/null 2>&1 &
    proxy=$!
    http=127.0.0.1:${ports[0]}
    check "nginx, PROXY protocol: the client is curl" "the same to $http" "$(client_of_curl)"
    check "nginx, 10 MB through it" "$(pattern 10000000 | sha256sum)" "$(fetch "http://$http/bytes/10000000" | sha256sum)"
    kill "$proxy" && { wait "$proxy" 2>/dev/null || true; }
}

# Whether the peer that /peer shows is curl's own end; haproxy may still be starting.
client_of_curl() {
    fetch --retry 20 --retry-delay 1 --retry-all-errors -w '\n%{local_ip}:%{local_port}' "http://$http/peer" |
        python3 -c '
import json, sys
*_, page, own = sys.stdin.read().strip().splitlines()
seen = json.loads(page)
print("the same" if seen["peer"] == own else seen["peer"] + " instead of " + own, "to", seen["local"])'
}

# free_ports COUNT: ports of 127.0.0.1 that nobody has now.
free_ports() {
    python3 -c '
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(one.getsockname()[1] for one in sockets))' "$1"
}

# ---- curl

fetch() {
    curl --disable --silent --show-error --noproxy '*' --max-time 40 "$@" 2>&1
}

# route STATUS TYPE BODY PATH [CURL_OPTION...]
route() {
    local name="curl ${*:5} $4"
    check "${name//  / }" "$3"$'\n'"$1 $2" "$(fetch "${@:5}" -w '\n%{http_code} %{content_type}' "http://$http$4")"
}

check_routes() {
    local text=text/plain json=application/json bytes=application/octet-stream
    local wrong_method=$'405 Method Not Allowed: see the Allow field\n'
    local item='{"id":1,"name":"Part 1","category":"belts","price":42,"quantity":14,"active":true,"tags":["oak","spare"]'
    route 200 $text 'Hello, World!' /plaintext
    route 200 $json '{"message":"Hello, World!"}' /json
    route 200 $text ok /pipeline
    route 200 $text ok /health
    route 200 $text 3 '/baseline11?a=1&b=2'
    route 200 $text -2 '/baseline11?a=1&b=2' --data ' -5 '
    route 400 $text $'400 Bad Request: expected integers in the query and the body, and a sum that fits 64 bits\n' \
        '/baseline11?a=9223372036854775807&b=1'
    route 200 $text $'Host: here\nAccept: text/x-test\n' /headers -H 'Host: here' -H 'Accept: text/x-test' -A ''
    route 200 $bytes 0123456789 /bytes/10
    route 200 $bytes '' /bytes/0
    route 400 $text $'400 Bad Request: expected /bytes/N with N a number of bytes\n' /bytes/x
    route 200 $json "{\"items\":[$item,\"total\":1764}],\"count\":1}" '/json/1?m=3'
    route 200 $json '{"items":[],"count":0}' /json/0
    route 400 $text $'400 Bad Request: expected /json/COUNT with COUNT a number\n' /json/x
    route 400 $text $'400 Bad Request: expected m to be an integer of 32 bits\n' '/json/1?m=x'
    route 200 text/x-test 'as it came' / -H 'Content-Type: text/x-test' --data 'as it came'
    route 200 text/x-test 'as it came' /echo -H 'Content-Type: text/x-test' --data 'as it came'
    route 200 '' '' /echo
    route 200 $text 0 /upload -X POST
    route 200 $text 10 /upload --data 'as it came'
    route 405 $text "$wrong_method" /upload
    route 405 $text "$wrong_method" /plaintext -X DELETE
    route 204 '' '' /upload -X OPTIONS
    route 404 $text $'404 Not Found: GET / lists what is here\n' /nowhere
    check "curl /" "200 text/html; charset=utf-8, a whole page" \
        "$(fetch -o "$scratch/page" -w '%{http_code} %{content_type}' "http://$http/"), $(whole_page)"
    for path in / /plaintext /json /pipeline /health /headers '/json/50?m=7' /bytes/123456 /nowhere; do
        check "HEAD has the fields of GET: $path" "$(fields "$path")" "$(fields "$path" -I)"
    done
}

whole_page() {
    if grep -q '^<!doctype html>' "$scratch/page" && grep -q '</html>' "$scratch/page"; then echo "a whole page"; fi
}

# fields PATH [CURL_OPTION...]: status line and fields, without the date.
fields() {
    fetch "${@:2}" -D - -o /dev/null "http://$http$1" | tr -d '\r' | sed '/^date:/d'
}

check_connections() {
    local sink=(-o /dev/null) url=http://$http
    check "curl reuses one connection for five URLs" "1 200,0 200,0 404,0 200,0 200," \
        "$(fetch -w '%{num_connects} %{http_code},' "${sink[@]}" "$url/json" "${sink[@]}" "$url/bytes/100000" \
            "${sink[@]}" "$url/nowhere" "${sink[@]}" "$url/" "${sink[@]}" "$url/plaintext")"
    check "HTTP/1.0 ends the connection" "HTTP/1.1 200 OK connection: close Hello, World!" \
        "$(fetch --http1.0 -i "$url/plaintext" | tr -d '\r' | grep -E '^(HTTP|connection|Hello)' | paste -sd ' ')"
    route 200 text/plain 10 /upload --http1.0 --data 'as it came'
    route 200 text/plain ok /health --unix-socket "$scratch/socket"
    if [[ $ipv6 ]]; then
        check "IPv6" "ok" "$(fetch --globoff "http://$(address 'listening on \[::1\]' 1)/health")"
    else
        echo "note: this machine has no ::1"
    fi
}

check_bodies() {
    local url=http://$http payload=$scratch/payload back=$scratch/back coding
    # Without a 100 curl would hold the body back for longer than it may take.
    local sent=(-X POST -T "$payload" -H 'Expect: 100-continue' --expect100-timeout 50)
    for coding in sized chunked; do
        if [[ $coding == chunked ]]; then sent+=(-H 'Transfer-Encoding: chunked'); fi
        check "upload of 20 MB, $coding, after 100 Continue" "20000000 HTTP/1.1 100 Continue" \
            "$(fetch -D "$scratch/head" "${sent[@]}" "$url/upload" && head -n 1 "$scratch/head" | sed 's/^/ /; s/\r//')"
        check "echo of 20 MB, $coding" "same" \
            "$(fetch -o "$back" "${sent[@]}" "$url/echo" && compare "$back")"
        check "echo of 20 MB, $coding, through the unix socket" "same" \
            "$(fetch --unix-socket "$scratch/socket" -o "$back" "${sent[@]}" "$url/echo" && compare "$back")"
    done
    check "/bytes/50000000: status and length" "200 50000000" \
        "$(fetch -o "$back" -w '%{http_code} %{size_download}' "$url/bytes/50000000")"
    check "/bytes/50000000: checksum" "$(pattern 50000000 | sha256sum)" "$(sha256sum <"$back")"
}

compare() {
    if cmp "$scratch/payload" "$1" 2>&1; then echo same; fi
}

# pattern LENGTH: what /bytes/LENGTH must be.
pattern() {
    { yes 0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ- || true; } 2>/dev/null | head -c "$1"
}

# ---- wrk and h2load

check_load() {
    local url=http://$http
    cat >"$scratch/pipeline.lua" <<'LUA'
init = function()
    local requests = {}
    for n = 1, 16 do requests[n] = wrk.format("GET", "/pipeline") end
    batch = table.concat(requests)
end
request = function() return batch end
LUA
    check "wrk, 64 connections" "over 1000 requests, no error" "$(wrk_verdict "$url/plaintext")"
    check "wrk, pipelines of 16" "over 1000 requests, no error" "$(wrk_verdict -s "$scratch/pipeline.lua" "$url")"
    check "wrk, /json/50" "over 1000 requests, no error" "$(wrk_verdict "$url/json/50?m=2")"
    for pipelined in 1 16; do
        check "h2load --h1 -m $pipelined" \
            "20000 done, 20000 succeeded, 0 failed, 0 errored, 0 timeout; 20000 2xx, 0 3xx, 0 4xx, 0 5xx" \
            "$("${bounded[@]}" h2load --h1 -n 20000 -c 50 -m "$pipelined" "$url/plaintext" 2>&1 |
                sed -nE 's/^requests: .* started, //p; s/^status codes: //p' | paste -sd ';' | sed 's/;/; /')"
    done
}

wrk_verdict() {
    local output requests
    output=$("${bounded[@]}" wrk -t1 -c64 -d2s "$@" 2>&1) || true
    requests=$(sed -nE 's/^ *([0-9]+) requests in .*/\1/p' <<<"$output")
    if ((${requests:-0} > 1000)) && ! grep -qE 'Socket errors|Non-2xx' <<<"$output"; then
        echo "over 1000 requests, no error"
    else
        echo "$output"
    fi
}

# ---- Python

check_python() {
    local clients=("${bounded[@]}" python3 "$scratch/clients.py")
    check "http.client: 1000 requests on one connection" "good" "$("${clients[@]}" session "$http" 2>&1)"
    check "200 connections of nonsense" "good" "$("${clients[@]}" nonsense "$http" 2>&1)"
    check "TCP echo" "good" "$("${clients[@]}" tcp_echo "$(address 'listening on 127' 2)" 2>&1)"
    check "200 connections of nonsense to TCP echo" "good" \
        "$("${clients[@]}" nonsense_echo "$(address 'listening on 127' 2)" 2>&1)"
    check "UDP echo" "good" "$("${clients[@]}" udp_echo "$(address 'datagrams on 127' 1)" 2>&1)"
    check "/stats after all that" "good" "$("${clients[@]}" stats "$http" 2>&1)"
    route 200 text/plain ok /health
}

# Every function raises what is wrong, so `good` is printed by none that failed.
write_clients() {
    cat >"$scratch/clients.py" <<'PYTHON'
import http.client, json, os, random, signal, socket, struct, sys, threading, time

PATTERN = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n"


def expect(what, expected, got):
    if expected != got:
        raise SystemExit(f"{what}: expected {expected!r:.300}, got {got!r:.300}")


def connect(address):
    # Shorter than the server's timeouts, so that it cannot be one of those that ends a wait.
    return socket.create_connection(address, timeout=8)


def session(address):
    """Requests of all kinds on one connection; http.client itself checks the framing."""
    rng = random.Random(1)
    connection = http.client.HTTPConnection(*address, timeout=8)
    connection.connect()
    connection.auto_open = 0  # A second connection would hide that the first was closed.

    def ask(method, path, body=None, expected=None, length=None):
        connection.request(method, path, body)
        response = connection.getresponse()
        got = response.read()
        expect(f"request {n}: status of {method} {path}", 200, response.status)
        expect(f"request {n}: body of {method} {path}", expected, got)
        if length is not None:
            expect(f"request {n}: length of {method} {path}", str(length), response.getheader("content-length"))

    for n in range(1000):
        length = rng.choice([0, 1, n, rng.randrange(100_000)])
        parts = [rng.randbytes(rng.randrange(1, 5000)) for _ in range(rng.randrange(6))]
        whole = b"".join(parts)
        match n % 7:
            case 0: ask("GET", "/plaintext", expected=b"Hello, World!", length=13)
            case 1: ask("POST", f"/baseline11?a={n}", str(n), expected=str(2 * n).encode())
            case 2: ask("HEAD", f"/bytes/{length}", expected=b"", length=length)
            case 3: ask("POST", "/upload", iter(parts), expected=str(len(whole)).encode())
            case 4: ask("GET", f"/bytes/{length}", expected=(PATTERN * (length // 64 + 1))[:length], length=length)
            case 5: ask("POST", "/echo", iter(parts), expected=whole)
            case 6: ask("POST", "/", whole, expected=whole, length=len(whole))


REQUESTS = [
    b"GET /plaintext HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n" * 3,
    b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
]


def nonsense(address, echo=False):
    """Random bytes, requests with wrong bytes and requests cut short; each connection must end by itself."""
    rng = random.Random(2)
    for n in range(200):
        sent = bytearray(rng.choice(REQUESTS))
        if n % 2 == 0:
            sent = rng.randbytes(rng.randrange(1, 20_000))
        elif n % 4 == 1:
            for _ in range(rng.randrange(1, 6)):
                sent[rng.randrange(len(sent))] = rng.randrange(256)
        else:
            del sent[rng.randrange(len(sent)):]
        client = connect(address)
        try:
            client.sendall(sent)
            match n % 5:
                case 0: client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                case 1: pass  # closed before the reply is read
                case _:
                    client.shutdown(socket.SHUT_WR)
                    got = read_all(client)
                    if echo:
                        expect(f"connection {n}: echo", bytes(sent), got)
                    elif got:
                        expect(f"connection {n}: reply to {bytes(sent)!r:.200}", b"HTTP/1.1 ", got[:9])
        except (ConnectionResetError, BrokenPipeError):
            if echo:  # Only a server that refuses to read on may do that.
                raise
        except TimeoutError:
            raise SystemExit(f"connection {n}: no end after {bytes(sent)!r:.200}")
        client.close()


def nonsense_echo(address):
    nonsense(address, echo=True)


def read_all(client):
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def tcp_echo(address):
    """8 MB through one connection, and 50 connections that take turns."""
    sent = random.Random(3).randbytes(8_000_000)
    client = connect(address)

    def send():
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    expect("echo of 8 MB", sent, read_all(client))
    sender.join()

    clients = [connect(address) for _ in range(50)]
    for round in range(10):
        for n, client in enumerate(clients):
            client.sendall(b"%d from %d\n" % (round, n))
        for n, client in enumerate(clients):
            expected = b"%d from %d\n" % (round, n)
            expect("turn", expected, client.recv(len(expected), socket.MSG_WAITALL))


def udp_echo(address):
    """Datagrams of many lengths one by one, then bursts that the kernel may join into trains."""
    rng = random.Random(4)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(10)
    client.connect(address)
    lengths = [0, 1, 511, 512, 1400, 1472, 1473, 4096, 4097, 9000, 65_507]
    for length in lengths + [rng.randrange(3000) for _ in range(500)]:
        sent = rng.randbytes(length)
        client.send(sent)
        expect(f"datagram of {length}", sent, client.recv(65_536))
    for _ in range(20):
        burst = [rng.randbytes(200) for _ in range(32)]
        for datagram in burst:
            client.send(datagram)
        expect("burst of 32", sorted(burst), sorted(client.recv(65_536) for _ in burst))


def stats(address):
    connection = http.client.HTTPConnection(*address, timeout=8)
    connection.request("GET", "/stats")
    total = json.load(connection.getresponse())["total"]
    for name in ["panics", "timeouts", "write_timeouts", "overflows"]:
        expect(name, 0, total[name])
    expect("over 80,000 requests", True, total["requests"] > 80_000)
    expect("511 datagrams and 640 in bursts", 1151, total["datagrams_sent"])


def drain(address, server):
    """The server is told to end when it has half of an upload."""
    client = connect(address)
    client.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n")
    expect("interim reply", b"HTTP/1.1 100 Continue\r\n\r\n", client.recv(25, socket.MSG_WAITALL))
    client.sendall(bytes(100_000))
    os.kill(int(server), signal.SIGTERM)
    time.sleep(0.5)
    client.sendall(bytes(100_000))
    reply = read_all(client)
    expect("status line", b"HTTP/1.1 200 OK", reply.partition(b"\r\n")[0])
    expect("body", b"200000", reply.partition(b"\r\n\r\n")[2])


def payload(path):
    with open(path, "wb") as file:
        file.write(random.Random(0).randbytes(20_000_000))


if sys.argv[1] == "payload":
    payload(sys.argv[2])
else:
    host, port = sys.argv[2].rsplit(":", 1)
    globals()[sys.argv[1]]((host, int(port)), *sys.argv[3:])
    print("good")
PYTHON
}

# ---- The end of the server

# Under load, and with an upload half done: the upload must still get its reply.
check_drain() {
    local status=0 started took load
    wrk -t1 -c64 -d8s "http://$http/plaintext" >/dev/null 2>&1 &
    load=$!
    sleep 1
    started=$SECONDS
    check "SIGTERM in the middle of an upload: it gets its reply" "good" \
        "$("${bounded[@]}" python3 "$scratch/clients.py" drain "$http" "$server" 2>&1)"
    "${bounded[@]}" tail --pid="$server" -f /dev/null || kill -KILL "$server"
    wait "$server" || status=$?
    took=$((SECONDS - started))
    check "SIGTERM under load" "exit status 0 within 10 s" "exit status $status within $((took > 10 ? took : 10)) s"
    kill -TERM "$load" 2>/dev/null || true
    wait "$load" 2>/dev/null || true
    check "no panic in the log" "panics=0" "$(grep -oiE 'panics=.*|.*panicked.*' "$log" || true)"
}

# ---- curl, wrk and openssl over TLS

make_certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -keyout "$scratch/key.pem" -out "$scratch/cert.pem" 2>/dev/null
}

check_https() {
    local port version kinds
    port=$(address 'TLS on ' 1)
    port=${port##*:}
    local curl=("${bounded[@]}" curl -sS --cacert "$scratch/cert.pem")
    check "curl trusts the certificate" "Hello, World!" "$("${curl[@]}" "https://localhost:$port/plaintext" 2>&1)"
    check "curl downloads over TLS" 3000000 "$("${curl[@]}" "https://localhost:$port/bytes/3000000" 2>&1 | wc -c)"
    check "curl uploads over TLS" "$(wc -c <"$scratch/payload")" \
        "$("${curl[@]}" --data-binary "@$scratch/payload" "https://localhost:$port/upload" 2>&1)"
    check "plain HTTP on the TLS port is told so" "400" \
        "$("${bounded[@]}" curl -sS -o /dev/null -w '%{http_code}' "http://localhost:$port/" 2>&1)"
    check "wrk finds no error over TLS" "" \
        "$("${bounded[@]}" wrk -t1 -c32 -d1s "https://localhost:$port/plaintext" 2>&1 | grep -iE 'error|non-2xx|unable' || true)"
    check "h2load finds no error over TLS" "2000 succeeded, 0 failed, 0 errored" \
        "$("${bounded[@]}" h2load --h1 -n 2000 -c 16 "https://localhost:$port/plaintext" 2>&1 | grep -oE '[0-9]+ succeeded, [0-9]+ failed, [0-9]+ errored')"
    check "Python's ssl in both versions" "TLSv1.2 200 TLSv1.3 200" "$("${bounded[@]}" python3 - "$port" "$scratch/cert.pem" <<'EOF' 2>&1
import http.client, ssl, sys
seen = []
for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
    context = ssl.create_default_context(cafile=sys.argv[2])
    context.minimum_version = context.maximum_version = version
    client = http.client.HTTPSConnection("localhost", int(sys.argv[1]), context=context, timeout=20)
    client.request("GET", "/plaintext")
    answer = client.getresponse()
    answer.read()
    seen += [client.sock.version(), str(answer.status)]
print(*seen)
EOF
)"
    for version in tls1_2 tls1_3; do
        rm -f "$scratch/session"
        kinds=$(handshake "$port" "-$version" -sess_out "$scratch/session")
        for _ in {1..8}; do kinds+=$(handshake "$port" "-$version" -sess_in "$scratch/session"); done
        check "openssl resumes $version on any worker" "New,ReusedReusedReusedReusedReusedReusedReusedReused" "${kinds//Reused,/Reused}"
    done
    check "openssl hears that no protocol is shared" "alert number 120" \
        "$("${bounded[@]}" openssl s_client -connect "localhost:$port" -alpn h2 </dev/null 2>&1 | grep -o 'alert number [0-9]*')"
}

# An authority with a list of who is revoked, and clients: good, expired, unknown (to it), revoked.
make_clients() {
    local name
    for name in ca else; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$name" \
            -keyout "$scratch/$name.key" -out "$scratch/$name.pem" 2>/dev/null
    done
    make_client good ca 2
    make_client expired ca -1
    make_client unknown else 2
    make_client revoked ca 2
    cat >"$scratch/ca.conf" <<EOF
[ca]
default_ca = own
[own]
database = $scratch/index
crlnumber = $scratch/number
default_md = sha256
default_crl_days = 2
crl_extensions = list
[list]
authorityKeyIdentifier = keyid:always
EOF
    : >"$scratch/index"
    echo 01 >"$scratch/number"
    local ca=(openssl ca -config "$scratch/ca.conf" -cert "$scratch/ca.pem" -keyfile "$scratch/ca.key")
    "${ca[@]}" -revoke "$scratch/revoked.pem" 2>/dev/null
    "${ca[@]}" -gencrl -out "$scratch/crl.pem" 2>/dev/null
}

# make_client NAME AUTHORITY DAYS
make_client() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$scratch/$1.key" -out "$scratch/$1.csr" 2>/dev/null
    openssl x509 -req -in "$scratch/$1.csr" -CA "$scratch/$2.pem" -CAkey "$scratch/$2.key" -days "$3" -out "$scratch/$1.pem" \
        -extfile <(printf 'basicConstraints=CA:false\nsubjectAltName=DNS:%s\n' "$1") 2>/dev/null
}

# Alerts by their numbers in RFC 8446, 6.
check_clients() {
    local port version client expected
    port=$(address 'TLS on ' 1)
    port=${port##*:}
    for version in tls1_2 tls1_3; do
        for client in "good Hello, World!" "expired alert number 45" "unknown alert number 48" "revoked alert number 44" \
            "none alert number 116"; do
            expected=${client#* }
            client=${client%% *}
            local own=(-cert "$scratch/$client.pem" -key "$scratch/$client.key")
            [[ $client == none ]] && own=()
            check "openssl shows a certificate over $version: $client" "$expected" \
                "$(printf 'GET /plaintext HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n' |
                    "${bounded[@]}" openssl s_client -connect "localhost:$port" "-$version" "${own[@]}" -ign_eof 2>&1 |
                    grep -oE 'Hello, World!|alert number [0-9]+' | head -n 1)"
        done
    done
    check "curl shows a certificate" "Hello, World!" "$(fetch --cacert "$scratch/cert.pem" --cert "$scratch/good.pem" \
        --key "$scratch/good.key" "https://localhost:$port/plaintext")"
}

# ringmill load against openssl's server, which is given a port; another program may take it first.
check_load_over_tls() {
    local port version
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
        -addext basicConstraints=critical,CA:FALSE -keyout "$scratch/leaf.key" -out "$scratch/leaf.pem" 2>/dev/null
    read -r port < <(free_ports 1)
    for version in tls1_2 tls1_3; do
        "${bounded[@]}" openssl s_server -quiet -www "-$version" -accept "127.0.0.1:$port" \
            -cert "$scratch/leaf.pem" -key "$scratch/leaf.key" >/dev/null 2>&1 &
        local openssl=$!
        for _ in {1..100}; do
            "${bounded[@]}" openssl s_client -connect "127.0.0.1:$port" </dev/null >/dev/null 2>&1 && break
            sleep 0.05
        done
        # It serves one client at a time.
        check "load speaks $version with openssl, and resumes" "TLSv${version/tls1_/1.} True True 0" "$(
            "${bounded[@]}" "$programs/ringmill" load "https://localhost:$port/" --cacert "$scratch/leaf.pem" -c 1 -d 500ms --json 2>&1 |
                python3 -c 'import json, sys
text = sys.stdin.read()
report = json.loads(text[text.index("{"):])
tls = report["tls"]
print(tls["version"], tls["handshakes"] > 1, tls["resumed_total"] >= tls["handshakes_total"] - 1, report["errors"])'
        )"
        kill "$openssl" 2>/dev/null && { wait "$openssl" 2>/dev/null || true; }
    done
}

# handshake PORT OPTION...: whether openssl made a new session. It asks for a page, so that tickets can come.
handshake() {
    printf 'GET /plaintext HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n' |
        "${bounded[@]}" openssl s_client -connect "localhost:$1" "${@:2}" -ign_eof 2>/dev/null | grep -oE '^(New|Reused),' | head -n 1
}

# ---- grpcio

check_grpc() {
    local service
    service=$(grep -oE '127\.[^ ]*' "$log" | head -n 1)
    check "grpcio: calls of all four kinds, deadlines, details, compression, reflection, health" "all as expected" \
        "$("${bounded[@]}" "$grpcio" "$(dirname "$0")/grpc_client.py" "$service" 2>&1)"
}

# ---- WebSocket: Python's websockets, npm's ws, and Autobahn's test suite

# check_websocket ADDRESS
check_websocket() {
    local here ws
    here=$(dirname "$0")
    ws=$(realpath --no-symlinks "$here/../target/ws/node_modules/ws")
    check "Python's websockets: echo, fragments, every window, a topic, a limit" "good" \
        "$("${bounded[@]}" "$websockets" "$here/websocket_client.py" "$1" 2>&1)"
    if [[ -d $ws ]] && command -v node >/dev/null; then
        check "npm's ws: echo with every window" "good" "$("${bounded[@]}" node "$here/websocket_client.js" "$1" "$ws" 2>&1)"
    else
        echo "note: npm's ws is left out, as it or node is not here"
    fi
}

# A case of compression takes two seconds or more, as it is a thousand messages one after the other: each driver has another 18 of the 216.
# Large messages go to io_uring, whose sends are the ones that may be cut.
# check_autobahn ADDRESS
check_autobahn() {
    local here
    here=$(dirname "$0")
    if [[ ! -x $here/../target/autobahn/suite/bin/wstest ]]; then
        echo "note: Autobahn's test suite is left out: tests/autobahn.sh --install, which needs Python 2.7"
        return
    fi
    check "Autobahn, cases 1 to 7 and 10" "244 OK, 3 INFORMATIONAL" "$(autobahn "$1" 120)"
    local compression='13.1.*'
    if [[ $driver == uring ]]; then
        check "Autobahn, cases 9: messages of up to 16 MiB" "54 OK" "$(autobahn "$1" 180 '9.*')"
        compression='12.1.*'
    fi
    check "Autobahn, cases $compression: compression" "18 OK" "$(autobahn "$1" 300 "$compression")"
}

# autobahn ADDRESS SECONDS [CASE...]: the verdict, and the cases that did not end well.
autobahn() {
    timeout --foreground --kill-after=5 "$2" "$(dirname "$0")/autobahn.sh" "ws://$1/ws" "${@:3}" 2>&1 |
        sed -E '/^[0-9.]+ INFORMATIONAL$/d; /^$/d' || true
}

# ---- sslyze and testssl.sh, over TLS

check_scanners() {
    local port report=$scratch/sslyze.json
    port=$(address 'TLS on ' 1)
    port=${port##*:}
    rm -f "$report"
    "${bounded[@]}" "$sslyze" --sslv2 --sslv3 --tlsv1 --tlsv1_1 --tlsv1_2 --tlsv1_3 --compression --early_data --openssl_ccs --fallback \
        --heartbleed --robot --reneg --ems --json_out="$report" "localhost:$port" >/dev/null 2>&1 || true
    check "sslyze finds six good cipher suites, and nothing weak" \
        "SSL 2.0 0, SSL 3.0 0, TLS 1.0 0, TLS 1.1 0, TLS 1.2 3, TLS 1.3 3; weak: " "$(read_sslyze "$report" 2>&1)"
    # Protocols and known attacks: a line for each attack.
    timeout --foreground --kill-after=5 300 testssl --quiet --warnings off --color 0 --ip one -p -U "localhost:$port" \
        </dev/null >"$scratch/testssl" 2>&1 || true
    local attacks
    attacks=$(grep -c 'not vulnerable' "$scratch/testssl" || true)
    check "testssl.sh tries known attacks" "12 or more, in vain" "$((attacks < 12 ? attacks : 12)) or more, in vain"
    check "testssl.sh finds nothing weak" "" \
        "$(grep -iE 'vulnerable|not ok|fatal|error' "$scratch/testssl" | grep -v 'not vulnerable' || true)"
}

# read_sslyze REPORT: how many cipher suites of each protocol are accepted, and what else is not as it should be.
read_sslyze() {
    python3 - "$1" <<'EOF'
import json
import sys

found = json.load(open(sys.argv[1]))["server_scan_results"][0]["scan_result"]
protocols = ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3"]
suites = [len(found[name + "_cipher_suites"]["result"]["accepted_cipher_suites"]) for name in protocols]
wanted = {
    "tls_compression": ("supports_compression", False),
    "tls_1_3_early_data": ("supports_early_data", False),
    "openssl_ccs_injection": ("is_vulnerable_to_ccs_injection", False),
    "tls_fallback_scsv": ("supports_fallback_scsv", True),
    "heartbleed": ("is_vulnerable_to_heartbleed", False),
    "robot": ("robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED"),
    "session_renegotiation": ("is_vulnerable_to_client_renegotiation_dos", False),
    "tls_extended_master_secret": ("supports_ems_extension", True),
}
weak = [name for name, (key, value) in wanted.items() if found[name]["result"][key] != value]
names = [name.upper().replace("_", " ", 1).replace("_", ".") for name in protocols]
print(", ".join(f"{name} {count}" for name, count in zip(names, suites)) + "; weak: " + ", ".join(weak))
EOF
}

# ---- redis-cli and redis-benchmark

check_redis() {
    local store
    store=$(address 'key-value store on 127' 1)
    redis=("${bounded[@]}" redis-cli -h "${store%:*}" -p "${store#*:}")
    ask PONG ping
    ask hello ping hello
    ask OK set name 'Ada Lovelace'
    ask 'Ada Lovelace' get name
    ask '' get nobody
    ask 1 dbsize
    ask 1 del name nobody
    ask 0 dbsize
    ask 'ERR wrong number of arguments' get
    ask 'ERR unknown command: PING, ECHO, SET, GET, DEL and DBSIZE are known' nonsense
    check "redis-cli: a value of 400 kB" "OK same" \
        "$(head -c 400000 "$scratch/payload" | "${redis[@]}" -x set large) $("${redis[@]}" --raw get large |
            head -c 400000 >"$scratch/back" && cmp -n 400000 "$scratch/payload" "$scratch/back" && echo same)"
    ask 1 del large
    check "redis-cli --pipe with 10000 SETs" "errors: 0, replies: 10000" \
        "$(sets 10000 | "${redis[@]}" --pipe 2>&1 | grep -vE '^(All data|Last reply)')"
    ask 10000 dbsize
    ask value9999 get key9999
    for pipelined in 1 16; do
        check "redis-benchmark -P $pipelined" "SET GET" "$(benchmark_verdict "$store" "$pipelined")"
    done
    ask PONG ping
}

# ask EXPECTED ARGUMENT...
ask() {
    check "redis-cli ${*:2}" "$1" "$("${redis[@]}" "${@:2}" 2>&1)"
}

# sets COUNT: so many SET commands in the protocol of Redis.
sets() {
    awk -v count="$1" 'BEGIN { for (n = 0; n < count; n++) {
        key = "key" n; value = "value" n
        printf "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", length(key), key, length(value), value } }'
}

# The tests that came to an end with a rate; all of the output where it failed.
benchmark_verdict() {
    local output
    if output=$("${bounded[@]}" redis-benchmark -h "${1%:*}" -p "${1#*:}" -t set,get -n 20000 -P "$2" -q 2>&1); then
        tr '\r' '\n' <<<"$output" | sed -nE 's/^([SG]ET): [1-9][0-9.]* requests per second.*/\1/p' | paste -sd ' '
    else
        echo "$output"
    fi
}

# ---- ringmill load beside wrk and h2load

# All three on the same server in turn, twice in opposite orders. The rates are reported; they have to agree roughly.
check_generators() {
    local url="http://$http/plaintext" name verdict
    : >"$scratch/rates"
    for name in load wrk h2load h2load wrk load; do
        echo "$name $("rate_of_$name" "$url")" >>"$scratch/rates"
    done
    verdict=$(python3 - "$scratch/rates" <<'PYTHON'
import sys
rates = {}
for line in open(sys.argv[1]):
    name, _, rate = line.strip().partition(" ")
    try:
        rates.setdefault(name, []).append(float(rate))
    except ValueError:
        sys.exit(f"no rate of {name}: {rate}")
mean = {name: sum(both) / len(both) for name, both in rates.items()}
others = ", ".join(f"{mean['load'] / mean[name]:.2f} x {name} ({mean[name]:.0f})" for name in ("wrk", "h2load"))
print(f"  ringmill load: {mean['load']:.0f} requests/s, {others}", file=sys.stderr)
print("agree" if all(1 / 3 < mean["load"] / mean[name] < 3 for name in ("wrk", "h2load")) else mean)
PYTHON
    )
    check "ringmill load, wrk and h2load agree within a factor of 3" agree "$verdict"
    # The line is for people: on a terminal it is there, on a pipe it is not (tests/load.rs).
    check "ringmill load shows rate and p99 on a terminal" "progress, exit status 0" \
        "$("${bounded[@]}" python3 -c "$on_a_terminal" "$programs/ringmill" load "$url" -d 3s --warmup 0 2>&1)"
}

on_a_terminal='
import os, pty, re, subprocess, sys
ours, theirs = pty.openpty()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=theirs)
os.close(theirs)
text = b""
try:
    while piece := os.read(ours, 4096):
        text += piece
except OSError:  # EIO: the last one to hold the terminal has closed it.
    pass
status = child.wait()
progress = re.search(rb"\r.*\d+ s .*[1-9]\d* requests/s +p99 [\d.]+ [num]?s", text)
print(f"progress, exit status {status}" if progress else text)
'

rate_of_load() {
    "${bounded[@]}" "$programs/ringmill" load "$1" -c 64 -d 2s --warmup 200ms --pin off --json 2>/dev/null |
        python3 -c 'import json, sys; r = json.load(sys.stdin); print(r["requests_per_second"] if r["errors"] == 0 else r)'
}

rate_of_wrk() {
    "${bounded[@]}" wrk -t1 -c64 -d2s "$1" 2>&1 | sed -n 's/^Requests\/sec: *//p'
}

rate_of_h2load() {
    "${bounded[@]}" h2load --h1 -t1 -c64 -D2 "$1" 2>&1 | sed -nE 's/^finished in .*, ([0-9.]+) req\/s,.*/\1/p'
}

main "$@"
