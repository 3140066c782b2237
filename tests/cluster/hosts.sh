#!/usr/bin/env bash
# Several hosts on one machine, as namespaces: each has a name, an address, shared memory and a folder for
# temporary files of its own, and a link to a switch. Files are shared, as by a cluster's file system.
# Needs root.
#
#     hosts.sh up FOLDER NAME...             starts the hosts
#     hosts.sh on FOLDER NAME COMMAND...     runs a command on one of them
#     hosts.sh cut FOLDER NAME               takes the host's link down: the other ends are told nothing
#     hosts.sh mend FOLDER NAME              takes it up again
#     hosts.sh kill FOLDER NAME              takes the link down and kills every process of the host
#     hosts.sh down FOLDER                   ends them all
#
# FOLDER/agent is for Open MPI's plm_rsh_agent: it stands for ssh between the hosts.
#
# All hosts are in one process namespace, whose first process stands for the switch between them: when that
# ends, the kernel ends everything else and removes the networks, so nothing stays behind. It ends with the
# process that called `up`, or with the one whose number is in HOSTS_OWNER.
set -euo pipefail

subnet=10.88.0
this="$(realpath "${BASH_SOURCE[0]}")"
deploy="$(realpath "$(dirname "$this")/../../deploy")"

main() {
    [ $# -ge 2 ] || fail "usage: hosts.sh up|on|cut|mend|kill|down FOLDER [NAME...]"
    local command="$1"
    folder="$(realpath "$2")"
    shift 2
    case "$command" in
        up) up "$@" ;;
        on) exec nsenter "${switch[@]}" "--target=$(cat "$folder/switch")" "$this" on-inside "$folder" "$@" ;;
        cut) inside ip link set "$1" down ;;
        mend) inside ip link set "$1" up ;;
        kill)
            inside ip link set "$1" down
            inside "$this" kill-inside "$folder" "$1"
            ;;
        down) kill -KILL "$(cat "$folder/switch")" ;;
        start-inside) start_host "$@" ;;
        on-inside) on_host "$@" ;;
        kill-inside) processes "$1" | xargs --no-run-if-empty kill -KILL ;;
        *) fail "unknown command: $command" ;;
    esac
}

fail() {
    echo "hosts.sh: $*" >&2
    exit 1
}

# The namespaces of the switch, and those that a host has to itself.
switch=(--net --mount --pid)
host=(--net --uts --mount --ipc)

# inside COMMAND...: runs it on the switch, where process numbers are those of the hosts.
inside() {
    nsenter "${switch[@]}" "--target=$(cat "$folder/switch")" "$@"
}

up() {
    local parent name number=0
    printf '127.0.0.1 localhost\n' >"$folder/hosts"
    for name in "$@"; do
        printf '%s.%d %s\n' "$subnet" "$((++number))" "$name" >>"$folder/hosts"
    done
    write_agent

    setsid unshare "${switch[@]}" --mount-proc --fork --kill-child sleep infinity </dev/null >/dev/null 2>&1 &
    parent=$!
    # The switch is the child that unshare forks.
    until pgrep --parent "$parent" --exact sleep >"$folder/switch"; do
        kill -0 "$parent" || fail "cannot make namespaces: not root?"
        sleep 0.01
    done
    trap 'kill -KILL "$(cat "$folder/switch")"' ERR
    # shellcheck disable=SC2016  # expanded by the inner shell
    setsid bash -c 'while sleep 1 && kill -0 "$1"; do kill -0 "$2" || kill -KILL "$1"; done' - \
        "$(cat "$folder/switch")" "${HOSTS_OWNER:-$PPID}" </dev/null >/dev/null 2>&1 &
    inside ip link add bridge type bridge
    inside ip link set bridge up
    number=0
    for name in "$@"; do
        inside "$this" start-inside "$folder" "$name" "$subnet.$((++number))"
    done
}

# start_host NAME ADDRESS
start_host() {
    local name="$1" address="$2"
    mkdir -p "$folder/tmp-$name"
    rm -f "$folder/pid-$name"
    # shellcheck disable=SC2016  # expanded by the inner shell
    setsid unshare "${host[@]}" bash -c 'echo $$ >"$1" && exec sleep infinity' - "$folder/pid-$name" \
        </dev/null >/dev/null 2>&1 &
    until [ -s "$folder/pid-$name" ]; do
        kill -0 $! || fail "cannot make the host $name"
        sleep 0.01
    done
    ip link add "$name" type veth peer name eth0 netns "$(cat "$folder/pid-$name")"
    ip link set "$name" master bridge up
    on_host "$name" ip address add "$address/24" dev eth0
    on_host "$name" ip link set lo up
    on_host "$name" ip link set eth0 up
    on_host "$name" hostname "$name"
    on_host "$name" mount --bind "$folder/hosts" /etc/hosts
    on_host "$name" mount -t tmpfs tmpfs /dev/shm
    # The settings that p8 ships, as an administrator would install them on each host.
    on_host "$name" mount --bind "$deploy/openmpi-mca-params.conf" /etc/openmpi/openmpi-mca-params.conf
    on_host "$name" sysctl -q -p "$deploy/sysctl.conf"
}

# on_host NAME COMMAND...: from inside.
on_host() {
    local name="$1"
    shift
    TMPDIR="$folder/tmp-$name" nsenter "${host[@]}" "--target=$(cat "$folder/pid-$name")" "$@"
}

# Open MPI starts its daemons with `agent HOST COMMAND...`. Where the host dies without a word, an ssh goes
# on waiting for it, and so does this.
write_agent() {
    cat >"$folder/agent" <<END
#!/bin/bash
host="\$1"
shift
"$this" on-inside "$folder" "\$host" bash -c "\$*"
status=\$?
[ "\$status" -ne 137 ] || exec sleep infinity >/dev/null 2>&1
exit "\$status"
END
    chmod +x "$folder/agent"
}

# processes NAME: the numbers of all processes on the host but the one that makes it. From inside.
processes() {
    local network first process
    first="$(cat "$folder/pid-$1")"
    network="$(readlink "/proc/$first/ns/net")"
    for process in /proc/[0-9]*; do
        [ "${process#/proc/}" != "$first" ] || continue
        [ "$(readlink "$process/ns/net")" != "$network" ] || echo "${process#/proc/}"
    done
}

main "$@"
