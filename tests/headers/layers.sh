#!/bin/bash
# usage: layers.sh SOURCE-FOLDER LAYERS-FILE C-COMPILER
#
# Shows that the build enforces the layers. For each layer, with the include path that its target has:
#   - its own headers compile alone, so that a failure below means what it says;
#   - no header of a layer that it may not use can be included.
# And that nobody goes around the include path: no include with "..", and no x_impl.h included from another layer.
#
# SPDX-License-Identifier: Apache-2.0
set -uo pipefail
source_folder=$1 layers_file=$2 compiler=$3
failures=0 seen=0 hidden=0

fail() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}

compile() { # HEADER FOLDER...
    local header=$1
    shift
    echo "#include \"$header\"" |
        "$compiler" -std=gnu17 -D_GNU_SOURCE -fsyntax-only "${@/#/-I}" -I"$source_folder/include" -x c - 2>&1
}

# May a layer use another? Lower ones and itself; but a worker never calls into the fault path.
may_use() { # LAYER OTHER
    [ "$1 $2" != "workers faults" ] && [[ " ${layers%% $1 *} $1 " == *" $2 "* ]]
}

layers=" $(cut -d' ' -f1 "$layers_file" | tr '\n' ' ')"
while read -r layer folders; do
    # shellcheck disable=SC2086 # folders is a list
    set -- $folders
    for other in $layers; do
        for path in "$source_folder/src/$other"/*.h; do
            [ -e "$path" ] || continue
            header=$other/$(basename "$path")
            if [ "$other" = "$layer" ]; then
                message=$(compile "$header" "$@") || fail "$header does not compile alone: $message"
                seen=$((seen + 1))
            elif ! may_use "$layer" "$other"; then
                if message=$(compile "$header" "$@"); then
                    fail "src/$layer can include $header"
                elif ! grep -q "$header.*\(No such file\|file not found\)" <<<"$message"; then
                    fail "$header from src/$layer fails for another reason: $message"
                fi
                hidden=$((hidden + 1))
                break # one header stands for its layer
            fi
        done
    done
    while read -r file line; do
        fail "src/$layer: $file includes what is private to another layer: $line"
    done < <(grep -nE '^\s*#\s*include\s+"[a-z_]+/[a-z_]+_impl\.h"' -r "$source_folder/src/$layer" |
        grep -v "\"$layer/")
done <"$layers_file"
while read -r line; do
    fail "goes around the include path: $line"
done < <(grep -nE '^\s*#\s*include\s+"[^"]*\.\./' -r "$source_folder/src")

[ $seen -gt 0 ] && [ $hidden -gt 0 ] || fail "nothing was tried: $seen headers seen, $hidden layers hidden"
echo "$seen headers compile alone, $hidden upward includes refused, $failures failures"
[ $failures -eq 0 ]
