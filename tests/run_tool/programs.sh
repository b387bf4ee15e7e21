#!/bin/bash
# usage: programs.sh PAGETIDE PROGRAM [BUDGET-MIB]
#
# Runs a program of the system, which knows nothing of pagetide, on data of more than three times the budget: once
# without and once under `pagetide run`. What it puts out must be the same byte for byte, the report must show that the
# data was in the budget and the rest in the page file, and nothing may be left behind. PROGRAM is sort, python3,
# sqlite3 or redis-server. Exit status 77: it, or a mapped space, cannot be had here.
#
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
pagetide=$1 program=$2 budget=${3:-16}
export LC_ALL=C PYTHONHASHSEED=0

folder=$(mktemp -d "${TMPDIR:-/var/tmp}/pagetide-programs-XXXXXX")
server=0
cleanup() {
    if [ $server -ne 0 ]; then
        kill -KILL $server 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap cleanup EXIT
mkdir "$folder/pages"

skip() {
    echo "SKIPPED: $*"
    exit 77
}
fail() {
    echo "FAIL: $*" >&2
    cat "$folder/report" "$folder/errors" >&2 2>/dev/null || true
    exit 1
}

# The program's path. Not a wrapper script of a version manager: that is another test's matter.
found=$(PATH=/usr/bin:/bin:$PATH command -v "$program" || true)
if [ "$program" = redis-server ] && [ -z "$found" ]; then
    found=$(command -v redis-check-rdb || true) # the same file, which goes by its name
    [ -z "$found" ] || { ln -s "$found" "$folder/redis-server"; found=$folder/redis-server; }
fi
[ -n "$found" ] || skip "no $program here; cmake/dependencies.sh test installs it"

captured=("$pagetide" run --memory "${budget}M" --page-folder "$folder/pages" --report "$folder/report" --json --)
if ! message=$("${captured[@]}" true 2>&1); then
    case $message in
        *userfaultfd*) skip "$message" ;;
        *) fail "$message" ;;
    esac
fi

# The work of each program: writes its result to standard output. The program is called by "$@".
work_sort() {
    # A line has about 50 bytes, and sort keeps a record of 32 for each.
    "$@" --buffer-size=$((budget * 5))M --parallel=2 "$folder/input"
}
input_sort() {
    # In disorder within stretches: all at random, a sort reads a page back for each line that it compares.
    seq 1 $((budget * 38000)) | awk '{
        printf "%08d %s\n", int($1 / 5003) * 5003 + ($1 * 7919) % 5003, "some more text to sort, of line " $1
    }' >"$folder/input"
}

work_python3() {
    "$@" -c '
import hashlib, sys
count = int(sys.argv[1]) * 8000
words = ["word %08d of many" % (i // 1009 * 1009 + i * 7919 % 1009) for i in range(count)]
table = {word: [len(word), i] for i, word in enumerate(words)}
words.sort()
digest = hashlib.sha256()
for word in words:
    digest.update(("%s %s\n" % (word, table[word])).encode())
print(digest.hexdigest(), len(table))
numbers = bytearray(int(sys.argv[1]) << 20)
for i in range(0, len(numbers), 1000):
    numbers[i] = i % 251
print(hashlib.sha256(numbers).hexdigest())
with open(sys.argv[2], "wb") as file:
    file.write(numbers)
with open(sys.argv[2], "rb") as file:
    print(file.read() == numbers)
' "$budget" "$folder/file"
}

work_sqlite3() {
    "$@" :memory: "
PRAGMA temp_store = memory;
CREATE TABLE t (id INTEGER PRIMARY KEY, key INTEGER, text TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $((budget * 8000)))
    INSERT INTO t SELECT i, (i * 7919) % 1000003, printf('%0300d', i * 31) FROM n;
CREATE INDEX by_key ON t (key);
SELECT count(*), sum(key), sum(length(text)) FROM t;
SELECT key, id, substr(text, 280) FROM t ORDER BY key LIMIT 50000;
UPDATE t SET text = text || key WHERE key % 3 = 0;
DELETE FROM t WHERE key % 7 = 0;
SELECT id, text FROM t ORDER BY text DESC;
PRAGMA integrity_check;"
}

# The server is fed and asked through a socket in the folder. Its digest is that of all keys and values.
work_redis-server() {
    local cli=(redis-cli -s "$folder/socket")
    "$@" --port 0 --unixsocket "$folder/socket" --save '' --appendonly no --enable-debug-command yes --dir "$folder" \
        --daemonize no --logfile "$folder/log" >"$folder/server.out" 2>&1 &
    server=$!
    for _ in $(seq 100); do
        [ ! -S "$folder/socket" ] || break
        sleep 0.1
    done
    awk -v "count=$((budget * 2500))" 'BEGIN {
        for (i = 0; i < count; i++) {
            printf "SET key:%d %01000d\r\n", i, i * 31
            printf "HSET hash:%d field:%d value%d\r\n", i % 5000, i, i
        }
        for (i = 0; i < count; i += 3)
            printf "DEL key:%d\r\n", i
        for (i = 1; i < count; i += 3)
            printf "APPEND key:%d %0500d\r\n", i, i
    }' | "${cli[@]}" --pipe
    "${cli[@]}" debug digest
    for i in $(seq 0 997 $((budget * 2500))); do
        echo "GET key:$i"
    done | "${cli[@]}"
    "${cli[@]}" shutdown nosave
    wait $server
    server=0
}

step() {
    echo "== $*"
}

if declare -F "input_$program" >/dev/null; then
    "input_$program"
fi
step "$program without"
time "work_$program" "$found" >"$folder/expected" 2>"$folder/errors" || fail "$program fails without pagetide"
[ -s "$folder/expected" ] || fail "$program put out nothing"
step "$program in a budget of $budget MiB"
time "work_$program" "${captured[@]}" "$found" >"$folder/actual" 2>"$folder/errors" ||
    fail "$program fails under pagetide run"
cmp "$folder/expected" "$folder/actual" || fail "the output differs"
echo "$(wc -c <"$folder/expected") bytes of output are the same"

# The last line is the program's; a wrapper's would come before.
[ -s "$folder/report" ] || fail "no report"
tail -1 "$folder/report"
figure() {
    tail -1 "$folder/report" | sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p"
}
[ "$(figure peak_committed_bytes)" -ge $((3 * budget << 20)) ] || fail "the data was not three times the budget"
[ "$(figure peak_in_memory_bytes)" -le $((budget << 20)) ] || fail "more than the budget was in memory"
[ "$(figure peak_page_file_bytes)" -ge $((budget << 20)) ] || fail "hardly anything was in the page file"
[ "$(figure hard)" -gt 0 ] || fail "nothing was read back"
[ "$(figure read_errors)$(figure write_errors)" = 00 ] || fail "I/O errors"
# All else that a process has, its code and libraries too, is not data: the allowance is for that.
[ "$(figure peak_resident_bytes)" -le $(((budget + 32) << 20)) ] ||
    fail "the process was larger than its budget and 32 MiB"
[ -z "$(ls -A "$folder/pages")" ] || fail "a page file was left behind"
