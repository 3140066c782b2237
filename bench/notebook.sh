#!/usr/bin/env bash
# Times the notebook's own job, 100 small JPEGs to 7 components of all 100352 features:
#     bench/notebook.sh [options of notebook.py]
# P8_BENCH_P8 names the program where it is built already.
set -euo pipefail
# shellcheck source=venv.sh
. "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

add_open_mpi_to_path
command -v mpirun >/dev/null || fail "mpirun is not on PATH; scripts/run installs it"
use_venv "$bench/requirements-notebook.txt"
p8="${P8_BENCH_P8:-$(build bin p8)}"
# More ranks than there are cores make mpirun ask for permission.
configure_mpi "${P8_BENCH_MOST_RANKS:-3}"
PYTHONPATH="$bench/peers" exec "$python" "$bench/notebook.py" --p8 "$p8" "$@"
