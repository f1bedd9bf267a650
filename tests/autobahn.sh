#!/usr/bin/env bash
# Autobahn's test suite against a WebSocket server that echoes every message:
#
#   tests/autobahn.sh ws://127.0.0.1:8080/echo                          framing, pings, UTF-8, closing: 1 to 7 and 10
#   tests/autobahn.sh ws://127.0.0.1:8080/echo '12.1.*' '13.1.*'        these cases
#   EXPECTED='242 OK, 3 INFORMATIONAL, 2 NON-STRICT' tests/autobahn.sh ws://..        fails unless the first line of the verdict is this
#   tests/autobahn.sh --install                                         installs the suite, and does nothing else
#   tests/autobahn.sh --python                                          says where Python 2.7 is, or fails
#
# The verdict is the only thing on standard output: how many cases ended how, then each that did not end in OK. The reports stay in
# target/autobahn/reports. The suite is installed into target/autobahn by pip. It needs Python 2.7, which is looked for in PATH and
# among pyenv's: PYTHON2=/path/to/python2.7 says where else it is. Debian has none any more; `pyenv install 2.7.18` builds one.
set -euo pipefail
cd "$(dirname "$0")/.."

SUITE=autobahntestsuite==25.10.1
# The last that makes environments for Python 2.7.
VIRTUALENV=virtualenv==20.15.1
CASES=('1.*' '2.*' '3.*' '4.*' '5.*' '6.*' '7.*' '10.*')
home=target/autobahn
wstest=$home/suite/bin/wstest

main() {
    (($# >= 1)) || { sed -n 's/^# \{0,1\}//; 2,14p' "$0" >&2; exit 2; }
    if [[ $1 == --python ]]; then
        find_python
        return
    fi
    [[ -x $wstest ]] || install >&2
    if [[ $1 == --install ]]; then return; fi
    local url=$1 reports verdict
    shift
    reports=$home/reports/$(tr -c 'A-Za-z0-9\n' _ <<<"$url")
    rm -rf "$reports"
    mkdir -p "$reports"
    specify "$url" "$reports" "${@:-${CASES[@]}}" >"$reports/specification.json"
    "$wstest" --mode fuzzingclient --spec "$reports/specification.json" >"$reports/log" 2>&1 || { cat "$reports/log" >&2; exit 1; }
    verdict=$(judge "$reports/index.json")
    printf '%s\n' "$verdict"
    if [[ -n ${EXPECTED-} && ${verdict%%$'\n'*} != "$EXPECTED" ]]; then
        printf 'expected: %s\n' "$EXPECTED" >&2
        exit 1
    fi
}

find_python() {
    local python2=${PYTHON2-} candidate
    for candidate in "$(command -v python2.7 || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do
        # A shim of pyenv is there even where it leads nowhere.
        if [[ -z $python2 ]] && "$candidate" -c 'import ssl' 2>/dev/null; then python2=$candidate; fi
    done
    [[ -n $python2 ]] || { echo "autobahn.sh: there is no Python 2.7: pyenv install 2.7.18, or PYTHON2=/path/to/python2.7" >&2; exit 1; }
    echo "$python2"
}

install() {
    local python2
    python2=$(find_python)
    python3 -m venv "$home/make"
    "$home/make/bin/pip" install --quiet --disable-pip-version-check "$VIRTUALENV"
    "$home/make/bin/virtualenv" --quiet --python "$python2" "$home/suite"
    "$home/suite/bin/pip" install --quiet --disable-pip-version-check "$SUITE"
}

# specify URL FOLDER CASE...
specify() {
    python3 - "$@" <<'PYTHON'
import json, sys
url, folder, *cases = sys.argv[1:]
print(json.dumps({"outdir": folder, "servers": [{"agent": "server", "url": url}], "cases": cases, "exclude-cases": [],
                  "exclude-agent-cases": {}}))
PYTHON
}

judge() {
    python3 - "$1" <<'PYTHON'
import collections, json, sys
cases = json.load(open(sys.argv[1]))["server"]
counts, others = collections.Counter(), []
for case in sorted(cases, key=lambda case: [int(part) for part in case.split(".")]):
    how, close = cases[case]["behavior"], cases[case]["behaviorClose"]
    worst = how if close in ("OK", "INFORMATIONAL") else f"{close} (closing)" if how == "OK" else how
    counts[worst] += 1
    if worst != "OK":
        others.append(f"{case} {worst}")
print(", ".join(f"{count} {how}" for how, count in sorted(counts.items(), key=lambda pair: (pair[0] != "OK", pair[0]))))
print("\n".join(others))
PYTHON
}

main "$@"
