#!/usr/bin/env bash
# The engine's unsafe code under two checkers: tests/sanitize.sh [address|valgrind]; without an argument, both.
# Only builds what the address sanitizer runs: tests/sanitize.sh build
#
# Miri cannot run what calls io_uring or epoll, and is not part of the stable toolchain. In its place: an address
# sanitizer (out of bounds, use after free, leaks) on unit and socket tests of both drivers, and valgrind (uninitialised
# reads as well) on the pool, the outputs and the epoll driver. What the kernel writes, neither sees: the pool's own bits
# and the suite in engine/src/driver are for that.
set -euo pipefail
cd "$(dirname "$0")/.."

# address [OPTION...]: the options are cargo's.
address() {
    # The flag is unstable; the sanitizer's runtime comes with every toolchain.
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=target/sanitize
    export ASAN_OPTIONS="detect_stack_use_after_return=1:detect_leaks=1"
    export LSAN_OPTIONS="suppressions=$PWD/tests/sanitize.supp:print_suppressions=0"
    local triple
    triple=$(rustc -vV | sed -n 's/^host: //p')
    cargo test --quiet --locked --target "$triple" "$@" -p ringmill-engine --lib
    cargo test --quiet --locked --target "$triple" "$@" -p ringmill --no-default-features \
        --test engine --test sessions --test udp --test limits --test connect \
        -- --skip cost_a_bounded_amount # which measures memory, and the sanitizer keeps what is freed
}

valgrind_on_epoll() {
    command -v valgrind >/dev/null || { echo "tests/sanitize.sh: valgrind is missing: install valgrind" >&2; exit 1; }
    local binary
    binary=$(cargo test --quiet --locked --no-run --message-format=json -p ringmill-engine --lib |
        sed -n 's/.*"executable":"\([^"]*ringmill_engine[^"]*\)".*/\1/p' | tail -1)
    valgrind --quiet --error-exitcode=9 \
        "$binary" --test-threads=1 pool:: output:: driver::suite::poll datagram:: bell::
}

case ${1:-both} in
    build) (address --no-run) ;;
    address) (address) ;;
    valgrind) valgrind_on_epoll ;;
    both) (address); valgrind_on_epoll ;;
    *) echo "usage: tests/sanitize.sh [build|address|valgrind]" >&2; exit 2 ;;
esac
