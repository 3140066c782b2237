#!/usr/bin/env bash
# Puts p8's PCA beside scikit-learn, oneDAL, Heat, Spark MLlib and LAPACK:
#     bench/peers/pca.sh [options of pca.py]
# P8_BENCH_P8 names the program where it is built already. Spark needs Java 17 or later.
set -euo pipefail
# shellcheck source=../venv.sh
. "$(dirname "${BASH_SOURCE[0]}")/../venv.sh"

add_open_mpi_to_path
command -v mpirun >/dev/null || fail "mpirun is not on PATH; scripts/run installs it"
# Heat asks for an older PyTorch than it needs, so it comes without what it asks for.
use_venv "$bench/peers/requirements-pca.txt" "$bench/peers/requirements-pca-alone.txt"
p8="${P8_BENCH_P8:-$(build bin p8)}"
configure_mpi "${P8_BENCH_MOST_RANKS:-3}"
exec "$python" "$bench/peers/pca.py" --p8 "$p8" "$@"
