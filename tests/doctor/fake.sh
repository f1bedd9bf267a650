#!/usr/bin/env bash
# Stands in for `ringmill serve` and `ringmill load` in the tests of `doctor --measure`. Its state is in $FAKE_ROOT,
# the machine of the test; files there say how it fails. It is a file of the tree, and not written by the tests,
# because a program that was just written cannot be run while another thread of the test forks (ETXTBSY).
set -u
root=$FAKE_ROOT
case $1 in
serve)
    # With this file, the real server.
    [[ -e $root/real ]] && exec "$(<"$root/real")" "$@"
    printf '%s\n' "$*" >>"$root/served"
    printf '%s\n' $$ >>"$root/pids"
    printf 'INFO listening on 127.0.0.1:1\n' >&2
    exec sleep 60
    ;;
load)
    if [[ -e $root/real ]]; then
        address=${2#http://}
        address=${address%/}
        exec 3<>"/dev/tcp/${address%:*}/${address##*:}" || exit 1
        printf 'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
        read -r _ status _ <&3
        [[ $status == 200 ]] && printf '{"requests_per_second": 100.0, "errors": 0, "latency_us": {"p99": 1.5}}\n'
        exit
    fi
    somaxconn=$(<"$root/proc/sys/net/core/somaxconn")
    printf '%s %s\n' "$*" "$somaxconn" >>"$root/loaded"
    run=$(wc -l <"$root/loaded")
    [[ -e $root/hang_in_run_2 ]] && ((run == 2)) && exec sleep 60
    [[ -e $root/silent ]] && printf 'no figures today\n' >&2 && exit 1
    failed=0
    [[ -e $root/failing ]] && failed=3
    # One run without a reply, as on a machine that is too busy.
    [[ -e $root/slow_in_run_2 ]] && ((run == 2)) && printf '{"requests_per_second": 0, "errors": 0}\n' && exit 1
    # The rate follows the knob: a fifth more with the setting, a tenth less with the option.
    rate=1000
    [[ $somaxconn == 4096 ]] && rate=1200
    [[ $(tail -n 1 "$root/served") == *reno ]] && rate=900
    printf '{"requests_per_second": %d, "errors": %d, "latency_us": {"p50": 10, "p99": 50}}\n' \
        $((rate + run)) "$failed"
    ;;
esac
