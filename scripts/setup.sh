# shellcheck shell=bash
# Makes a machine ready to build and run p8. Sourced by the other scripts and .ci/run.
#
# P8_SYSTEM_ROOT is put in front of the system paths read here; the tests point it at a folder.

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
system_root="${P8_SYSTEM_ROOT:-}"

# The whole set-up. Does nothing on a machine that has everything.
set_up_machine() {
    require_rust
    provide build
    command -v mpirun >/dev/null || fail "mpirun is not on PATH"
}

# What the tests of several hosts and of Slurm need beyond that. They make namespaces, which only root may.
provide_for_cluster_tests() {
    if [ "$(id -u)" -ne 0 ]; then
        say "not root: the tests of several hosts and of Slurm will be skipped"
    elif [ "$(package_family)" != debian ]; then
        say "not Debian: tests of several hosts and of Slurm are skipped where programs are missing"
    else
        provide cluster
    fi
}

# What the tests of the report need beyond that: a Chromium that a program can drive. Ubuntu has none among
# its packages.
provide_for_browser_tests() {
    if [ -z "$(missing_packages debian browser)" ]; then
        return 0
    elif ! grep -qx 'ID=debian' "$system_root/etc/os-release" 2>/dev/null; then
        say "not Debian: the tests of the report in a browser are skipped without chromium and chromedriver"
    elif [ "$(id -u)" -ne 0 ]; then
        say "not root, and no chromium and chromedriver: the tests of the report in a browser will be skipped"
    else
        provide browser
    fi
}

# Makes a virtual environment with the Python libraries that read p8's results, for the tests of docs/python.md,
# and exports P8_TESTS_PYTHON. Its folder keeps the requirements that it was made from.
provide_for_python_tests() {
    local requirements="$repository/tests/requirements-python.txt"
    local venv="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/p8-tests/python"
    if ! cmp -s "$requirements" "$venv/requirements.txt" && ! make_python "$requirements" "$venv"; then
        say "the Python libraries cannot be had: the tests of docs/python.md will be skipped"
        return
    fi
    export P8_TESTS_PYTHON="$venv/bin/python"
}

make_python() {
    local requirements="$1" venv="$2"
    # In a process of its own, because a failed installation ends it.
    (provide python) || return
    rm -rf "$venv"
    python3 -m venv "$venv" >&2 || return
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" >&2 || return
    cp "$requirements" "$venv/requirements.txt"
}

# provide build|shellcheck|cluster|browser|python|arm|valgrind: installs what this machine lacks of what building
# p8, checking its scripts, testing it on several hosts, in a browser or with Python's libraries, running its
# kernels for 64-bit Arm, or checking their use of memory needs.
provide() {
    local need="$1" family
    local -a missing
    add_open_mpi_to_path
    family="$(package_family)"
    if [ "$family" = other ]; then
        say "no package names are known for this system, so nothing is installed; p8 needs a C compiler," \
            "make, cmake, nasm, pkg-config, MPI (mpicc, mpirun), libclang and OpenBLAS with LAPACK"
        return
    fi
    mapfile -t missing < <(missing_packages "$family" "$need")
    [ "${#missing[@]}" -gt 0 ] || return 0
    install_packages "$family" "${missing[@]}"
    add_open_mpi_to_path
    mapfile -t missing < <(missing_packages "$family" "$need")
    [ "${#missing[@]}" -eq 0 ] || fail "still missing after the installation:" "${missing[@]}"
}

# All messages go to stderr: stdout belongs to p8.
say() {
    printf 'p8: %s\n' "$*" >&2
}

fail() {
    say "$@"
    exit 1
}

# Ends the script, with the way to Rust, unless a cargo that is new enough is there.
require_rust() {
    local get_rust="    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    # A shell that is older than the installation of Rust does not have rustup's folder on its PATH.
    command -v cargo >/dev/null || export PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"
    command -v cargo >/dev/null || fail "Rust is not installed. Get it with
$get_rust
and run this command again"

    local wanted found
    wanted="$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$repository/Cargo.toml")"
    found="$(cd "$repository" && cargo --version)" ||
        fail "cargo does not start. The toolchain it needs is the one in rust-toolchain.toml; to get it, run
    rustup toolchain install"
    found="${found#cargo }"
    found="${found%% *}"
    printf '%s\n' "$wanted" "$found" | sort --version-sort --check=quiet ||
        fail "Rust $found is too old, p8 needs $wanted. A cargo from rustup gets the right one by itself:
$get_rust"
}

# Prints debian, fedora or other: whose package names and package manager are used.
package_family() {
    local os_release="$system_root/etc/os-release" ids="" family=other manager
    if [ -r "$os_release" ]; then
        # shellcheck source=/dev/null
        ids="$(. "$os_release" && printf '%s %s' "${ID:-}" "${ID_LIKE:-}")"
    fi
    case " $ids " in
        *' debian '* | *' ubuntu '*) family=debian manager=apt-get ;;
        *' fedora '* | *' amzn '*) family=fedora manager=dnf ;;
    esac
    # Amazon Linux 2, for one, calls itself like its successor and has no dnf.
    [ "$family" = other ] || command -v "$manager" >/dev/null || family=other
    echo "$family"
}

# missing_packages FAMILY NEED: prints the packages that this machine lacks. A program counts
# wherever it comes from (modules, Spack, an MPI built by hand), a library when its package is installed.
missing_packages() {
    case "$1 $2" in
        'debian build')
            unless_programs cc -- gcc libc6-dev
            unless_programs make -- make
            unless_programs cmake -- cmake
            unless_programs nasm -- nasm
            unless_programs pkg-config -- pkg-config
            unless_programs mpicc mpirun -- libopenmpi-dev openmpi-bin
            unless_installed debian libclang-dev
            unless_installed debian libopenblas-dev
            ;;
        'fedora build')
            unless_programs cc -- gcc
            unless_programs make -- make
            unless_programs cmake -- cmake
            unless_programs nasm -- nasm
            unless_programs pkg-config -- pkgconf-pkg-config
            unless_programs mpicc mpirun -- openmpi openmpi-devel
            unless_installed fedora clang-devel
            unless_installed fedora openblas-devel
            ;;
        'debian shellcheck') unless_programs shellcheck -- shellcheck ;;
        'debian cluster')
            unless_programs ip -- iproute2
            unless_programs pgrep sysctl -- procps
            unless_installed debian slurmctld
            unless_installed debian slurmd
            unless_installed debian slurm-client
            unless_installed debian munge
            ;;
        'debian browser') unless_programs chromium chromedriver -- chromium chromium-driver ;;
        # Spark needs Java.
        'debian python')
            unless_programs java -- default-jre-headless
            unless_programs python3 -- python3
            unless_installed debian python3-venv
            ;;
        'fedora python')
            unless_programs java -- java-17-amazon-corretto-headless
            unless_programs python3 -- python3
            ;;
        'fedora shellcheck') unless_programs shellcheck -- ShellCheck ;;
        'debian arm')
            unless_programs aarch64-linux-gnu-gcc -- gcc-aarch64-linux-gnu libc6-dev-arm64-cross
            unless_programs qemu-aarch64-static -- qemu-user-static
            ;;
        # Fedora has no C library for another architecture.
        'fedora arm') ;;
        *' valgrind') unless_programs valgrind -- valgrind ;;
    esac
}

# unless_programs PROGRAM... -- PACKAGE...: prints the packages unless every program is on PATH.
unless_programs() {
    local lacking=""
    while [ "$1" != -- ]; do
        command -v "$1" >/dev/null || lacking="$1"
        shift
    done
    shift
    [ -z "$lacking" ] || printf '%s\n' "$@"
}

# unless_installed FAMILY PACKAGE: prints the package unless it is installed.
unless_installed() {
    if [ "$1" = debian ]; then
        local status
        status="$(dpkg-query --show --showformat='${db:Status-Status}' "$2" 2>/dev/null || true)"
        [ "$status" = installed ] || echo "$2"
    else
        rpm --query --quiet "$2" || echo "$2"
    fi
}

# install_packages FAMILY PACKAGE...: says what it will do, then does it, with sudo where that is needed.
install_packages() {
    local family="$1"
    shift
    say "this machine lacks packages that p8 needs:" "$@"

    local -a install as_root=()
    if [ "$family" = debian ]; then
        install=(apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@")
    else
        install=(dnf install -y --setopt=install_weak_deps=False "$@")
    fi
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            fail "cannot install them: you are not root, and there is no sudo. Someone who is root can run
    ${install[*]}"
        as_root=(sudo)
    fi

    if [ "$family" = debian ]; then
        # apt-get's wait for dpkg's lock does not cover the lock of the package lists.
        say "running:" "${as_root[@]}" apt-get update
        retry 12 10 "${as_root[@]}" apt-get -q update || fail "cannot update the package lists"
        as_root+=(env DEBIAN_FRONTEND=noninteractive)
    fi
    say "running:" "${as_root[@]}" "${install[@]}"
    "${as_root[@]}" "${install[@]}" >&2 || fail "cannot install:" "$@"
}

# retry TIMES SECONDS COMMAND...: runs the command until it succeeds, at most TIMES times, SECONDS apart.
retry() {
    local times="$1" seconds="$2" attempt
    shift 2
    for ((attempt = 1; ; attempt++)); do
        "$@" >&2 && return
        [ "$attempt" -lt "$times" ] || return 1
        say "failed, attempt $attempt of $times; the next one in $seconds s: $*"
        sleep "$seconds"
    done
}

# Fedora and Amazon Linux leave Open MPI to `module load mpi`, off PATH and unknown to the loader.
add_open_mpi_to_path() {
    local home="$system_root/usr/lib64/openmpi"
    if [ -x "$home/bin/mpirun" ] && ! command -v mpirun >/dev/null; then
        export PATH="$home/bin:$PATH"
        export LD_LIBRARY_PATH="$home/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    fi
}

# configure_mpi RANKS: exports what mpirun needs to start that many ranks on this machine alone. What the
# environment already says stays. MPICH and its kin count no slots, bind no ranks and let root in.
configure_mpi() {
    local ranks="$1" release
    release="$(mpirun --version 2>&1)"
    case "$release" in
        *'(Open MPI) '*) release="${release#*(Open MPI) }" ;;
        *) return 0 ;;
    esac
    if [ "$(id -u)" -eq 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT="${OMPI_ALLOW_RUN_AS_ROOT:-1}"
        export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-1}"
    fi
    # By default one or two ranks are bound to one core each, with all of their threads.
    export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
    export PRTE_MCA_hwloc_default_binding_policy="${PRTE_MCA_hwloc_default_binding_policy:-none}"
    if [ "$ranks" -gt "$(slot_count)" ]; then
        say "more ranks ($ranks) than cores: they share them"
        if [ "${release%%.*}" -lt 5 ]; then
            export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
        else
            local policy="${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}"
            export PRTE_MCA_rmaps_default_mapping_policy="$policy"
        fi
        # A rank that waits would otherwise spin on the core that the rank it waits for needs.
        export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"
    fi
}

# Prints what Open MPI counts as slots: the cores that this process may use, not their hardware threads.
slot_count() {
    local threads cores
    threads="$(nproc)"
    cores="$({ lscpu --parse=CORE,SOCKET 2>/dev/null || true; } | sed '/^#/d' | sort -u | wc -l)"
    if [ "$cores" -gt 0 ] && [ "$cores" -lt "$threads" ]; then echo "$cores"; else echo "$threads"; fi
}
