#!/usr/bin/env bash
# Interrupts, RPS, RFS and XPS of one network card. Shows what it would do; --apply does it, after a backup.
#
#   tuning/irq-rps.sh IFACE                    what would be written
#   tuning/irq-rps.sh IFACE --apply            write it (root); prints where the backup is
#   tuning/irq-rps.sh --undo FILE              write back what the backup holds
#
#   --cpus LIST      CPUs that may be used, as 0-3,8 [default: all that are online]
#   --backup FILE    where the backup goes [default: /var/lib/ringmill/irq-rps-IFACE.backup]
#
# One interrupt for each queue, dealt to the CPUs in turn. RPS and RFS only where the card has fewer receive queues
# than CPUs; XPS only where it has several transmit queues. Source: the kernel's networking/scaling.rst.
# irqbalance moves interrupts back: stop it, or start it with --banirq for each of them.
set -euo pipefail

# Tests look at a directory instead of the machine.
root=${IRQ_RPS_ROOT:-}
flow_entries=32768

die() {
    printf 'irq-rps.sh: error: %s\n' "$*" >&2
    exit 2
}

usage() {
    sed -n '2,/^set -e/{s/^# \{0,1\}//;/^set -e/d;p}' "${BASH_SOURCE[0]}"
}

# expand_list LIST: one CPU a line.
expand_list() {
    local part
    for part in ${1//,/ }; do
        [[ $part =~ ^([0-9]+)(-([0-9]+))?$ ]] || die "bad CPU list '$1': expected numbers and ranges such as 0-3,8"
        seq "${BASH_REMATCH[1]}" "${BASH_REMATCH[3]:-${BASH_REMATCH[1]}}"
    done
}

# mask CPU...: the hexadecimal mask of sysfs, groups of 32 bits, highest first.
mask() {
    local -a groups=(0)
    local cpu text i
    for cpu in "$@"; do
        while ((${#groups[@]} <= cpu / 32)); do groups+=(0); done
        groups[cpu / 32]=$((groups[cpu / 32] | 1 << (cpu % 32)))
    done
    printf -v text '%x' "${groups[-1]}"
    for ((i = ${#groups[@]} - 2; i >= 0; i--)); do printf -v text '%s,%08x' "$text" "${groups[i]}"; done
    printf '%s\n' "$text"
}

paths=()
values=()
# plan PATH VALUE: remembers what to write, if the file is there.
plan() {
    [[ -e $root$1 ]] || return 0
    paths+=("$1")
    values+=("$2")
}

# interrupts IFACE: the numbers of its interrupts whose name tells that they carry packets.
interrupts() {
    local device=$root/sys/class/net/$1/device directory irq
    for directory in "$device/msi_irqs" "$device/../msi_irqs"; do
        [[ -d $directory ]] || continue
        for irq in "$directory"/*; do basename "$irq"; done | sort -n | while read -r irq; do
            # Configuration and control interrupts of a card never carry packets.
            if grep -E "^ *$irq:" "$root/proc/interrupts" | grep -qvE -- '-(config|control|event|async)'; then
                printf '%s\n' "$irq"
            fi
        done
        return 0
    done
}

plan_card() {
    local iface=$1 queue irq cpu i=0 own
    local -a cpus rx tx
    shift
    cpus=("$@")
    while read -r irq; do
        plan "/proc/irq/$irq/smp_affinity_list" "${cpus[i++ % ${#cpus[@]}]}"
    done < <(interrupts "$iface")
    rx=("$root/sys/class/net/$iface/queues"/rx-*)
    tx=("$root/sys/class/net/$iface/queues"/tx-*)
    if ((${#rx[@]} < ${#cpus[@]})); then
        plan /proc/sys/net/core/rps_sock_flow_entries "$flow_entries"
        for queue in "${rx[@]#"$root"}"; do
            plan "$queue/rps_cpus" "$(mask "${cpus[@]}")"
            plan "$queue/rps_flow_cnt" $((flow_entries / ${#rx[@]}))
        done
    fi
    if ((${#tx[@]} > 1)); then
        i=0
        for queue in "${tx[@]#"$root"}"; do
            own=()
            for ((cpu = i % ${#cpus[@]}; cpu < ${#cpus[@]}; cpu += ${#tx[@]})); do own+=("${cpus[cpu]}"); done
            plan "$queue/xps_cpus" "$(mask "${own[@]}")"
            i=$((i + 1))
        done
    fi
}

# write_all FILE: writes the lines "PATH VALUE" of a file; stops at the first that fails.
write_all() {
    local path value
    while read -r path value; do
        printf '%s\n' "$value" >"$root$path" || return 1
        printf 'set %s to %s\n' "$path" "$value"
    done <"$1"
}

undo() {
    [[ -f $1 ]] || die "no backup at $1: nothing was applied, or it is elsewhere"
    if grep -vqE '^/(proc/irq|proc/sys/net/core|sys/class/net)/[^ ]+ [0-9a-f,-]+$' "$1" || grep -qF '/../' "$1"; then
        die "$1 is not a backup of this script"
    fi
    write_all "$1" || die "undoing stopped at the line above; the backup is still at $1 (root?)"
    rm -- "$1"
}

apply() {
    local backup=$1 i plan_file
    [[ ! -e $backup ]] || die "there is a backup at $backup: undo it first, or give another place with --backup"
    for i in "${!paths[@]}"; do
        [[ -w $root${paths[i]} ]] || die "no permission for ${paths[i]}: run it as root; nothing was changed"
    done
    mkdir -p "$(dirname "$backup")"
    for i in "${!paths[@]}"; do printf '%s %s\n' "${paths[i]}" "$(<"$root${paths[i]}")"; done >"$backup.new"
    mv -- "$backup.new" "$backup"
    plan_file=$(mktemp)
    for i in "${!paths[@]}"; do printf '%s %s\n' "${paths[i]}" "${values[i]}"; done >"$plan_file"
    if ! write_all "$plan_file"; then
        rm -- "$plan_file"
        printf 'irq-rps.sh: a value was refused; putting back what was there\n' >&2
        write_all "$backup" >/dev/null || die "putting back failed too; the backup is at $backup"
        rm -- "$backup"
        exit 2
    fi
    rm -- "$plan_file"
    printf 'undo: %s --undo %s\n' "$0" "$backup"
}

main() {
    local iface='' list='' backup='' do_apply=0 i
    local -a cpus
    while (($# > 0)); do
        case $1 in
        -h | --help) usage && exit 0 ;;
        --apply) do_apply=1 ;;
        --undo) undo "${2:?--undo needs a FILE}" && exit 0 ;;
        --cpus) list=${2:?--cpus needs a LIST} && shift ;;
        --backup) backup=${2:?--backup needs a FILE} && shift ;;
        -*) die "unknown option $1: see --help" ;;
        *) iface=$1 ;;
        esac
        shift
    done
    [[ -n $iface ]] || die "which network card? See --help; known: $(cd "$root/sys/class/net" && printf '%s ' *)"
    [[ $iface != */* && -d $root/sys/class/net/$iface/queues ]] || die "no network card '$iface' with queues"
    [[ -n $list ]] || list=$(<"$root/sys/devices/system/cpu/online")
    # A failure in the list must end the script, and one inside < <() would not.
    list=$(expand_list "$list") || exit 2
    mapfile -t cpus <<<"$list"
    plan_card "$iface" "${cpus[@]}"
    ((${#paths[@]} > 0)) || die "nothing to set on $iface: it shows neither interrupts nor queues that can be steered"
    if ((do_apply)); then
        apply "${backup:-/var/lib/ringmill/irq-rps-$iface.backup}"
    else
        for i in "${!paths[@]}"; do
            printf 'would set %s: %s -> %s\n' "${paths[i]}" "$(<"$root${paths[i]}")" "${values[i]}"
        done
        printf 'nothing was changed; --apply does it\n'
    fi
}

main "$@"
