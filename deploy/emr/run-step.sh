#!/usr/bin/env bash
# Runs p8 on all nodes of the EMR cluster; the step that submit.sh adds. On the primary node, as hadoop:
#
#     run-step.sh [p8 options]
#
# The bootstrap action has put p8, its weights and this script into /opt/p8. P8_SYSTEM_ROOT is put in front of
# the system paths; the tests point it at a folder.
set -euo pipefail

system_root="${P8_SYSTEM_ROOT:-}"
home="$system_root/opt/p8"
open_mpi="$system_root/usr/lib64/openmpi"

main() {
    local hostfile nodes weights core
    hostfile="$(mktemp)"
    list_nodes >"$hostfile"
    nodes="$(wc -l <"$hostfile")"
    [ "$nodes" -gt 0 ] || fail "the cluster has no running nodes"
    say "$nodes nodes: $(tr '\n' ' ' <"$hostfile")"
    wait_for_logins "$hostfile"

    weights="$(echo "$home"/weights.*)"
    [ -f "$weights" ] || fail "there are no weights in $home"
    # OpenBLAS 0.3.18 of Amazon Linux 2023 is suspected of wrong results with AVX-512. Its kernels for AVX2 are
    # not, and cost little here: the network does not use BLAS.
    core="${OPENBLAS_CORETYPE:-Haswell}"
    say "OPENBLAS_CORETYPE=$core"

    # One rank a node, with all of its cores: every rank holds the weights, and p8 has threads for the rest.
    # mpirun by its whole path tells the other nodes where Open MPI lies.
    exec "$open_mpi/bin/mpirun" --hostfile "$hostfile" --map-by ppr:1:node --bind-to none \
        -x OPENBLAS_CORETYPE="$core" "$home/p8" --weights "$weights" "$@"
}

say() {
    printf '%s run-step: %s\n' "$(date -u +%H:%M:%S)" "$*" >&2
}

fail() {
    say "FAILED: $*"
    exit 1
}

# Prints the private names of the running nodes as a hostfile, this one first, so that rank 0 is here.
list_nodes() {
    local cluster primary name
    cluster="$(sed -n 's/.*"jobFlowId" *: *"\([^"]*\)".*/\1/p' "$system_root/mnt/var/lib/info/job-flow.json")"
    [ -n "$cluster" ] || fail "job-flow.json does not name the cluster"
    primary="$(hostname -f)"
    printf '%s slots=1\n' "$primary"
    aws emr list-instances --cluster-id "$cluster" --instance-states RUNNING \
        --query 'Instances[].[PrivateDnsName]' --output text |
        while read -r name; do
            [ "$name" = "$primary" ] || printf '%s slots=1\n' "$name"
        done
}

wait_for_logins() {
    local name rest attempt
    while read -r name rest; do
        for ((attempt = 1; ; attempt++)); do
            ssh -n -o BatchMode=yes -o ConnectTimeout=5 "$name" "test -x $home/p8" && break
            [ "$attempt" -lt 30 ] || fail "cannot log in to $name, or p8 is not there $rest"
            sleep 5
        done
    done <"$1"
}

main "$@"
