#!/usr/bin/env bash
# Times p8 over numbers of ranks and of images, and draws both:
#     bench/scaling.sh [options of scaling.py]
# P8_BENCH_P8 names the program where it is built already.
set -euo pipefail
# shellcheck source=venv.sh
. "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

add_open_mpi_to_path
command -v mpirun >/dev/null || fail "mpirun is not on PATH; scripts/run installs it"
use_venv "$bench/requirements-notebook.txt"
p8="${P8_BENCH_P8:-$(build bin p8)}"
configure_mpi "${P8_BENCH_MOST_RANKS:-4}"
PYTHONPATH="$bench/peers" "$python" "$bench/scaling.py" --p8 "$p8" "$@"
exec "$python" "$bench/plots.py"
