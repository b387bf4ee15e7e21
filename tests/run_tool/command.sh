#!/bin/bash
# usage: command.sh PAGETIDE EXERCISE C-COMPILER
#
# The command itself: what it refuses, and that each message names the value and the limit; exit statuses; environment;
# where the report goes.
#
# SPDX-License-Identifier: Apache-2.0
set -uo pipefail
pagetide=$1 exercise=$2 compiler=$3
failures=0

folder=$(mktemp -d "${TMPDIR:-/tmp}/pagetide-command-XXXXXX")
trap 'rm -rf "$folder"' EXIT

# expect STATUS PATTERN ARGUMENT...: the output, both kinds, has the pattern
expect() {
    local status=0 output wanted=$1 pattern=$2
    shift 2
    output=$("$pagetide" "$@" 2>&1) || status=$?
    if [ $status -ne "$wanted" ] || ! grep -qE -- "$pattern" <<<"$output"; then
        printf 'FAIL: pagetide %s\n  status %d, expected %d; expected "%s" and got:\n%s\n' "$*" $status "$wanted" \
            "$pattern" "$output"
        failures=$((failures + 1))
    fi
}
# check TEXT COMMAND...
check() {
    local text=$1
    shift
    if ! "$@"; then
        echo "FAIL: $text"
        failures=$((failures + 1))
    fi
}

# Refused before anything is opened.
expect 125 '^usage: pagetide run'
expect 0 '^usage: pagetide run' --help
expect 0 '^usage: pagetide run' run --help
expect 0 '^pagetide [0-9]' --version
expect 125 'there is no command "walk"' walk
expect 125 '--memory must be given' run -- true
expect 125 'no program is given' run --memory 64M
expect 125 'no program is given' run --memory 64M --
expect 125 '--memory wants a size from 4 MiB to 16 TiB and got "1M"' run --memory 1M -- true
expect 125 '--memory wants a size from 4 MiB to 16 TiB and got "17T"' run --memory 17T -- true
expect 125 '--memory wants a size such as .* and got "64X"' run --memory 64X -- true
expect 125 '--memory wants a size such as .* and got "-64M"' run --memory -64M -- true
expect 125 '--memory wants a size such as .* and got ""' run --memory '' -- true
expect 125 '--memory wants a size such as .* and got "99999999999999999999"' run -m 99999999999999999999 -- true
expect 125 '--memory wants a size such as .* and got "18446744073709551615G"' run -m 18446744073709551615G -- true
expect 125 '--threshold wants a size from 64 KiB to 1 GiB and got "4K"' run -m 64M --threshold 4K -- true
expect 125 '--start wants a size from 0 bytes to 1 GiB and got "2G"' run -m 64M --start 2G -- true
expect 125 '--page-file-size wants a size from 1 MiB to .* and got "0"' run -m 64M --page-file-size 0 -- true
expect 125 '--delivery is threads or signal and got "post"' run -m 64M --delivery post -- true
expect 125 'there is no option --what' run --what -- true
expect 125 'there is no option -x' run -x -- true
expect 125 '--memory wants a value' run --memory
expect 125 'no page file can be made in /nonexistent' run -m 64M --page-folder /nonexistent -- true
expect 125 'no page file can be made in /etc/passwd' run -m 64M --page-folder /etc/passwd -- true
expect 125 '--report /nonexistent/report: No such file' run -m 64M --report /nonexistent/report -- true
printf 'int main(void) { return 0; }\n' >"$folder/static.c"
if "$compiler" -static -o "$folder/static" "$folder/static.c" 2>/dev/null; then
    expect 125 'static is linked statically' run -m 64M -- "$folder/static"
fi

if ! message=$("$pagetide" run --memory 16M -- true 2>&1); then
    case $message in
        *userfaultfd*)
            [ $failures -eq 0 ] || exit 1
            echo "SKIPPED: $message"
            exit 77
            ;;
    esac
fi

# Statuses and streams are the program's.
expect 127 'nonexistent: No such file' run -m 16M -- /nonexistent
expect 126 'Permission denied' run -m 16M -- /etc/passwd
expect 3 '^out$' run -m 16M -- sh -c 'echo out; exit 3'
expect 0 '^in$' run -m 16M -- sh -c 'echo in | cat'
expect 125 'budget|memory' run -m 15T -- true
expect 0 '^a  b:c$' run -m 16M -- printf '%s:%s\n' 'a  b' c

# A small process has no engine and no report; with --start 0 it has both.
check "a report of a small process" test -z "$("$pagetide" run -m 16M -- /bin/true 2>&1)"
expect 0 '^pagetide run: sh, process' run -m 16M --start 0 -- sh -c :
expect 0 '^\{"program": "sh", .*"budget_bytes": 16777216.*\}$' run -m 16M --start 0 --json -- sh -c :

# The report: by exit(), by _exit(), with standard error closed, into a file from another folder; none after a signal.
(cd "$folder" && "$pagetide" run -m 16M --start 0 --report report -- sh -c 'cd / && exit 0')
check "no report in a file named from another folder" grep -q '^pagetide run: sh' "$folder/report"
"$pagetide" run -m 16M --start 0 --report "$folder/closed" -- sh -c 'exec 2>&-; exit 0'
check "no report of a program that closes standard error" grep -q '^pagetide run: sh' "$folder/closed"
check "a report after a signal" test -z "$("$pagetide" run -m 16M --start 0 -- sh -c 'kill -KILL $$' 2>&1)"

# Page files have no name, whatever the end.
mkdir "$folder/pages"
"$pagetide" run -m 16M --start 0 --page-folder "$folder/pages" -- sh -c 'ls "$1" >"$1/../listed"; kill -KILL $$' sh \
    "$folder/pages" 2>/dev/null
check "no listing" test -e "$folder/listed"
check "a page file with a name: $(cat "$folder/listed" 2>/dev/null)" test ! -s "$folder/listed"
check "a page file left behind" test -z "$(ls -A "$folder/pages")"

# More than memory and page file: refused as a full machine would, and said once.
status=0
output=$("$pagetide" run -m 16M --page-file-size 16M --page-folder "$folder/pages" -- "$exercise" calls 64 2>&1) ||
    status=$?
check "the exercise has memory that is not there" test $status -eq 1
check "the refusal is not told with the option: $output" \
    grep -qE 'exercise\[[0-9]+\]: an allocation of 64 MiB is refused: .*--page-file-size' <<<"$output"

# Without the launcher's settings the library does nothing.
check "the library alone fails" env LD_PRELOAD="$(dirname "$pagetide")/libpagetide-run.so" true
output=$(env LD_PRELOAD="$(dirname "$pagetide")/libpagetide-run.so" PAGETIDE_RUN_MEMORY=many true 2>&1)
check "wrong settings are taken" grep -q 'PAGETIDE_RUN_MEMORY is "many"' <<<"$output"

# A user without rights is told the remedy, and can choose the other delivery.
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null && [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ]; then
    cp "$(dirname "$pagetide")"/{pagetide,libpagetide-run.so} "$folder/"
    chmod 755 "$folder" "$folder"/{pagetide,*.so}
    output=$(setpriv --reuid=65534 --regid=65534 --clear-groups "$folder/pagetide" run -m 16M -- true 2>&1)
    check "the remedy is not told: $output" grep -qE 'userfaultfd.*--delivery signal' <<<"$output"
    output=$(setpriv --reuid=65534 --regid=65534 --clear-groups "$folder/pagetide" run -m 16M --start 0 \
        --delivery signal -- sh -c : 2>&1)
    check "no delivery by signal for a user: $output" grep -q 'the faulting thread' <<<"$output"
fi

if [ $failures -ne 0 ]; then
    echo "$failures failures"
    exit 1
fi
echo "all as it should be"
