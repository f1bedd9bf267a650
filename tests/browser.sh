#!/usr/bin/env bash
# What a browser makes of ringmill serve over HTTPS: Chromium (Debian: apt-get install chromium), on both drivers, told to trust
# the key of the self-signed certificate, and not told so. Argument: the folder of the program, target/release unless given.
set -euo pipefail
programs=$(realpath "${1:-$(dirname "$0")/../target/release}")
drivers=${RINGMILL_TEST_DRIVERS:-uring poll}
unset "${!RINGMILL_@}"
scratch=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill -KILL "$server" 2>/dev/null; rm -rf "$scratch"' EXIT

# browse URL [OPTION...]: the page as it is shown.
browse() {
    timeout --kill-after=5 60 chromium --headless=new --no-sandbox --disable-gpu --no-proxy-server \
        --user-data-dir="$(mktemp -d -p "$scratch")" "${@:2}" --dump-dom "$1" 2>/dev/null || true
}

for driver in $drivers; do
    "$programs/ringmill" serve --driver "$driver" --listen 127.0.0.1:0 --tls-listen 127.0.0.1:0 --tls-self-signed 2>"$scratch/log" &
    server=$!
    for _ in {1..100}; do
        grep -qF 'worker(s) on CPU' "$scratch/log" && break
        sleep 0.1
    done
    address=$(sed -n 's/.*TLS on 127.0.0.1:/localhost:/p' "$scratch/log")
    pin=$(sed -n 's,.*--pinnedpubkey sha256//\([^ ]*\) .*,\1,p' "$scratch/log")
    page=$(browse "https://$address/peer" --ignore-certificate-errors-spki-list="$pin")
    [[ $page == *'"version":"TLSv1.3"'*'"server_name":"localhost"'* ]] ||
        { echo "FAILED $driver: trusted, the page is: $page"; exit 1; }
    echo "ok $driver: trusted, it is TLS 1.3 for localhost"
    page=$(browse "https://$address/peer")
    [[ $page != *TLSv1.3* ]] || { echo "FAILED $driver: not trusted, and shown: $page"; exit 1; }
    echo "ok $driver: not trusted, it is not shown"
    kill -TERM "$server"
    wait "$server" || { echo "FAILED $driver: the server ended with $?"; exit 1; }
    server=
done
