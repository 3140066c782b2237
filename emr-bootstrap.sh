#!/usr/bin/env bash
# Makes an EMR node ready to run p8; a bootstrap action for Amazon Linux 2 (EMR 6) and 2023 (EMR 7).
#
#     emr-bootstrap.sh s3://BUCKET/PREFIX DIGEST
#
# Below the prefix lie, as deploy/emr/create-cluster.sh puts them there, the files to install, their digests in
# SHA256SUMS, and in ssh/ the key pair that the nodes use among themselves. DIGEST is the SHA-256 of SHA256SUMS.
#
# EMR runs it on every node, as the user hadoop, before Hadoop is there, and ends a node where it fails. Its
# messages are in /mnt/var/log/bootstrap-actions of the node and in the log folder of the cluster. It may run
# again on the same node: what is done already is left alone.
#
# P8_SYSTEM_ROOT is put in front of the system paths; the tests point it at a folder.
#
# shellcheck disable=SC2310  # functions that stand in conditions do not rely on errexit
set -euo pipefail

system_root="${P8_SYSTEM_ROOT:-}"
home="$system_root/opt/p8"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
set -o errtrace
trap 'say "FAILED in line $LINENO: $BASH_COMMAND"' ERR

main() {
    [ $# -eq 2 ] || fail "usage: emr-bootstrap.sh s3://BUCKET/PREFIX DIGEST"
    local prefix="${1%/}" digest="$2"
    say "p8 from $prefix on $(uname -n)"
    install_packages
    show_open_mpi_to_the_loader
    fetch_files "$prefix" "$digest"
    configure_network
    let_nodes_log_in "$prefix"
    check
    say "ready"
}

say() {
    printf '%s emr-bootstrap: %s\n' "$(date -u +%H:%M:%S)" "$*" >&2
}

fail() {
    say "FAILED: $*"
    exit 1
}

# retry TIMES SECONDS COMMAND...: until it succeeds. Other agents of the node hold the package lock at boot.
retry() {
    local times="$1" seconds="$2" attempt
    shift 2
    for ((attempt = 1; attempt <= times; attempt++)); do
        if "$@"; then return 0; fi
        say "failed, attempt $attempt of $times: $*"
        [ "$attempt" -eq "$times" ] || sleep "$seconds"
    done
    return 1
}

# Sets `manager` and installs what is missing. The library's own name finds the package that brings it,
# which is another one on each release.
install_packages() {
    local release package
    local -a missing=()
    # shellcheck source=/dev/null
    release="$(. "$system_root/etc/os-release" && echo "${ID:-} ${VERSION_ID:-}")"
    case "$release" in
        'amzn 2') manager=yum ;;
        'amzn 2023') manager=dnf ;;
        *) fail "neither Amazon Linux 2 nor 2023: $release" ;;
    esac
    for package in openmpi openblas; do
        rpm --query --quiet "$package" || missing+=("$package")
    done
    rpm --query --quiet --whatprovides 'libopenblas.so.0()(64bit)' || missing+=('libopenblas.so.0()(64bit)')
    if [ "${#missing[@]}" -eq 0 ]; then
        say "Open MPI and OpenBLAS are installed"
        return
    fi
    if [ "$manager" = yum ]; then
        # Amazon Linux 2 itself has no OpenBLAS; EPEL has.
        retry 30 10 sudo amazon-linux-extras install -y epel || fail "cannot enable EPEL"
    fi
    say "installing: ${missing[*]}"
    retry 30 10 sudo "$manager" install -y "${missing[@]}" || fail "cannot install: ${missing[*]}"
}

# Amazon's Open MPI lies where neither PATH nor the loader look. A shell that ssh starts without a terminal,
# as mpirun does, reads .bashrc alone.
show_open_mpi_to_the_loader() {
    local open_mpi=/usr/lib64/openmpi
    [ -x "$system_root$open_mpi/bin/mpirun" ] || fail "there is no $open_mpi/bin/mpirun"
    write_as_root etc/ld.so.conf.d/p8.conf <<<"$open_mpi/lib"
    sudo ldconfig
    append_line "$HOME/.bashrc" "export PATH=$open_mpi/bin:\$PATH"
}

# fetch_files PREFIX DIGEST: what SHA256SUMS lists, into /opt/p8. What is there with the right digest stays.
fetch_files() {
    local prefix="$1" digest="$2" sum name
    fetch "$prefix/SHA256SUMS" "$scratch/SHA256SUMS" "$digest"
    sudo mkdir -p "$home"
    while read -r sum name; do
        name="${name#\*}"
        case "$name" in '' | */* | .*) fail "SHA256SUMS has a line with an odd name: $name" ;; esac
        if has_digest "$home/$name" "$sum"; then
            say "$name is there"
            continue
        fi
        fetch "$prefix/$name" "$scratch/$name" "$sum"
        sudo install -m 644 "$scratch/$name" "$home/$name"
        rm "$scratch/$name"
    done <"$scratch/SHA256SUMS"
    sudo chmod 755 "$home/p8" "$home/run-step.sh"
}

# fetch URL FILE DIGEST
fetch() {
    say "fetching $1"
    retry 5 5 fetch_once "$@" || fail "cannot fetch $1 with the SHA-256 $3"
}

fetch_once() {
    aws s3 cp --only-show-errors "$1" "$2" || return 1
    if ! has_digest "$2" "$3"; then
        say "$1 has another SHA-256 than expected"
        return 1
    fi
}

has_digest() {
    [ -f "$1" ] && sha256sum --check --status <<<"$2  $1"
}

# Open MPI reads mca-params.conf in the user's home folder on every release. It gets the settings that p8
# ships, and the subnet of the nodes: any other network of a host, such as Docker's bridge, has the same
# address everywhere and would make the ranks wait for ever.
configure_network() {
    local device subnet
    device="$(ip -4 -o route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)"
    [ -n "$device" ] || fail "this node has no default route"
    subnet="$(ip -4 -o route show dev "$device" proto kernel scope link | sed -n 's/^\([0-9.]*\/[0-9]*\).*/\1/p' | head -n 1)"
    [ -n "$subnet" ] || fail "$device has no subnet"
    say "MPI uses $subnet ($device)"
    mkdir -p "$HOME/.openmpi"
    {
        cat "$home/openmpi-mca-params.conf"
        printf 'oob_tcp_if_include = %s\nbtl_tcp_if_include = %s\n' "$subnet" "$subnet"
    } >"$HOME/.openmpi/mca-params.conf"
    write_as_root etc/sysctl.d/90-p8.conf <"$home/sysctl.conf"
    sudo sysctl -q -p "$system_root/etc/sysctl.d/90-p8.conf"
}

# let_nodes_log_in PREFIX: one key pair for this cluster, known to all of its nodes.
let_nodes_log_in() {
    local prefix="$1" ssh="$HOME/.ssh"
    mkdir -p "$ssh"
    chmod 700 "$ssh"
    retry 5 5 aws s3 cp --only-show-errors "$prefix/ssh/id_p8" "$scratch/id_p8" || fail "cannot fetch the key of the nodes"
    retry 5 5 aws s3 cp --only-show-errors "$prefix/ssh/id_p8.pub" "$scratch/id_p8.pub" || fail "cannot fetch the key of the nodes"
    install -m 600 "$scratch/id_p8" "$ssh/id_p8"
    append_line "$ssh/authorized_keys" "$(cat "$scratch/id_p8.pub")"
    # The nodes are new, so nobody knows their host keys yet; the names are those that EC2 gives.
    append_line "$ssh/config" "Host ip-* i-*
    IdentityFile ~/.ssh/id_p8
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR"
    chmod 600 "$ssh/authorized_keys" "$ssh/config"
}

# The program starts and finds all of its libraries; a binary for a newer system fails here, not in the run.
check() {
    local libraries
    libraries="$(ldd "$home/p8" 2>&1)" || fail "the loader refuses $home/p8: $libraries"
    case "$libraries" in *'not found'*) fail "$home/p8 lacks libraries: $libraries" ;; esac
    "$home/p8" --version >&2 || fail "$home/p8 does not start"
}

# write_as_root PATH <TEXT
write_as_root() {
    sudo mkdir -p "$system_root/$(dirname "$1")"
    sudo tee "$system_root/$1" >/dev/null
}

# append_line FILE TEXT: unless it is there.
append_line() {
    touch "$1"
    [[ "$(cat "$1")" == *"$2"* ]] || printf '%s\n' "$2" >>"$1"
}

main "$@"
