#!/usr/bin/env python3
"""The benchmark's report: what bench/run prints, summary.json and report.html.

report.py machine --out DIR --disk DIR     writes DIR/machine.json: what the figures will be measured on
report.py report --out DIR                 reads DIR/raw/*.json (Google Benchmark), DIR/machine.json and, if there,
                                           DIR/replay.json; prints tables; writes summary.json and report.html

A row is a class, a kind of space and a number of threads; its figures are medians over the rounds. Ratios are ratios of
medians. Only Python's standard library is used.

SPDX-License-Identifier: Apache-2.0
"""
import argparse
import html
import json
import math
import os
import platform
import re
import statistics
import sys
import time

# The rival that a class is compared with: what does the same work without the engine.
RIVAL = {
    "demand_zero": "kernel_again", "soft_standby": "kernel_again", "soft_modified": "kernel_again",
    "demand_zero_256MiB": "kernel_again", "demand_zero_16GiB": "kernel_again",
    "kernel_again": "kernel_again", "kernel_fresh": "kernel_again",
    "hard": "fio", "fio": "fio", "kernel_file": "fio",
    "collided": "kernel_collided", "kernel_collided": "kernel_collided",
    "access_pointer": "raw_pointer", "access_pointers": "raw_pointer",
    "access_read": "raw_pointer", "raw_pointer": "raw_pointer",
    "access_large": "raw_pointer", "access_extent": "raw_pointer", "large_chase": "raw_chase",
    "access_chase": "raw_chase", "raw_chase": "raw_chase",
    "commit": "kernel_protect", "kernel_protect": "kernel_protect", "processor": "processor",
    "numa_spread": "numa_spread", "numa_packed": "numa_spread", "numa_spill": "numa_spread",
    "mapped_fresh": "anonymous_fresh", "mapped_fresh_threads": "anonymous_fresh",
    "anonymous_fresh": "anonymous_fresh",
    "mapped_fresh_random": "anonymous_random", "anonymous_random": "anonymous_random",
    "mapped_soft": "memfd_soft", "memfd_soft": "memfd_soft",
    "mapped_soft_random": "memfd_random", "memfd_random": "memfd_random",
    "mapped_hard": "fio_mapped", "file_hard": "fio_mapped", "fio_mapped": "fio_mapped",
    "mapped_read": "file_read", "file_read": "file_read", "swap_read": "file_read", "zram_read": "file_read",
    "mapped_mixed": "file_mixed", "file_mixed": "file_mixed", "swap_mixed": "file_mixed", "zram_mixed": "file_mixed",
    "mapped_resident": "malloc_4k", "malloc_4k": "malloc_4k", "malloc_huge": "malloc_4k",
    "reserve_100000": "reserve_1000", "query_100000": "query_1000", "fault_100000": "fault_1000",
    "fault_apart_100000": "fault_apart_1000", "fault_asked_100000": "fault_asked_1000",
}
CLASSES = ["demand_zero", "soft_standby", "soft_modified", "kernel_again", "kernel_fresh", "demand_zero_256MiB",
           "demand_zero_16GiB", "hard", "fio", "kernel_file", "collided", "kernel_collided", "access_pointer",
           "access_pointers",
           "access_extent", "access_large", "large_chase", "access_read", "raw_pointer", "access_chase", "raw_chase",
           "mapped_fresh", "mapped_fresh_threads", "anonymous_fresh", "mapped_fresh_random", "anonymous_random",
           "mapped_soft", "memfd_soft", "mapped_soft_random", "memfd_random", "mapped_hard", "fio_mapped", "file_hard",
           "mapped_read", "file_read", "swap_read", "zram_read", "mapped_mixed", "file_mixed", "swap_mixed",
           "zram_mixed", "mapped_resident", "malloc_4k", "malloc_huge", "commit", "kernel_protect", "processor",
           "reserve_1000", "reserve_100000", "query_1000", "query_100000", "fault_1000", "fault_100000",
           "fault_apart_1000", "fault_apart_100000", "fault_asked_1000", "fault_asked_100000",
           "numa_spread", "numa_packed", "numa_spill"]
MAPPED = ["mapped_fresh", "mapped_fresh_random", "mapped_soft", "mapped_soft_random", "mapped_hard", "mapped_read",
          "mapped_mixed"]
# Measured once for all, whatever the space kind.
ONE_SPACE = {"fio": "shared"}
NO_INPUT_OUTPUT = ["demand_zero", "soft_standby", "soft_modified", "access_pointer", "access_pointers",
                   "access_read", "access_chase"]
COUNTERS = ["faults_per_s", "faults_per_cpu_s", "thread_cpu_ns_per_fault", "p50_ns", "p99_ns", "p999_ns", "local_share"]
# Of mapped classes and their rivals: what touches found, and what the memory lies behind.
MAPPED_COUNTERS = ["hit_share", "soft_share", "page_reads_per_s", "frame_waits_share", "pages_per_hide",
                   "faults_per_million", "huge_share"]


# ---- machine ---------------------------------------------------------------------------------------------------------

def read(path, default=""):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return default


def busy_share(seconds):
    """The share of all CPUs' time that something else took during some seconds of our sleep."""
    def snapshot():
        figures = [int(word) for word in read("/proc/stat").split("\n")[0].split()[1:9]]
        return sum(figures), figures[3] + figures[4]
    try:
        total, idle = snapshot()
        time.sleep(seconds)
        total_after, idle_after = snapshot()
        return 1 - (idle_after - idle) / max(1, total_after - total)
    except (ValueError, IndexError):
        return None


def file_system(folder):
    """Device and type of the file system that holds a folder."""
    device = os.stat(folder).st_dev
    wanted = "%d:%d" % (os.major(device), os.minor(device))
    for line in read("/proc/self/mountinfo").splitlines():
        words = line.split()
        if len(words) > 9 and words[2] == wanted:
            dash = words.index("-")
            return "%s on %s" % (words[dash + 1], words[dash + 2])
    return "unknown"


def machine_command(arguments):
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB", read("/proc/meminfo"), re.M))
    cpus = re.findall(r"^model name\s*:\s*(.*)$", read("/proc/cpuinfo"), re.M)
    nodes = [name for name in os.listdir("/sys/devices/system/node") if re.fullmatch(r"node\d+", name)] \
        if os.path.isdir("/sys/devices/system/node") else ["node0"]
    pages = re.search(r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled"))
    machine = {
        "cpu": cpus[0] if cpus else platform.processor() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": "%s %s" % (platform.system(), platform.release()),
        "memory_bytes": int(memory.get("MemTotal", 0)) * 1024,
        "memory_available_bytes": int(memory.get("MemAvailable", 0)) * 1024,
        "nodes": len(nodes),
        "huge_pages": pages.group(1) if pages else "unknown",
        "disk": file_system(arguments.disk),
        "virtual": "hypervisor" in read("/proc/cpuinfo"),
        "busy_share_before": busy_share(2),
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
    with open(os.path.join(arguments.out, "machine.json"), "w", encoding="utf-8") as file:
        json.dump(machine, file, indent=1)
    if machine["busy_share_before"] is not None and machine["busy_share_before"] > 0.1:
        print("warning: other programs keep the CPUs %.0f %% busy: the figures will be too low and will vary"
              % (100 * machine["busy_share_before"]))


# ---- rows ------------------------------------------------------------------------------------------------------------

NOT_MEASURED = "not measured: "  # harness.cc


def load_raw(folder):
    """All measured cases: {(class, space, threads): [counters of each round]}, sizes, and what failed."""
    cases, context, errors = {}, {}, []
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".json"):
            continue
        try:
            raw = json.loads(read(os.path.join(folder, name)))
        except ValueError:
            errors.append("%s is not complete: the program did not end well" % name)
            continue
        context.update(raw.get("context", {}))
        for case in raw.get("benchmarks", []):
            match = re.match(r"(\w+)/(private|shared)/threads:(\d+)/round:(\d+)", case["name"])
            if not match:
                continue
            if case.get("error_occurred"):
                message = case.get("error_message", "")
                if message.startswith(NOT_MEASURED):
                    context["skipped_" + case["name"]] = message[len(NOT_MEASURED):]
                else:
                    errors.append("%s: %s" % (case["name"], message))
                continue
            key = (match.group(1), match.group(2), int(match.group(3)))
            cases.setdefault(key, []).append(case)
    return cases, context, errors


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def make_rows(cases, cpus):
    rows = {}
    for key, rounds in cases.items():
        row = {"class": key[0], "space": key[1], "threads": key[2]}
        for counter in COUNTERS:
            row[counter] = median([case.get(counter) for case in rounds])
        for counter in MAPPED_COUNTERS:
            if counter in rounds[0]:
                row[counter] = median([case.get(counter) for case in rounds])
        row["ns_per_fault"] = 1e9 * min(key[2], cpus) / row["faults_per_s"] if row["faults_per_s"] else None
        row["faults_per_s_min"] = min(case["faults_per_s"] for case in rounds)
        row["faults_per_s_max"] = max(case["faults_per_s"] for case in rounds)
        row["rounds"] = len(rounds)
        pairs = {name for case in rounds for name in case if re.fullmatch(r"pair_\d+_\d+", name)}
        if pairs:
            row["node_pairs"] = [[int(n) for n in name.split("_")[1:]] + [median([case.get(name, 0) for case in rounds])]
                                 for name in sorted(pairs, key=lambda p: [int(n) for n in p.split("_")[1:]])]
        for extra in ("pfn_bytes_per_frame", "overhead_share", "frames"):
            if extra in rounds[0]:
                row[extra] = rounds[0][extra]
        rows[key] = row
    for key, row in rows.items():
        rival = RIVAL.get(key[0])
        row["rival"] = rival
        other = rows.get((rival, ONE_SPACE.get(rival, key[1]), key[2]))
        row["kernel_faults_per_s"] = other["faults_per_s"] if other else None
        row["ratio"] = row["faults_per_s"] / other["faults_per_s"] if other and other["faults_per_s"] else None
    order = {name: index for index, name in enumerate(CLASSES)}
    return [rows[key] for key in sorted(rows, key=lambda k: (order.get(k[0], 99), k[1], k[2]))]


# ---- targets ---------------------------------------------------------------------------------------------------------

def make_targets(rows, replay, cpus):
    by_key = {(row["class"], row["space"], row["threads"]): row for row in rows}

    def rate(name, space, threads):
        row = by_key.get((name, space, threads))
        return row["faults_per_s"] if row else None

    def quotient(a, b):
        return a / b if a is not None and b else None

    def scaling(name, space, many, few):
        return quotient(rate(name, space, many), rate(name, space, few))

    targets = []

    def add(name, wanted, measured, reached, shown):
        targets.append({"name": name, "wanted": wanted, "measured": measured,
                        "reached": None if measured is None else bool(reached),
                        "shown": "not measured" if measured is None else shown})

    def at_least(name, limit, measured, unit=""):
        add(name, "at least %g%s" % (limit, unit), measured, measured is not None and measured >= limit,
            "%.2f%s" % (measured, unit) if measured is not None else "")

    def at_most(name, limit, measured, form="%.2f", unit=""):
        add(name, "at most %g%s" % (limit, unit), measured, measured is not None and measured <= limit,
            (form + "%s") % (measured, unit) if measured is not None else "")

    for name in ("demand_zero", "soft_standby"):
        for space in ("private", "shared"):
            for threads in (1, 2, 64):
                row = by_key.get((name, space, threads))
                at_least("%s, %s, %d thread%s: times the kernel" % (name, space, threads, "s" * (threads > 1)), 20,
                         row["ratio"] if row else None)
    for many, few, limit in ((2, 1, 1.9), (64, 2, 0.9)):
        for name in NO_INPUT_OUTPUT + ["commit"]:
            if name == "commit" and many == 64:
                continue
            for space in ("private", "shared"):
                what = "%s, %s: %d threads over %d" % (name, space, many, few)
                at_least(what, limit, scaling(name, space, many, few))
                at_least(what + ", of what work that shares nothing gives", limit * few / min(many, cpus),
                         quotient(scaling(name, space, many, few), scaling("processor", "private", many, few)))
    for name in ("access_extent", "access_large", "large_chase", "access_pointers", "access_chase", "access_pointer"):
        rival = RIVAL[name]
        for space in ("shared",) if name in ("access_extent", "access_large", "large_chase") else ("private", "shared"):
            for threads in (1, 2, 64):
                at_most("%s, %s, %d thread%s: time over raw pointer's" %
                        (name, space, threads, "s" * (threads > 1)), 1.3,
                        quotient(rate(rival, space, threads), rate(name, space, threads)))
    for space in ("private", "shared"):
        at_least("hard, %s, 64 threads: over fio's" % space, 0.9,
                 quotient(rate("hard", space, 64), rate("fio", "shared", 64)))
    for threads in (1, 2):
        at_least("mapped_fresh, %d thread%s: over the kernel's anonymous memory" % (threads, "s" * (threads > 1)), 1,
                 quotient(rate("mapped_fresh", "shared", threads), rate("anonymous_fresh", "shared", threads)))
    reads = by_key.get(("mapped_read", "shared", 64))
    at_least("mapped_read, 64 threads: touches over fio's reads", 0.9,
             quotient(rate("mapped_read", "shared", 64), rate("fio_mapped", "shared", 64)))
    at_least("mapped_read, 64 threads: page reads over fio's", 0.9,
             quotient(reads.get("page_reads_per_s") if reads else None, rate("fio_mapped", "shared", 64)))
    at_least("mapped_mixed, 64 threads: over a mapped file under the same limit", 1.2,
             quotient(rate("mapped_mixed", "shared", 64), rate("file_mixed", "shared", 64)))
    if by_key.get(("swap_mixed", "shared", 64)):
        at_least("mapped_mixed, 64 threads: over anonymous memory with a swap file under the same limit", 1.2,
                 quotient(rate("mapped_mixed", "shared", 64), rate("swap_mixed", "shared", 64)))
    for name in MAPPED:
        few = [rate(name, "shared", threads) for threads in (1, 2, 8)]
        at_least("%s: 64 threads over the best of fewer" % name, 0.9,
                 quotient(rate(name, "shared", 64), max((value for value in few if value), default=None)))
    for threads in (1, 2, 64):
        mine, other = (by_key.get((name, "shared", threads)) for name in ("mapped_resident", "malloc_4k"))
        at_least("mapped_resident, %d thread%s: loads a CPU second over malloc()'s memory" %
                 (threads, "s" * (threads > 1)), 0.95,
                 quotient(mine["faults_per_cpu_s"] if mine else None, other["faults_per_cpu_s"] if other else None))
    at_most("demand_zero: cost with 16 GiB of frames over that with 256 MiB", 1.2,
            quotient(rate("demand_zero_256MiB", "private", 1), rate("demand_zero_16GiB", "private", 1)))
    engines = [row for row in rows if "overhead_share" in row]
    at_most("PFN database: bytes per frame", 32, max((row["pfn_bytes_per_frame"] for row in engines), default=None),
            "%.1f")
    at_most("overhead of the engine, tables aside: share of memory", 1.2,
            max((100 * row["overhead_share"] for row in engines), default=None), "%.3f", " %")
    for name in ("reserve", "query", "fault", "fault_apart", "fault_asked"):
        at_most("%s: cost with 100,000 regions over that with 1,000" % name, 2,
                quotient(rate(name + "_1000", "private", 1), rate(name + "_100000", "private", 1)))
    spread = [row for row in rows if row["class"] == "numa_spread"]
    if spread:
        share = 100 * min(row["local_share"] for row in spread)
        at_least("numa_spread: frames of the thread's own node", 100, share, " %")
    if replay:
        good = sum(1 for row in replay if row.get("at_least_lru"))
        add("replay: hits at least LRU's, traces and budgets", "all of %d" % len(replay), good, good == len(replay),
            "%d of %d" % (good, len(replay)))
        mapped = [100 * (row["hit_share"] - row["mapped_hit_share"]) for row in replay if row.get("mapped_hit_share")]
        if mapped:
            at_most("replay: hits fewer in a mapped space, of 100 accesses, at worst", 5, max(mapped))
    else:
        add("replay: hits at least LRU's, traces and budgets", "all", None, None, "")
    return targets


# ---- nodes -----------------------------------------------------------------------------------------------------------

def make_nodes(context):
    """What the numa step said of the nodes: number, the system's number, CPUs, bytes, distances."""
    nodes = []
    for text in filter(None, context.get("nodes", "").split(";")):
        index, os_index, cpus, size, distances = text.split(":")
        nodes.append({"node": int(index), "os_index": int(os_index), "cpus": int(cpus), "frame_bytes": int(size),
                      "distances": [int(distance) for distance in distances.split(",")],
                      "synthetic": context.get("synthetic_nodes") == "yes"})
    return nodes


def node_tables(nodes, rows):
    """Two tables, as (headings, lines): the nodes, and which node the faults of each node's threads got frames of."""
    numbers = [str(node["node"]) for node in nodes]
    described = (["node", "number", "CPUs", "frames MiB"] + ["to " + number for number in numbers],
                 [["%d" % node["node"], "%d" % node["os_index"], "%d" % node["cpus"],
                   "%d" % (node["frame_bytes"] // 2**20)] + ["%d" % distance for distance in node["distances"]]
                  for node in nodes])
    lines = []
    for row in rows:
        shares = {(one, other): share for one, other, share in row.get("node_pairs", [])}
        for node in sorted({one for one, _ in shares}):
            lines.append([row["class"], "%d" % node] +
                         [percent(shares[node, to]) if (node, to) in shares else "-" for to in range(len(nodes))])
    return described, (["class", "threads on node"] + ["frames of %s %%" % number for number in numbers], lines)


def nodes_text(nodes):
    return ("nodes of a synthetic machine, in name only: placement is what an engine of so many nodes does, rates are not"
            if nodes[0]["synthetic"] else "nodes; to N: distance to node N, 10 to itself")


# ---- what touches found ----------------------------------------------------------------------------------------------

def found_table(rows):
    """Of the classes whose touches are not all faults: headings and lines."""
    headings = ["class", "threads", "touches M/s", "hits %", "soft %", "page reads M/s", "frame waits %", "huge pages %"]
    lines = []
    for row in rows:
        if any(key in row for key in ("hit_share", "huge_share")):
            lines.append([row["class"], str(row["threads"]), millions(row["faults_per_s"]), percent(row.get("hit_share")),
                          percent(row.get("soft_share")), millions(row.get("page_reads_per_s")),
                          percent(row.get("frame_waits_share")), percent(row.get("huge_share"))])
    return headings, lines


FOUND_TEXT = ("what the touches of mapped classes and of their rivals found: the page there; in memory; on the disk. "
              "huge pages: share of the memory that they map")


def skipped_lines(context):
    return ["%s: %s" % (key[len("skipped_"):].replace("_", " "), context[key])
            for key in sorted(context) if key.startswith("skipped_")]


# ---- text ------------------------------------------------------------------------------------------------------------

def millions(value):
    return "-" if value is None else "%.3f" % (value / 1e6) if value < 1e8 else "%.1f" % (value / 1e6)


def nanoseconds(value):
    return "-" if value is None else "%.1f" % value if value < 100 else "{:,.0f}".format(value)


def times(value):
    return "-" if value is None else "%.2f" % value if value < 100 else "%.0f" % value


def percent(value):
    return "-" if value is None else "%.1f" % (100 * value)


COLUMNS = [
    ("class", lambda row: row["class"]), ("space", lambda row: row["space"]),
    ("threads", lambda row: str(row["threads"])), ("M/s", lambda row: millions(row["faults_per_s"])),
    ("ns", lambda row: nanoseconds(row["ns_per_fault"])), ("p50 ns", lambda row: nanoseconds(row["p50_ns"])),
    ("p99 ns", lambda row: nanoseconds(row["p99_ns"])), ("p99.9 ns", lambda row: nanoseconds(row["p999_ns"])),
    ("M/CPU s", lambda row: millions(row["faults_per_cpu_s"])), ("local %", lambda row: percent(row["local_share"])),
    ("rival", lambda row: row["rival"] or "-"), ("rival M/s", lambda row: millions(row["kernel_faults_per_s"])),
    ("ratio", lambda row: times(row["ratio"])),
]
LEFT_COLUMNS = {"class", "space", "rival", "trace", "target", "wanted"}  # others are figures, to the right
REPLAY_COLUMNS = [("trace", "trace", "%s"), ("threads", "threads", "%d"), ("budget %", "budget_percent", "%g"),
                  ("pages", "budget_pages", "%d"), ("accesses", "accesses", "%d"),
                  ("demand zero", "demand_zero", "%d"), ("soft", "soft", "%d"), ("hard", "hard", "%d"),
                  ("hits %", "hit_share", None), ("LRU %", "lru_hit_share", None),
                  ("Belady %", "belady_hit_share", None)]


def replay_cells(row):
    cells = []
    for _, key, form in REPLAY_COLUMNS:
        value = row.get(key)
        cells.append("-" if value is None else "%.3f" % (100 * value) if form is None else form % value)
    return cells


def print_table(headings, lines, group=0):
    widths = [max(len(line[i]) for line in [headings] + lines) for i in range(len(headings))]

    def show(line):
        print("  ".join(cell.ljust(width) if heading in LEFT_COLUMNS else cell.rjust(width)
                        for cell, width, heading in zip(line, widths, headings)).rstrip())
    show(headings)
    print("-" * (sum(widths) + 2 * (len(widths) - 1)))
    last = None
    for line in lines:
        if group is not None:
            if last is not None and line[group] != last:
                print()
            last = line[group]
        show(line)


def print_report(rows, targets, errors, machine, context, nodes):
    print("%s, %d CPUs, %s, %.1f GiB, %d node%s, %s" % (
        machine.get("cpu"), machine.get("cpus", 0), machine.get("kernel"), machine.get("memory_bytes", 0) / 2**30,
        machine.get("nodes", 0), "s" * (machine.get("nodes", 0) != 1), machine.get("disk")))
    print(sizes_text(context) + "\n")
    print_table([name for name, _ in COLUMNS], [[cell(row) for _, cell in COLUMNS] for row in rows])
    print("\nM/s: million faults (accesses) a second. ns: elapsed time x min(threads, CPUs) / faults. M/CPU s: a second"
          "\nof CPU time, zeroing and workers included. ratio: to the rival of the row.\n")
    headings, lines = found_table(rows)
    if lines:
        print(FOUND_TEXT)
        print_table(headings, lines)
        print()
    if nodes:
        (headings, lines), (pair_headings, pair_lines) = node_tables(nodes, rows)
        print(nodes_text(nodes))
        print_table(headings, lines, group=None)
        print("\nfaults by node of the thread and node of the frame, share of all\n")
        print_table(pair_headings, pair_lines)
        print()
    print("targets")
    reached = {None: "not measured", True: "reached", False: "missed"}
    # After a run of a few classes the rest would be a long list of nothing.
    missing = sum(1 for t in targets if t["reached"] is None)
    print_table(["target", "wanted", "measured", ""],
                [[t["name"], t["wanted"], t["shown"] if t["reached"] is not None else "-", reached[t["reached"]]]
                 for t in targets if t["reached"] is not None or missing <= len(targets) // 4], group=1)
    counts = [sum(1 for t in targets if t["reached"] is state) for state in (True, False, None)]
    print("\n%d reached, %d missed, %d not measured" % tuple(counts))
    for line in skipped_lines(context):
        print("skipped: " + line)
    for error in errors:
        print("FAILED: " + error)


def sizes_text(context):
    def mib(name):
        return int(context.get(name, 0)) // 2**20
    large = mib("large_engine_bytes")
    return ("medians of %s rounds; touched by one pass: %d MiB (faults), %d MiB (kernel's faults), %d MiB (disk), "
            "%d MiB (mapped); resident: %d MiB; budget of the mapped classes that exceed it: %d MiB; large engine: %s"
            % (context.get("rounds", "?"), mib("fault_bytes"), mib("rival_bytes"), mib("disk_bytes"),
               mib("mapped_bytes"), mib("resident_bytes"), mib("budget_bytes"),
               "%d MiB" % large if large else "not measured (--quick, or less than 20 GiB available)"))


# ---- curves ----------------------------------------------------------------------------------------------------------

CHARTS = [
    ("Faults without I/O", "faults a second",
     ["demand_zero", "soft_standby", "soft_modified", "kernel_again", "kernel_fresh"]),
    ("Faults that read the disk", "faults a second", ["hard", "collided", "fio", "kernel_file", "kernel_collided"]),
    ("Resident access", "accesses a second",
     ["access_pointer", "access_pointers", "access_extent", "large_chase", "access_read", "access_chase", "raw_pointer",
      "raw_chase"]),
    ("Mapped: without I/O", "touches a second",
     ["mapped_fresh", "mapped_fresh_random", "mapped_soft", "mapped_soft_random", "mapped_fresh_threads",
      "anonymous_fresh", "anonymous_random", "memfd_soft", "memfd_random"]),
    ("Mapped: four times the budget, reading", "touches a second",
     ["mapped_read", "mapped_hard", "fio_mapped", "file_read", "file_hard", "swap_read", "zram_read"]),
    ("Mapped: four times the budget, half writes", "touches a second",
     ["mapped_mixed", "file_mixed", "swap_mixed", "zram_mixed"]),
    ("Mapped: resident", "loads a second", ["mapped_resident", "malloc_4k", "malloc_huge"]),
    ("Commit and decommit of a page", "pairs of calls a second", ["commit", "kernel_protect"]),
]
# Index of the colour; rivals are grey and dashed.
STYLE = {"demand_zero": "c1", "soft_standby": "c2", "soft_modified": "c3", "hard": "c1", "collided": "c2",
         "access_pointer": "c1", "access_read": "c2", "kernel_again": "r1", "kernel_fresh": "r2", "fio": "r1",
         "kernel_file": "r2", "kernel_collided": "r3", "raw_pointer": "r1",
         "mapped_fresh": "c1", "mapped_fresh_random": "c2", "mapped_soft": "c3", "mapped_soft_random": "c4",
         "mapped_fresh_threads": "c5", "anonymous_fresh": "r1", "anonymous_random": "r2", "memfd_soft": "r3",
         "memfd_random": "r3", "mapped_read": "c1", "mapped_hard": "c2", "fio_mapped": "r1", "file_read": "r2",
         "file_hard": "r3", "swap_read": "r3", "zram_read": "r3", "mapped_mixed": "c1", "file_mixed": "r1",
         "swap_mixed": "r2", "zram_mixed": "r3", "mapped_resident": "c1", "malloc_4k": "r1", "malloc_huge": "r2",
         "access_pointers": "c4", "access_chase": "c3", "access_extent": "c5", "large_chase": "c6", "raw_chase": "r2", "commit": "c1", "kernel_protect": "r1"}


RIVAL_NAMES = ("kernel", "fio", "raw", "anonymous", "memfd", "file", "swap", "zram", "malloc")


def short_number(value):
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return "%g %s" % (value / limit, suffix)
    return "%g" % value


def chart(title, unit, names, space, rows):
    """One SVG: rate over threads, both axes logarithmic; lines are named at their right end."""
    width, height, left, right, top, bottom = 560, 320, 56, 128, 46, 40
    curves = {}
    for row in rows:
        wanted_space = ONE_SPACE.get(row["class"], space)
        if row["class"] in names and row["space"] == wanted_space and row["faults_per_s"]:
            curves.setdefault(row["class"], []).append(row)
    if not any(not name.startswith(RIVAL_NAMES) for name in curves):
        return ""
    values = [row[key] for curve in curves.values() for row in curve
              for key in ("faults_per_s_min", "faults_per_s_max")]
    threads = sorted({row["threads"] for curve in curves.values() for row in curve})
    low = math.floor(math.log10(min(values)) * 2) / 2
    high = max(math.ceil(math.log10(max(values)) * 2) / 2, low + 1)
    last = max(1, math.log2(max(threads)))

    def x(count):
        return left + (width - left - right) * math.log2(count) / last

    def y(value):
        return top + (height - top - bottom) * (high - math.log10(value)) / (high - low)

    out = ['<svg viewBox="0 0 %d %d" role="img" aria-label="%s, %s">' % (width, height, html.escape(title), space),
           '<text class="title" x="%d" y="16">%s, %s</text>' %
           (left, html.escape(title), "private spaces" if space == "private" else "one shared space")]
    for power in range(math.floor(low), math.ceil(high) + 1):
        for factor in (1, 2, 5):
            value = factor * 10.0 ** power
            if not low <= math.log10(value) <= high + 1e-9 or (factor != 1 and high - low > 2):
                continue
            out.append('<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>' %
                       (left, width - right, y(value), y(value)))
            out.append('<text class="tick" x="%d" y="%.1f" text-anchor="end">%s</text>' %
                       (left - 6, y(value) + 4, short_number(value)))
    for count in threads:
        out.append('<text class="tick" x="%.1f" y="%d" text-anchor="middle">%d</text>' %
                   (x(count), height - bottom + 18, count))
    out.append('<text class="tick" x="%.1f" y="%d" text-anchor="middle">threads</text>' %
               ((left + width - right) / 2, height - 6))
    out.append('<text class="tick" x="%d" y="33">%s</text>' % (left, unit))
    labels = []
    for name in names:
        curve = sorted(curves.get(name, []), key=lambda row: row["threads"])
        if not curve:
            continue
        style = STYLE[name]
        points = " ".join("%.1f,%.1f" % (x(row["threads"]), y(row["faults_per_s"])) for row in curve)
        out.append('<polyline class="curve %s" points="%s"/>' % (style, points))
        for row in curve:
            out.append('<line class="range %s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>' %
                       (style, x(row["threads"]), x(row["threads"]), y(row["faults_per_s_min"]),
                        y(row["faults_per_s_max"])))
            out.append('<circle class="dot %s" cx="%.1f" cy="%.1f" r="3">'
                       '<title>%s, %d threads: %s/s (%s to %s)</title></circle>' %
                       (style, x(row["threads"]), y(row["faults_per_s"]), name, row["threads"],
                        short_number(float("%.3g" % row["faults_per_s"])),
                        short_number(float("%.3g" % row["faults_per_s_min"])),
                        short_number(float("%.3g" % row["faults_per_s_max"]))))
        labels.append([y(curve[-1]["faults_per_s"]), x(curve[-1]["threads"]), name, style])
    labels.sort()
    for previous, label in zip(labels, labels[1:]):
        label[0] = max(label[0], previous[0] + 14)
    overflow = labels[-1][0] - (height - bottom) if labels else 0
    for label in labels:
        if overflow > 0:
            label[0] -= overflow
        out.append('<text class="name %s" x="%.1f" y="%.1f">%s</text>' %
                   (label[3], label[1] + 9, label[0] + 4, label[2]))
    out.append("</svg>")
    return "\n".join(out)


# ---- page ------------------------------------------------------------------------------------------------------------

PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5c6670; --rule: #d9dee3; --paper: #fdfdfc; --band: #f4f5f6;
  --c1: #1f5fa6; --c2: #23795a; --c3: #a85b12; --c4: #7a4a9e; --c5: #0f7c8a; --c6: #a2386b; --r1: #6f7780; --r2: #99a1a9; --r3: #b3b9bf;
  --good: #23795a; --bad: #b02a37; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #dfe3e7; --soft: #98a2ac; --rule: #343b42; --paper: #15181b; --band: #1d2125;
  --c1: #74aef0; --c2: #64c29b; --c3: #e7a35c; --c4: #c39be6; --c5: #5cc3d0; --c6: #ea86b4; --r1: #9aa3ac; --r2: #747d86; --r3: #59626b;
  --good: #64c29b; --bad: #f0808a; } }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; }
p { max-width: 48rem; } .soft, footer { color: var(--soft); } .warning { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
.title { fill: var(--ink); font-size: 14px; font-weight: 600; } .tick { fill: var(--soft); }
.grid { stroke: var(--rule); stroke-width: 1; } .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.range { stroke-width: 1; opacity: .6; }
""" + "".join(
    ".curve.%s, .range.%s { stroke: var(--%s); } .dot.%s, .name.%s { fill: var(--%s); }\n" % ((style,) * 6)
    for style in ("c1", "c2", "c3", "c4", "c5", "c6", "r1", "r2", "r3")) + """
.curve.r1 { stroke-dasharray: 6 4; } .curve.r2 { stroke-dasharray: 2 4; } .curve.r3 { stroke-dasharray: 8 3 2 3; }
.machine { background: #fff; } .machine svg { width: auto; max-width: none; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; } th { color: var(--soft); font-weight: 500;
  border-bottom: 1px solid var(--rule); } td.left, th.left { text-align: left; }
tr.first td { border-top: 1px solid var(--rule); }
tr.rival td { color: var(--soft); } td.reached { color: var(--good); }
td.missed { color: var(--bad); font-weight: 600; }
"""

METHOD = """
<p>A pass is one stretch of work on N threads that begin together; trimming, writing out, zeroing ahead and giving
memory back lie outside it. Engine and rivals take turns, round by round, in one process and one run; each figure is
the median of the rounds, and the thin vertical lines show the slowest and the fastest. Threads are not pinned.
Latencies come from a pass of their own that times one operation in 17; the clock's own cost is subtracted.
<em>M/CPU&nbsp;s</em> counts the faulting threads, the zeroing and the workers. Every pass is checked: its touches
took the fault that the class is about, random reads returned the bytes that were written, and at the end of each
class the whole engine is verified.</p>
<p>Rivals: <em>kernel_again</em>, touching 4&nbsp;KiB pages after MADV_DONTNEED; <em>kernel_fresh</em>, touching a new
mapping (both without huge pages, both in one process); <em>fio</em>, random reads of 4&nbsp;KiB with O_DIRECT and as
many threads; <em>kernel_file</em> and <em>kernel_collided</em>, page faults on a mapped file out of the page cache;
<em>raw_pointer</em>, loads from plain memory behind huge pages; <em>raw_chase</em>, the same, each address depending
on the load before. <em>mapped_</em> classes touch a mapped space through plain pointers, beside anonymous memory, a
memfd, a mapped file or a swap in a control group limited to the engine's budget, and malloc()'s memory. docs/benchmark.md
tells it in full.</p>
"""


def html_table(headings, lines, group=None, row_class=None, cell_class=None):
    out = ['<div class="scroll"><table><thead><tr>']
    for heading in headings:
        out.append('<th%s>%s</th>' % (' class="left"' if heading in LEFT_COLUMNS else "", html.escape(heading)))
    out.append("</tr></thead><tbody>")
    last = None
    for index, line in enumerate(lines):
        classes = [row_class(index)] if row_class and row_class(index) else []
        if group is not None and line[group] != last:
            classes.append("first")
            last = line[group]
        out.append("<tr%s>" % (' class="%s"' % " ".join(classes) if classes else ""))
        for column, cell in enumerate(line):
            style = cell_class(index, column) if cell_class else ""
            if headings[column] in LEFT_COLUMNS:
                style = "left"
            out.append("<td%s>%s</td>" % (' class="%s"' % style if style else "", html.escape(cell)))
        out.append("</tr>")
    out.append("</tbody></table></div>")
    return "".join(out)


def make_page(rows, targets, errors, replay, machine, context, nodes, picture):
    out = ["<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8"><title>pagetide: benchmark</title>',
           '<meta name="viewport" content="width=device-width, initial-scale=1">',
           "<style>%s</style></head><body>" % PAGE_STYLE,
           "<h1>pagetide: benchmark</h1>", '<p class="soft">%s</p>' % html.escape(machine.get("date", ""))]
    busy = machine.get("busy_share_before")
    facts = [("Processor", "%s, %d CPUs%s" % (machine.get("cpu"), machine.get("cpus", 0),
                                              ", virtual machine" if machine.get("virtual") else "")),
             ("Kernel", machine.get("kernel", "")),
             ("Memory", "%.1f GiB, %.1f GiB available, %d NUMA node%s, huge pages: %s" % (
                 machine.get("memory_bytes", 0) / 2**30, machine.get("memory_available_bytes", 0) / 2**30,
                 machine.get("nodes", 0), "s" * (machine.get("nodes", 0) != 1), machine.get("huge_pages"))),
             ("Disk", machine.get("disk", "")), ("Sizes", sizes_text(context)),
             ("Before the run", "CPUs %.0f %% busy with other work" % (100 * busy) if busy is not None else "unknown")]
    out.append("<dl>%s</dl>" % "".join(
        "<dt>%s</dt><dd>%s</dd>" % (html.escape(a), html.escape(str(b))) for a, b in facts))
    if busy is not None and busy > 0.1:
        out.append('<p class="warning">The machine was not idle: the figures are too low and vary.</p>')
    for line in skipped_lines(context):
        out.append('<p class="soft">Skipped: %s</p>' % html.escape(line))
    for error in errors:
        out.append('<p class="warning">Failed: %s</p>' % html.escape(error))

    out.append("<h2>Curves</h2><div class=\"charts\">")
    for title, unit, names in CHARTS:
        for space in ("private", "shared"):
            out.append(chart(title, unit, names, space, rows))
    out.append("</div>")

    if nodes:
        (headings, lines), (pair_headings, pair_lines) = node_tables(nodes, rows)
        out.append("<h2>Nodes</h2><p class=\"soft\">%s</p>" % html.escape(nodes_text(nodes)))
        out.append(html_table(headings, lines))
        out.append("<p class=\"soft\">faults by node of the thread and node of the frame, share of all</p>")
        out.append(html_table(pair_headings, pair_lines, group=0))
    if picture:
        out.append("<h2>The machine, as hwloc sees it</h2><div class=\"scroll machine\">%s</div>" % picture)

    reached = {None: "not measured", True: "reached", False: "missed"}
    out.append("<h2>Targets</h2>")
    out.append(html_table(["target", "wanted", "measured", ""],
                          [[t["name"], t["wanted"], t["shown"] if t["reached"] is not None else "-",
                            reached[t["reached"]]]
                           for t in targets], group=1,
                          cell_class=lambda i, column: (
                              reached[targets[i]["reached"]].replace(" ", "-") if column == 3 else "")))
    out.append("<h2>All figures</h2>")
    out.append(html_table([name for name, _ in COLUMNS], [[cell(row) for _, cell in COLUMNS] for row in rows], group=0,
                          row_class=lambda i: "rival" if rows[i]["class"] in RIVAL.values() or
                          rows[i]["class"].startswith(RIVAL_NAMES) else ""))
    out.append('<p class="soft">M/s: million faults (accesses) a second. ns: elapsed time × min(threads, CPUs) / '
               "faults. "
               "M/CPU s: a second of CPU time, zeroing and workers included. ratio: to the rival of the row.</p>")
    headings, lines = found_table(rows)
    if lines:
        out.append('<h2>Found</h2><p class="soft">%s</p>' % html.escape(FOUND_TEXT))
        out.append(html_table(headings, lines, group=0))
    if replay:
        out.append("<h2>Traces of real programs</h2>")
        out.append(html_table([name for name, _, _ in REPLAY_COLUMNS], [replay_cells(row) for row in replay], group=0))
    out.append("<h2>Method, in short</h2>" + METHOD + "</body></html>")
    return "\n".join(out)


def report_command(arguments):
    cases, context, errors = load_raw(os.path.join(arguments.out, "raw"))
    errors += ["step %s" % step for step in arguments.failed or []]
    machine = json.loads(read(os.path.join(arguments.out, "machine.json"), "{}"))
    replay = json.loads(read(os.path.join(arguments.out, "replay.json"), "{}")).get("rows", [])
    rows = make_rows(cases, machine.get("cpus", 1))
    targets = make_targets(rows, replay, machine.get("cpus", 1))
    nodes = make_nodes(context)
    # The picture goes into the page as it is, but for what may stand only at the head of a file.
    picture = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>", "", read(os.path.join(arguments.out, "topology.svg")), flags=re.S)
    with open(os.path.join(arguments.out, "summary.json"), "w", encoding="utf-8") as file:
        json.dump({"rows": rows, "targets": targets, "machine": machine, "nodes": nodes, "replay": replay, "errors": errors,
                   "sizes": {key: int(context[key]) for key in
                             ("rounds", "fault_bytes", "rival_bytes", "disk_bytes", "resident_bytes", "mapped_bytes",
                              "budget_bytes", "large_engine_bytes") if key in context},
                   "skipped": skipped_lines(context)},
                  file, indent=1)
    with open(os.path.join(arguments.out, "report.html"), "w", encoding="utf-8") as file:
        file.write(make_page(rows, targets, errors, replay, machine, context, nodes, picture))
    print_report(rows, targets, errors, machine, context, nodes)


def main():
    parser = argparse.ArgumentParser(description="The benchmark's report. bench/run calls it.")
    commands = parser.add_subparsers(required=True)
    machine = commands.add_parser("machine")
    machine.add_argument("--disk", required=True)
    machine.set_defaults(command=machine_command)
    report = commands.add_parser("report")
    report.add_argument("--failed", nargs="*")
    report.set_defaults(command=report_command)
    for command in (machine, report):
        command.add_argument("--out", required=True)
    arguments = parser.parse_args()
    arguments.command(arguments)


if __name__ == "__main__":
    sys.exit(main())
