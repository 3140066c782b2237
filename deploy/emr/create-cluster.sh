#!/usr/bin/env bash
# Uploads p8 and its weights to S3 and starts an EMR cluster of one primary and two core nodes for them.
#
#     create-cluster.sh --binary FILE --weights FILE --s3 s3://BUCKET/PREFIX --subnet subnet-...
#                       [--key-name NAME] [--release emr-7.5.0] [--idle-minutes 30] [--name p8]
#
# --binary is p8 built for the nodes' system (README.md beside this file says how), --weights the file for
# p8's --weights. The bucket belongs to you, in the region of the cluster: it holds the key by which the nodes
# log in to each other. --key-name is an EC2 key pair of yours, for logging in yourself. The number and kind
# of the nodes are in instance-groups.json. The cluster ends by itself when it has been idle.
#
# Prints the cluster's id when the cluster is ready. Needs the AWS CLI with credentials and a region.
set -euo pipefail
here="$(dirname "$(realpath "${BASH_SOURCE[0]}")")"
security=p8-imdsv2

main() {
    local binary='' weights='' s3='' subnet='' key_name='' release=emr-7.5.0 idle_minutes=30 name=p8
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || usage "$1 has no value"
        case "$1" in
            --binary) binary="$2" ;;
            --weights) weights="$2" ;;
            --s3) s3="${2%/}" ;;
            --subnet) subnet="$2" ;;
            --key-name) key_name="$2" ;;
            --release) release="$2" ;;
            --idle-minutes) idle_minutes="$2" ;;
            --name) name="$2" ;;
            *) usage "unknown option: $1" ;;
        esac
        shift 2
    done
    [ -f "$binary" ] || usage "--binary is not a file: \"$binary\""
    [ -f "$weights" ] || usage "--weights is not a file: \"$weights\""
    [[ "$s3" =~ ^s3://[^/]+/.+ ]] || usage "--s3 is not s3://BUCKET/PREFIX: \"$s3\""
    [ -n "$subnet" ] || usage "--subnet is missing"
    [[ "$idle_minutes" =~ ^[1-9][0-9]*$ ]] || usage "--idle-minutes is not a number: \"$idle_minutes\""

    local digest id
    scratch="$(mktemp -d)"
    trap 'rm -rf "$scratch"' EXIT
    upload "$binary" "$weights" "$s3"
    digest="$(sha256sum <"$scratch/files/SHA256SUMS")"
    digest="${digest%% *}"
    require_imds_v2

    id="$(aws emr create-cluster \
        --name "$name" \
        --release-label "$release" \
        --applications Name=Hadoop \
        --instance-groups "file://$here/instance-groups.json" \
        --ec2-attributes "SubnetId=$subnet,InstanceProfile=EMR_EC2_DefaultRole${key_name:+,KeyName=$key_name}" \
        --service-role EMR_DefaultRole \
        --security-configuration "$security" \
        --auto-termination-policy "IdleTimeout=$((idle_minutes * 60))" \
        --no-termination-protected \
        --bootstrap-actions "Path=$s3/emr-bootstrap.sh,Name=p8,Args=[$s3,$digest]" \
        --log-uri "$s3/logs/" \
        --tags project=p8 \
        --query ClusterId --output text)"
    say "cluster $id is starting; that takes some minutes"
    aws emr wait cluster-running --cluster-id "$id" ||
        fail "cluster $id did not start; its state, and what the bootstrap said:
    aws emr describe-cluster --cluster-id $id --query Cluster.Status
    aws s3 ls --recursive $s3/logs/$id/node/ | grep bootstrap-actions"
    say "cluster $id is ready. It costs money until it ends: by itself after $idle_minutes idle minutes, or with"
    say "    $here/terminate.sh $id"
    echo "$id"
}

# upload BINARY WEIGHTS S3: everything a node gets, its digests, and a new key pair.
upload() {
    local binary="$1" weights="$2" s3="$3" files="$scratch/files"
    mkdir "$files"
    cp "$binary" "$files/p8"
    cp "$weights" "$files/$(weights_name "$weights")"
    cp "$here/run-step.sh" "$here/../openmpi-mca-params.conf" "$here/../sysctl.conf" "$files"
    (cd "$files" && sha256sum -- * >"$scratch/SHA256SUMS" && mv "$scratch/SHA256SUMS" .)
    say "uploading to $s3"
    aws s3 cp --only-show-errors --recursive "$files" "$s3"
    aws s3 cp --only-show-errors "$here/../../emr-bootstrap.sh" "$s3/emr-bootstrap.sh"
    ssh-keygen -q -t ed25519 -N '' -C p8 -f "$scratch/id_p8"
    aws s3 cp --only-show-errors --sse AES256 "$scratch/id_p8" "$s3/ssh/id_p8"
    aws s3 cp --only-show-errors "$scratch/id_p8.pub" "$s3/ssh/id_p8.pub"
}

# p8 knows the format of weights by the end of their name.
weights_name() {
    echo "weights.${1##*.}"
}

# The nodes answer questions about themselves, and give out their credentials, by IMDSv2 only.
require_imds_v2() {
    if ! aws emr describe-security-configuration --name "$security" >/dev/null 2>&1; then
        aws emr create-security-configuration --name "$security" \
            --security-configuration "file://$here/security-configuration.json" >/dev/null
    fi
}

say() {
    printf 'create-cluster: %s\n' "$*" >&2
}

fail() {
    say "$@"
    exit 1
}

usage() {
    say "$@"
    sed -n 's/^# \{0,1\}//; 3,5p' "$here/create-cluster.sh" >&2
    exit 2
}

main "$@"
