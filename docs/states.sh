#!/bin/bash
# The picture of the frame states in docs/life-of-a-page.md, made from src/frames/states.def.
#
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

usage() {
    cat <<'END'
usage: docs/states.sh [--check | --write]
Prints the picture (a mermaid state diagram) and the table of edges that src/frames/states.def describes.
  --check  exit 1 if docs/life-of-a-page.md holds something else between its markers
  --write  put them there
END
}

here=$(cd "$(dirname "$0")" && pwd)
table=$here/../src/frames/states.def
page=$here/life-of-a-page.md

# Fields of a FRAME_STATE or FRAME_EDGE line: the names, then the text in quotes.
generate() {
    awk '
        /^FRAME_(STATE|EDGE)\(/ {
            text = $0; sub(/^[^"]*"/, "", text); sub(/"[^"]*$/, "", text)
            names = $0; sub(/^[A-Z_]*\(/, "", names); sub(/,? *".*/, "", names)
            if ($0 ~ /^FRAME_STATE/) {
                states = states "| " names " | " text " |\n"
            } else {
                split(names, name, /, */)
                if (!((name[1] " " name[2]) in seen))
                    picture = picture "    " name[1] " --> " name[2] "\n"
                seen[name[1] " " name[2]] = 1
                edges = edges "| " name[1] " | " name[2] " | " text " |\n"
            }
        }
        END {
            printf "```mermaid\nstateDiagram-v2\n%s```\n\n", picture
            printf "| state | where such a frame is |\n|---|---|\n%s\n", states
            printf "| from | to | who and why |\n|---|---|---|\n%s", edges
        }' "$table"
}

# What the page holds between its markers.
present() {
    awk '/<!-- states:end -->/ { inside = 0 } inside { print } /<!-- states:begin -->/ { inside = 1 }' "$page"
}

case ${1:-} in
    "") generate ;;
    --check)
        if ! diff -u <(present) <(generate) >&2; then
            echo "docs/states.sh: docs/life-of-a-page.md does not show src/frames/states.def: run docs/states.sh --write" >&2
            exit 1
        fi
        ;;
    --write)
        picture=$(generate)
        PICTURE=$picture awk '
            /<!-- states:end -->/ { inside = 0 }
            !inside { print }
            /<!-- states:begin -->/ { inside = 1; print ENVIRON["PICTURE"] }' "$page" >"$page.new"
        mv "$page.new" "$page"
        ;;
    --help | -h) usage ;;
    *) usage >&2; exit 2 ;;
esac
