#!/bin/bash
# Installs the Debian 12 packages of one or more groups. Packages that are there already cost nothing: without one
# missing, apt is not called and no rights are needed.
#
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

usage() {
    cat <<'END'
usage: cmake/dependencies.sh [--check] GROUP...
  build   compiler, CMake and the libraries that pagetide links
  test    what the tests need besides
  guest   what the tests on real NUMA nodes need besides: qemu, and what makes its initramfs
  fuzz    clang with libFuzzer, for the fuzzer of the API
  bench   what the benchmarks need besides
  --check only say what is missing; exit 1 if anything is
END
}

check_only=no
groups=()
for argument in "$@"; do
    case $argument in
        --check) check_only=yes ;;
        --help | -h) usage; exit 0 ;;
        build | test | guest | fuzz | bench) groups+=("$argument") ;;
        *) echo "dependencies.sh: unknown group \"$argument\"" >&2; usage >&2; exit 2 ;;
    esac
done
if [ ${#groups[@]} -eq 0 ]; then
    usage >&2
    exit 2
fi

packages=()
for group in "${groups[@]}"; do
    case $group in
        build) packages+=(gcc g++ cmake ninja-build pkg-config libck-dev libhwloc-dev liburing-dev libjemalloc-dev) ;;
        test) packages+=(libcmocka-dev libzstd-dev binutils python3 redis-tools sqlite3) ;;
        guest) packages+=(qemu-system-x86 busybox-static cpio binutils) ;;
        fuzz) packages+=(clang libclang-rt-14-dev) ;;
        bench) packages+=(libbenchmark-dev libzstd-dev fio gnuplot-nox python3) ;;
    esac
done

missing=()
for package in "${packages[@]}"; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" != installed ]; then
        missing+=("$package")
    fi
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ $check_only = yes ]; then
    echo "dependencies.sh: missing: ${missing[*]}" >&2
    exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "dependencies.sh: not root, and no sudo here; as root run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
if ! command -v apt-get >/dev/null; then
    echo "dependencies.sh: no apt-get here; install what Debian 12 calls: ${missing[*]}" >&2
    exit 1
fi
echo "installing: ${missing[*]}"
# The lists of a fresh system are empty, and those of an old one name packages that are gone.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}"
