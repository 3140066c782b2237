#!/usr/bin/env bash
# Runs p8 on an EMR cluster and waits for its end:
#
#     submit.sh CLUSTER_ID [p8 options]
#     submit.sh j-2AXXXXXXGAPLF --input s3://BUCKET/photos --output s3://BUCKET/result
#
# --weights is there already. Fails where p8 fails, and says where the log is. A run that was interrupted goes
# on when it is submitted again.
set -euo pipefail

say() {
    printf 'submit: %s\n' "$*" >&2
}

# A JSON string. Options hold no control characters.
quote() {
    local text="${1//\\/\\\\}"
    printf '"%s"' "${text//\"/\\\"}"
}

[[ "${1:-}" == j-* ]] || {
    say "usage: submit.sh CLUSTER_ID [p8 options]"
    exit 2
}
cluster="$1"
shift

arguments="$(quote bash),$(quote /opt/p8/run-step.sh)"
for argument in "$@"; do
    [[ ! "$argument" =~ [[:cntrl:]] ]] || {
        say "an option holds a control character: $argument"
        exit 2
    }
    arguments+=",$(quote "$argument")"
done
step="$(aws emr add-steps --cluster-id "$cluster" --query 'StepIds[0]' --output text --steps "[{
    \"Type\": \"CUSTOM_JAR\", \"Name\": \"p8\", \"ActionOnFailure\": \"CONTINUE\",
    \"Jar\": \"command-runner.jar\", \"Args\": [$arguments]
}]")"
say "step $step of cluster $cluster"

# `aws emr wait step-complete` gives up after half an hour.
state=PENDING
while [ "$state" = PENDING ] || [ "$state" = RUNNING ]; do
    sleep "${P8_POLL_SECONDS:-10}"
    now="$(aws emr describe-step --cluster-id "$cluster" --step-id "$step" --query Step.Status.State --output text)"
    [ "$now" = "$state" ] || say "$now"
    state="$now"
done
logs="$(aws emr describe-cluster --cluster-id "$cluster" --query Cluster.LogUri --output text)"
say "the log comes to ${logs%/}/$cluster/steps/$step/stderr.gz within five minutes"
[ "$state" = COMPLETED ]
