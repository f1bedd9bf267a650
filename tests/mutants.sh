#!/usr/bin/env bash
# Changes the rules of sessions (engine/src/session) in every way that cargo-mutants knows, one at a time, and names each change
# that no unit test of them notices: in target/mutants.out/missed.txt. Works on a copy, and takes a quarter of an hour. What is left
# out, and why, is in .cargo/mutants.toml.
# Needs: cargo install cargo-mutants --locked. Arguments go to it: tests/mutants.sh --file engine/src/session/duplex.rs
set -euo pipefail
cd "$(dirname "$0")/.."

status=0
cargo mutants --workspace --jobs 1 --output target --test-package ringmill-engine --cargo-arg=--lib "$@" -- session:: || status=$?
# 2: some were missed; 3: some ran out of time, which is noticing as well. Anything else is no result.
((status == 0 || status == 2 || status == 3)) || exit "$status"
if [[ -s target/mutants.out/missed.txt ]]; then
    printf '\n=== no test notices these:\n'
    cat target/mutants.out/missed.txt
    exit 1
fi
