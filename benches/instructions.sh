#!/usr/bin/env bash
# Counts the instructions of the head parser, a session and a worker's turn, and compares them with the baseline:
#
#   benches/instructions.sh            a table; fails where a case needs more than the tolerance allows
#   benches/instructions.sh --update   writes benches/instructions.baseline anew
#
# protocols/benches/instructions.rs has the cases. Each one runs in callgrind (Debian package valgrind) twice, for two
# numbers of repetitions: the difference is the cost of one, without what happens once. Only what is inside of
# `counted` and `turn_unchecked` counts, and there not what is inside of the simulated kernel (the driver's `turn`). What
# the kernel and a real driver do is therefore not in these figures; handing an operation to the simulated kernel
# (`submit`) is, and what counts transitions in the worker (`coverage.rs`) is, a few instructions each. Time stands still.
#
# Instructions are no time. But they repeat exactly: the same binary gives the same counts. What changes them besides the
# code: the compiler, the C library (allocator, memcpy), and the CPU, which both of them and memchr look at to choose
# code. Below, the C library is kept from choosing by AVX and ERMS. The baseline notes the first two; CI runs with the same.
set -euo pipefail
cd "$(dirname "$0")/.."

tolerance_percent=3
few=100
many=300
baseline=benches/instructions.baseline

case "${1:-}" in
'' | --update) mode=${1:-compare} ;;
*)
    echo "usage: benches/instructions.sh [--update]" >&2
    exit 2
    ;;
esac
if ! command -v valgrind >/dev/null; then
    echo "valgrind is not installed (Debian: apt-get install valgrind)" >&2
    exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo build --release -p ringmill-protocols --bench instructions --locked --message-format json-render-diagnostics \
    >"$work/build.json"
binary=$(grep -o '"executable":"[^"]*/instructions-[^"]*"' "$work/build.json" | cut -d '"' -f 4)

# Functions where counting starts and stops. Missing ones would make figures that look good and mean nothing.
functions=('*instructions::counted' '*Simulation::turn_unchecked' '*sim::Sim as*driver::Driver>::turn')
nm -C "$binary" >"$work/names"
for function in "${functions[@]}"; do
    if ! grep -q "${function//\*/.*}\$" "$work/names"; then
        echo "the binary has no function $function" >&2
        exit 1
    fi
done

# count CASE TIMES: the instructions of so many repetitions.
count() {
    local log="$work/$1.$2"
    GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load,-ERMS \
        valgrind --tool=callgrind --callgrind-out-file=/dev/null "${functions[@]/#/--toggle-collect=}" \
        "$binary" "$1" "$2" >"$log" 2>&1 || { cat "$log" >&2; return 1; }
    sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$log"
}

machine="# $(rustc --version), $(ldd --version | sed -n 1p), $(uname -m)"
{
    echo "# Instructions of one repetition of each case. Written by benches/instructions.sh --update."
    echo "$machine"
} >"$work/counts"
for name in $(GLIBC_TUNABLES='' "$binary"); do
    first=$(count "$name" "$few")
    last=$(count "$name" "$many")
    printf '%-24s %d\n' "$name" $(((last - first) / (many - few))) >>"$work/counts"
done

if [[ $mode == --update ]]; then
    cp "$work/counts" "$baseline"
    cat "$baseline"
    exit
fi
if ! grep -qxF "$machine" "$baseline"; then
    printf 'note: the baseline is of another compiler, C library or machine\n  there: %s\n  here:  %s\n' \
        "$(sed -n 2p "$baseline")" "$machine"
fi
awk -v tolerance="$tolerance_percent" '
    /^#/ { next }
    NR == FNR { before[$1] = $2; next }
    {
        if (!($1 in before)) { printf "%-24s %10s %10d            new: run with --update\n", $1, "-", $2; failed = 1; next }
        change = ($2 - before[$1]) * 100 / before[$1]
        verdict = "same"
        if ($2 <= 0) { verdict = "NOTHING WAS COUNTED"; failed = 1 }
        else if (change > tolerance) { verdict = "WORSE"; failed = 1 }
        else if (change < -tolerance) { verdict = "better: keep it with --update"; better = 1 }
        printf "%-24s %10d %10d %+8.2f %%  %s\n", $1, before[$1], $2, change, verdict
        delete before[$1]
    }
    END {
        for (name in before) { printf "%-24s %10d %10s            gone: run with --update\n", name, before[name], "-"; failed = 1 }
        if (failed) print "\nFAILED: more than " tolerance " % above the baseline, or other cases. If that is meant, and the commit says why: benches/instructions.sh --update"
        exit failed
    }' "$baseline" "$work/counts"
