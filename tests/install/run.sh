#!/bin/bash
# usage: run.sh CMAKE SOURCE-FOLDER BUILD-FOLDER C-COMPILER GENERATOR
#
# Installs a build into a temporary folder, and there builds and runs docs/example as a stranger would: by find_package
# and by pkg-config, with the shared and with the static library. Looks at what the shared library exports. Runs a program
# under the installed `pagetide run`, where the build has it.
#
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cmake=$1 source_folder=$2 build_folder=$3 compiler=$4 generator=$5

folder=$(mktemp -d "${TMPDIR:-/tmp}/pagetide-install-XXXXXX")
trap 'rm -rf "$folder"' EXIT
prefix=$folder/prefix

step() {
    echo "== $*"
}
fail() {
    echo "FAIL: $*" >&2
    exit 1
}

# Runs an example in a folder of its own, which must be as empty afterwards as before: the page file is gone.
run() { # PROGRAM LIBRARY-FOLDER
    mkdir -p "$folder/run"
    (cd "$folder/run" && LD_LIBRARY_PATH=$2 "$1")
    [ -z "$(ls -A "$folder/run")" ] || fail "$1 left behind: $(ls -A "$folder/run")"
}
needs_pagetide() {
    readelf -d "$1" | grep -q 'NEEDED.*libpagetide'
}

step "install"
"$cmake" --install "$build_folder" --prefix "$prefix" >"$folder/install.log" || { cat "$folder/install.log"; exit 1; }
pc=$(find "$prefix" -name pagetide.pc)
[ -n "$pc" ] || fail "no pagetide.pc"
libraries=$(dirname "$(dirname "$pc")")
shared=$libraries/libpagetide.so
[ -e "$shared" ] && [ -e "$libraries/libpagetide.a" ] || fail "no library in $libraries"
for header in "$source_folder"/include/pagetide/*.h; do
    cmp "$header" "$prefix/include/pagetide/$(basename "$header")" || fail "header $(basename "$header")"
done

step "exported symbols"
readelf -d "$shared" | grep -q 'SONAME.*\[libpagetide\.so\.[0-9]*\]' || fail "no SONAME in $shared"
exported=$(nm -D --defined-only "$shared" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)
foreign=$(grep -v '^tide_' <<<"$exported" || true)
[ -z "$foreign" ] || fail "exports what is not public: $foreign"
# Every function that the headers declare is there.
declared=$(cat "$prefix"/include/pagetide/*.h | tr '\n' ' ' | grep -oE 'TIDE_EXPORT [^;]*\(' |
    grep -oE 'tide_[a-z_]+ ?\(' | tr -d ' (' | sort -u)
for symbol in $declared; do
    grep -qx "$symbol" <<<"$exported" || fail "$symbol is declared and not exported"
done
echo "$(wc -l <<<"$exported") symbols, all tide_"

step "find_package: shared and static"
"$cmake" -G "$generator" -S "$source_folder/docs/example" -B "$folder/cmake" -DCMAKE_C_COMPILER="$compiler" \
    -DCMAKE_PREFIX_PATH="$prefix" >"$folder/cmake.log" || { cat "$folder/cmake.log"; exit 1; }
"$cmake" --build "$folder/cmake" >"$folder/cmake.log" || { cat "$folder/cmake.log"; exit 1; }
needs_pagetide "$folder/cmake/hello" || fail "hello is not linked with the shared library"
! needs_pagetide "$folder/cmake/hello_static" || fail "hello_static is linked with the shared library"
run "$folder/cmake/hello" ""
run "$folder/cmake/hello_static" ""

step "pkg-config: shared and static"
# This copy does not lie where the build was configured for: the file must find itself.
export PKG_CONFIG_PATH=$libraries/pkgconfig
# shellcheck disable=SC2046 # lists of flags
"$compiler" -o "$folder/hello" "$source_folder/docs/example/hello.c" \
    $(pkg-config --cflags --libs pagetide)
# shellcheck disable=SC2046
"$compiler" -o "$folder/hello_static" "$source_folder/docs/example/hello.c" \
    $(pkg-config --static --cflags --libs pagetide | sed 's/-lpagetide/-l:libpagetide.a/')
needs_pagetide "$folder/hello" || fail "hello is not linked with the shared library"
! needs_pagetide "$folder/hello_static" || fail "hello_static is linked with the shared library"
run "$folder/hello" "$libraries"
run "$folder/hello_static" ""
step "done"

if [ -x "$prefix/bin/pagetide" ]; then
    step "pagetide run"
    status=0
    output=$("$prefix/bin/pagetide" run --memory 16M --start 0 --page-folder "$folder/run" -- sh -c 'exit 3' 2>&1) ||
        status=$?
    case $status:$output in
        3:*"pagetide run: sh, process"*) echo "the installed command finds its library" ;;
        125:*userfaultfd*) echo "left out: $output" ;;
        *) fail "pagetide run of the installation: status $status: $output" ;;
    esac
    [ -z "$(ls -A "$folder/run")" ] || fail "pagetide run left behind: $(ls -A "$folder/run")"
fi
