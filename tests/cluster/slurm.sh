#!/usr/bin/env bash
# A Slurm cluster of three nodes on this machine: slurmctld on the first, slurmd on each, munge for all.
# The nodes are the hosts of hosts.sh. Needs root, and Debian's packages slurmctld, slurmd, slurm-client, munge.
#
#     slurm.sh up FOLDER              starts it
#     slurm.sh run FOLDER COMMAND...  runs sbatch, scontrol and the like on the first node
#     slurm.sh down FOLDER            ends everything
set -euo pipefail

nodes=(node1 node2 node3)
hosts="$(dirname "$(realpath "${BASH_SOURCE[0]}")")/hosts.sh"

main() {
    [ $# -ge 2 ] || fail "usage: slurm.sh up|run|down FOLDER [COMMAND...]"
    local command="$1"
    folder="$(realpath "$2")"
    shift 2
    export SLURM_CONF="$folder/slurm.conf"
    case "$command" in
        up) up ;;
        run) "$hosts" on "$folder" "${nodes[0]}" "$@" ;;
        down) "$hosts" down "$folder" ;;
        *) fail "unknown command: $command" ;;
    esac
}

fail() {
    echo "slurm.sh: $*" >&2
    exit 1
}

up() {
    local program node
    for program in munged mungekey slurmctld slurmd sbatch; do
        PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || fail "$program is not installed"
    done
    configure
    HOSTS_OWNER="$PPID" "$hosts" up "$folder" "${nodes[@]}"
    trap '"$hosts" down "$folder"' ERR

    start_munge
    mkdir -p "$folder/state"
    "$hosts" on "$folder" "${nodes[0]}" slurmctld
    for node in "${nodes[@]}"; do
        mkdir -p "$folder/spool-$node"
        "$hosts" on "$folder" "$node" slurmd
    done
    wait_for_nodes
}

configure() {
    cat >"$SLURM_CONF" <<END
ClusterName=p8
SlurmctldHost=${nodes[0]}
SlurmUser=root
AuthType=auth/munge
# A job that goes back to the queue waits there until its credential has expired, by default two minutes.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdSpoolDir=$folder/spool-%n
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdLogFile=$folder/slurmd-%n.log
# PMIx keeps its files here, so nodes must not share it.
TmpFS=$folder/tmp-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# Nodes with more cores than this machine has.
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
NodeName=node[1-3] CPUs=2 RealMemory=1000
PartitionName=p8 Nodes=ALL Default=YES State=UP
END
}

# munged refuses a socket below folders that others may write to, so it is told to trust them.
start_munge() {
    mkdir -p "$folder/munge"
    chmod 700 "$folder/munge"
    mungekey --create --keyfile="$folder/munge/key"
    "$hosts" on "$folder" "${nodes[0]}" munged --force --socket="$folder/munge.socket" \
        --key-file="$folder/munge/key" --log-file="$folder/munge/log" --pid-file="$folder/munge/pid" \
        --seed-file="$folder/munge/seed" 2>"$folder/munge/warnings" || fail "$(cat "$folder/munge/warnings")"
}

wait_for_nodes() {
    local left=300 idle
    until [ "$left" -eq 0 ]; do
        idle="$("$hosts" on "$folder" "${nodes[0]}" sinfo --noheader --Node --states=idle --format=%N 2>&1 |
            grep -c '^node' || true)"
        [ "$idle" -ne "${#nodes[@]}" ] || return 0
        sleep 0.1
        left=$((left - 1))
    done
    tail -n 20 "$folder"/*.log >&2
    fail "the nodes do not come up"
}

main "$@"
