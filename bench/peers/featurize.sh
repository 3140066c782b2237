#!/usr/bin/env bash
# Puts p8's network beside ONNX Runtime, OpenVINO, PyTorch and Keras:
#     bench/peers/featurize.sh [options of featurize.py]
# P8_BENCH_WORKER names p8's worker where it is built already.
set -euo pipefail
# shellcheck source=../venv.sh
. "$(dirname "${BASH_SOURCE[0]}")/../venv.sh"

use_venv "$bench/peers/requirements-featurize.txt"
worker="${P8_BENCH_WORKER:-$(build example bench_worker)}"
exec "$python" "$bench/peers/featurize.py" --worker "$worker" "$@"
