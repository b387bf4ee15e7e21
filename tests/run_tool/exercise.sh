#!/bin/bash
# usage: exercise.sh PAGETIDE EXERCISE PART
#
# Runs one part of the exercise on data of three times the budget: without pagetide first, so that it is right in
# itself; then with it.
#
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
pagetide=$1 exercise=$2 part=$3
budget=16 status=0 expected=0

if ! message=$("$pagetide" run --memory "${budget}M" -- true 2>&1); then
    case $message in
        *userfaultfd*) echo "SKIPPED: $message"; exit 77 ;;
        *) echo "FAIL: $message"; exit 1 ;;
    esac
fi
[ "$part" != descriptors ] || expected=9 # it ends by _exit(9)

"$exercise" "$part" $((3 * budget)) || status=$?
[ $status -eq $expected ] || { echo "FAIL: status $status without pagetide"; exit 1; }
report=$(mktemp "${TMPDIR:-/tmp}/pagetide-exercise-XXXXXX")
trap 'rm -f "$report"' EXIT
status=0
"$pagetide" run --memory "${budget}M" --report "$report" -- "$exercise" "$part" $((3 * budget)) || status=$?
cat "$report"
[ $status -eq $expected ] || { echo "FAIL: status $status under pagetide run"; exit 1; }
[ "$(grep -c '^pagetide run:' "$report")" -eq 1 ] || { echo "FAIL: not one report, that of the parent"; exit 1; }
grep -qE '^    hard +[1-9]' "$report" || { echo "FAIL: nothing was read back"; exit 1; }
