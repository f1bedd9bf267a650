#!/usr/bin/env bash
# Changes the rules of sessions (engine/src/session) in every way that cargo-mutants knows, one at a time, and names each change
# that no test notices: in target/mutants.out/missed.txt. First the tests of the rules themselves, then the simulator for what they
# missed. Works on a copy, and takes an hour or two. What is left out, and why, is in .cargo/mutants.toml.
# Needs: cargo install cargo-mutants --locked. Arguments go to it: tests/mutants.sh --file engine/src/session/duplex.rs
set -euo pipefail
cd "$(dirname "$0")/.."

# mutants ARGUMENTS... -- ARGUMENTS OF CARGO TEST...
mutants() {
    local status=0
    cargo mutants --workspace --jobs 1 --output target "$@" || status=$?
    # 2: some were missed; 3: some ran out of time, which is noticing as well. Anything else is no result.
    ((status == 0 || status == 2 || status == 3)) || exit "$status"
}

mutants --test-package ringmill-engine --cargo-arg=--lib "$@" -- session::
mutants --iterate --test-package ringmill-protocols --cargo-arg=--test=simulator "$@" -- -- seeds stacked
if [[ -s target/mutants.out/missed.txt ]]; then
    printf '\n=== no test notices these:\n'
    cat target/mutants.out/missed.txt
    exit 1
fi
