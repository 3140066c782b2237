# shellcheck shell=bash
# What the scripts of this folder share: a virtual environment and the programs that they measure.
#
# P8_BENCH_VENV names the environment's folder (default: bench/.venv); P8_BENCH_PIP_ARGS is handed to
# pip, for instance `--extra-index-url ADDRESS` of an index that has PyTorch without CUDA.

bench="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=../scripts/setup.sh
. "$bench/../scripts/setup.sh"

venv="${P8_BENCH_VENV:-$bench/.venv}"

# use_venv FILE...: sets `python` to an interpreter that has the packages of these requirements files.
# A file whose name ends in -alone.txt is installed without the dependencies of its packages.
use_venv() {
    local file mark
    local -a arguments more
    read -r -a more <<<"${P8_BENCH_PIP_ARGS:-}"
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv" ||
        fail "python3 cannot make a virtual environment (Debian and Ubuntu: the package python3-venv)"
    # shellcheck disable=SC2034 # used by the scripts that source this one
    python="$venv/bin/python"
    for file in "$@"; do
        mark="$venv/.p8-bench-$(sha256sum "$file" | cut -c 1-16)"
        [ ! -e "$mark" ] || continue
        arguments=(--quiet --disable-pip-version-check --requirement "$file")
        case "$file" in
            *-alone.txt) arguments+=(--no-deps) ;;
        esac
        say "installing $(basename "$file") into $venv"
        "$venv/bin/python" -m pip install "${more[@]}" "${arguments[@]}" >&2
        touch "$mark"
    done
}

# build KIND NAME: builds a program of this repository (KIND is bin or example) and prints its path.
build() {
    local kind="$1" name="$2" target
    require_rust
    (cd "$repository" && cargo build --release --locked "--$kind" "$name") >&2
    target="$(cd "$repository" && cd "${CARGO_TARGET_DIR:-target}" && pwd)"
    case "$kind" in
        bin) echo "$target/release/$name" ;;
        *) echo "$target/release/examples/$name" ;;
    esac
}
