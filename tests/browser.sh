#!/usr/bin/env bash
# What a browser makes of ringmill serve and of ringmill proxy, by tests/browser.py: Chromium (Debian: apt-get install chromium), on both drivers. HTTPS with a
# self-signed certificate, trusted and not; WebSocket, plain, over TLS and compressed; server-sent events that go on after a cut and after a
# restart; the demo on the first page; behind a proxy requests, WebSocket and events over HTTP/1.1 and HTTP/2. Argument: the folder of the program, target/release unless given.
set -euo pipefail
programs=$(realpath "${1:-$(dirname "$0")/../target/release}")
drivers=${RINGMILL_TEST_DRIVERS:-uring poll}
unset "${!RINGMILL_@}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
command -v chromium >/dev/null || { echo "browser.sh: there is no chromium: apt-get install chromium" >&2; exit 1; }
for driver in $drivers; do
    mkdir "$scratch/$driver"
    timeout --kill-after=5 240 python3 "$(dirname "$0")/browser.py" "$programs/ringmill" "$driver" "$scratch/$driver"
done
