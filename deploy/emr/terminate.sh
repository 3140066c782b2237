#!/usr/bin/env bash
# Ends an EMR cluster and waits until it costs nothing any more: terminate.sh CLUSTER_ID
set -euo pipefail
[[ "${1:-}" == j-* ]] || {
    echo 'usage: terminate.sh CLUSTER_ID' >&2
    exit 2
}
aws emr terminate-clusters --cluster-ids "$1"
aws emr wait cluster-terminated --cluster-id "$1"
echo "terminate: cluster $1 has ended; what it left is in its S3 folders" >&2
