#!/usr/bin/env bash
# Generated attacks on `ringmill proxy` and `ringmill serve --config` in front of nginx, HAProxy, Apache, node, Go, gunicorn, Ringmill and a
# server that takes only what a proxy may send; those that are not here are left out. Behind each attack come victims. What is an alarm, and how
# one is repeated, says tests/front_back/main.py. Traffic stays on loopback.
#
#   tests/front_back.sh [DIRECTORY_OF_RINGMILL] [OPTIONS]     (default: target/release)
#
#   tests/front_back.sh target/debug --count 5000 --seed 7 --backend nginx --driver poll
#   tests/front_back.sh --lax --count 150 --backend node       a proxy that is wrong: there must be alarms
set -euo pipefail

programs=$(dirname "$0")/../target/release
if [[ ${1-} && ${1-} != --* ]]; then
    programs=$1
    shift
fi
if [[ ! -x $programs/ringmill ]]; then
    echo "$programs lacks ringmill: cargo build --release --bins" >&2
    exit 1
fi
PATH=$PATH:/usr/sbin # where Debian keeps nginx and apache2
unset "${!RINGMILL_@}" # Every option of ringmill is also a variable: none may leak in.
exec python3 -B "$(dirname "$0")/front_back/main.py" --ringmill "$(realpath "$programs/ringmill")" "$@"
