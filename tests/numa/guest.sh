#!/bin/bash
# Runs commands on a machine that has NUMA nodes: a guest of qemu, with Debian's own kernel. See --help.
#
# The kernel package is downloaded by apt and unpacked below the build folder, never installed. The initramfs is made
# anew each time: busybox, the programs named, every shared library that they need, and the commands as a script. The
# guest's console is this script's output. The commands' exit status comes home in the last line that the guest prints;
# no such line means that the guest died, and that is a failure.
#
# KVM is used where a guest really starts with it - /dev/kvm opens on machines that cannot boot one - else qemu's own
# translation (TCG), which needs no rights and is slow: placement is real in it, speed is not.
#
# SPDX-License-Identifier: Apache-2.0
set -uo pipefail

usage() {
    cat <<'END_OF_USAGE'
usage: tests/numa/guest.sh --folder DIR [OPTION]... COMMAND...
  --folder DIR       (must be given) where the unpacked kernel is kept between runs; made if it is not there
  --shape NAME       nodes of the guest [4]:
                       4     6 CPUs on nodes 0 to 2 of 384, 256 and 192 MiB; node 3 has 256 MiB and no CPU
                       8     8 nodes with a CPU each, of 192 to 320 MiB, in a ring
                       holes 4 nodes: node 1 has CPUs and no memory, node 3 memory and no CPUs
  --program FILE     copied to /bin of the guest with its shared libraries; may be given more than once
  --clock FILE       program that prints the rate of the time-stamp counter in kHz, for a guest without KVM
  --timeout SECONDS  after which the guest is stopped, which is a failure [600]
  --accel ACCEL      kvm, tcg, or auto: kvm if a guest starts with it [auto]
  COMMAND...         shell commands, run in order until one fails
Exit status: that of the commands, 1 if the guest died, 77 with a reason if no guest can be had here.
TIDE_GUEST_KERNEL in the environment names a kernel image to boot instead of Debian's.
END_OF_USAGE
}

skip() {
    echo "SKIPPED: $*"
    exit 77
}

fail() {
    echo "FAIL: guest.sh: $*" >&2
    exit 1
}

folder="" shape=4 programs=() seconds=600 accel=auto clock=""
while [ $# -gt 0 ]; do
    case $1 in
        --folder | --shape | --program | --clock | --timeout | --accel)
            [ $# -ge 2 ] || { usage >&2; exit 2; }
            case $1 in
                --folder) folder=$2 ;;
                --shape) shape=$2 ;;
                --program) programs+=("$2") ;;
                --clock) clock=$2 ;;
                --timeout) seconds=$2 ;;
                --accel) accel=$2 ;;
            esac
            shift
            ;;
        --help | -h) usage; exit 0 ;;
        --*) echo "guest.sh: unknown option \"$1\"" >&2; usage >&2; exit 2 ;;
        *) break ;;
    esac
    shift
done
if [ -z "$folder" ] || [ $# -eq 0 ]; then
    usage >&2
    exit 2
fi

# ---- the machine ---------------------------------------------------------------------------------------------------

# Per node: MiB of memory (0: none) and CPUs; then the distances, row by row. Nodes are no multiples of each other, and
# the nearest of a node is not the next by number.
case $shape in
    4)
        megabytes=(384 256 192 256) cpus=(2 2 2 0)
        distances=("10 28 16 22" "28 10 22 16" "16 22 10 28" "22 16 28 10")
        ;;
    8)
        megabytes=(320 192 256 192 224 192 256 192) cpus=(1 1 1 1 1 1 1 1)
        distances=("10 16 22 28 34 28 22 16" "16 10 16 22 28 34 28 22" "22 16 10 16 22 28 34 28"
            "28 22 16 10 16 22 28 34" "34 28 22 16 10 16 22 28" "28 34 28 22 16 10 16 22"
            "22 28 34 28 22 16 10 16" "16 22 28 34 28 22 16 10")
        ;;
    holes)
        megabytes=(384 0 192 256) cpus=(2 2 1 0)
        distances=("10 28 16 22" "28 10 16 22" "16 16 10 28" "22 22 28 10")
        ;;
    *) echo "guest.sh: there is no shape \"$shape\"" >&2; usage >&2; exit 2 ;;
esac

machine=() total=0 cpu_total=0
for n in "${!megabytes[@]}"; do
    node="node,nodeid=$n"
    if [ "${cpus[n]}" -gt 0 ]; then
        node+=",cpus=$cpu_total-$((cpu_total + cpus[n] - 1))"
    fi
    if [ "${megabytes[n]}" -gt 0 ]; then
        machine+=(-object "memory-backend-ram,id=memory$n,size=${megabytes[n]}M")
        node+=",memdev=memory$n"
    fi
    machine+=(-numa "$node")
    total=$((total + megabytes[n])) cpu_total=$((cpu_total + cpus[n]))
done
for n in "${!megabytes[@]}"; do
    read -r -a row <<<"${distances[n]}"
    for to in "${!row[@]}"; do
        [ "$to" = "$n" ] || machine+=(-numa "dist,src=$n,dst=$to,val=${row[to]}")
    done
done
machine+=(-smp "$cpu_total" -m "${total}M")

# ---- what is needed ------------------------------------------------------------------------------------------------

[ "$(uname -m)" = x86_64 ] || skip "the guest is an x86-64 machine, and this is $(uname -m)"
for tool in qemu-system-x86_64 busybox cpio ldd strip; do
    command -v $tool >/dev/null || skip "there is no $tool here; cmake/dependencies.sh guest installs what is needed"
done
busybox=$(command -v busybox)
! ldd "$busybox" >/dev/null 2>&1 || skip "$busybox is not static; the package is busybox-static"
available=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
[ "$available" -ge $((total + 512)) ] ||
    skip "the guest has $total MiB, and of this machine's memory $available MiB are available"
mkdir -p "$folder" || fail "no folder $folder"
folder=$(cd "$folder" && pwd)

# Debian's newest kernel for virtual machines that apt knows of, else the one for all.
kernel_package() {
    local meta
    for meta in linux-image-6.12-cloud-amd64 linux-image-cloud-amd64 linux-image-amd64; do
        apt-cache depends "$meta" 2>/dev/null | awk '/Depends: *linux-image/ { print $2; found = 1; exit }
            END { exit !found }' && return
    done
    return 1
}

# Prints the path of the kernel image; or why there is none, and fails.
kernel_find() {
    local package work
    if [ -n "${TIDE_GUEST_KERNEL:-}" ]; then
        [ -r "$TIDE_GUEST_KERNEL" ] || { echo "TIDE_GUEST_KERNEL: cannot read $TIDE_GUEST_KERNEL"; return 1; }
        echo "$TIDE_GUEST_KERNEL"
        return
    fi
    if compgen -G "$folder/vmlinuz-*" >/dev/null; then
        printf '%s\n' "$folder"/vmlinuz-* | tail -1
        return
    fi
    command -v apt-get >/dev/null || { echo "there is no apt to fetch a kernel with; set TIDE_GUEST_KERNEL"; return 1; }
    package=$(kernel_package) || { # the lists of a fresh system are empty
        [ "$(id -u)" -ne 0 ] || apt-get -qq update >/dev/null 2>&1
        package=$(kernel_package)
    } || { echo "apt knows no kernel package; try apt-get update"; return 1; }
    work=$(mktemp -d "$folder/unpack-XXXXXX") || { echo "no folder in $folder"; return 1; }
    if (cd "$work" && timeout 300 apt-get -q download "$package" && dpkg-deb -x "$package"_*.deb unpacked) \
        >"$folder/kernel.log" 2>&1 && compgen -G "$work/unpacked/boot/vmlinuz-*" >/dev/null; then
        mv "$work"/unpacked/boot/vmlinuz-* "$folder/" # whole, or not at all
        rm -rf "$work"
        printf '%s\n' "$folder"/vmlinuz-* | tail -1
        return
    fi
    rm -rf "$work"
    echo "apt cannot download $package: $(tail -1 "$folder/kernel.log")"
    return 1
}
kernel=$(kernel_find) || skip "$kernel"

# ---- the initramfs -------------------------------------------------------------------------------------------------

work=$(mktemp -d "$folder/run-XXXXXX") || fail "no folder in $folder"
qemu=""
finish() {
    [ -z "$qemu" ] || kill -9 "$qemu" 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,tmp} || fail "no folder $root"
cp "$busybox" "$root/bin/busybox"
for file in "${programs[@]}"; do
    cp -L "$file" "$root/bin/" || fail "no program $file"
    while read -r library; do
        # A build may lie anywhere, also where the guest mounts something: its own libraries get a place of their own.
        case $library in
            /lib*/* | /usr/*) place=$root$library ;;
            *) place=$root/lib/build/${library##*/} ;;
        esac
        mkdir -p "$(dirname "$place")"
        [ -e "$place" ] || cp -L "$library" "$place"
    done < <(ldd "$file" | grep -o '/[^ )]*')
done
find "$root" -type f -exec strip --strip-debug {} + 2>/dev/null
printf '%s\n' "set -e" "$@" >"$root/commands"
cat >"$root/init" <<'END_OF_INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ LD_LIBRARY_PATH=/lib/build
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs -o mpol=interleave none /tmp
mkdir -p /dev/shm
mount -t tmpfs none /dev/shm
echo "@@GUEST-START $(cut -d' ' -f1 /proc/uptime) s, Linux $(uname -r)"
sh /commands </dev/null
echo "@@GUEST-END $? $(cut -d' ' -f1 /proc/uptime) s"
poweroff -f
END_OF_INIT
chmod +x "$root/init"
(cd "$root" && find . -print0 | cpio --null -o -H newc --quiet) >"$work/initramfs" ||
    fail "the initramfs cannot be made"

# ---- the run -------------------------------------------------------------------------------------------------------

# A busy host may not let a CPU of the guest run for many seconds: no watchdogs.
kernel_options="console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on nowatchdog"
kernel_options+=" rcupdate.rcu_cpu_stall_suppress=1"

# Boots with one accelerator. 0: the guest started, and has ended or was stopped; 1: it never started.
boot() { # ACCEL SECONDS-UNTIL-START
    local waited=0 shown
    stopped=no
    : >"$work/console"
    qemu-system-x86_64 -accel "$1" -cpu max -machine q35 "${machine[@]}" \
        -nodefaults -no-user-config -display none -serial stdio -no-reboot -kernel "$kernel" -initrd "$work/initramfs" \
        -append "$kernel_options" \
        </dev/null >"$work/console" 2>"$work/qemu.log" &
    qemu=$!
    disown "$qemu" # no word of the shell if it is killed
    while kill -0 "$qemu" 2>/dev/null && ! grep -q '@@GUEST-START' "$work/console" && [ $waited -lt $(($2 * 5)) ]; do
        sleep 0.2
        waited=$((waited + 1))
    done
    if ! grep -q '@@GUEST-START' "$work/console"; then
        kill -9 "$qemu" 2>/dev/null
        wait "$qemu" 2>/dev/null
        qemu=""
        return 1
    fi
    tail -n +1 -f --pid="$qemu" "$work/console" &
    shown=$!
    waited=0
    while kill -0 "$qemu" 2>/dev/null && [ $waited -lt "$seconds" ]; do
        sleep 1
        waited=$((waited + 1))
    done
    if kill -0 "$qemu" 2>/dev/null; then
        stopped=yes
        kill -9 "$qemu"
    fi
    wait "$qemu" 2>/dev/null
    qemu=""
    wait "$shown"
    return 0
}

stopped=no started=no
case $accel in
    auto)
        # What this machine can do does not change while it runs; a verdict is kept until the next boot.
        verdict="no $(cat /proc/sys/kernel/random/boot_id)"
        if [ -r /dev/kvm ] && [ -w /dev/kvm ] && [ "$(cat "$folder/kvm" 2>/dev/null)" != "$verdict" ]; then
            echo "guest.sh: shape $shape, $cpu_total CPUs, $total MiB, by KVM"
            if boot kvm 30; then
                started=yes
            else
                echo "$verdict" >"$folder/kvm"
                echo "guest.sh: no guest starts with KVM here: $(tail -1 "$work/qemu.log")"
            fi
        fi
        ;;
    kvm | tcg) ;;
    *) usage >&2; exit 2 ;;
esac
if [ $started = no ]; then
    if [ "$accel" != kvm ]; then
        accel=tcg,thread=multi
        rate=$([ -z "$clock" ] || "$clock")
        kernel_options+=${rate:+ tsc_early_khz=$rate}
    fi
    # Translation with several threads rarely loses a kernel that rewrites its own code while its other CPUs run. No
    # program in the guest can do that to it, so it says nothing about the programs.
    for try in 1 2 3; do
        echo "guest.sh: shape $shape, $cpu_total CPUs, $total MiB, by ${accel%%,*}"
        boot "$accel" 300 && started=yes
        grep -q 'Kernel panic' "$work/console" || break
        [ $try = 3 ] || echo "guest.sh: the guest's kernel panicked; once more"
    done
    [ $started = yes ] || {
        cat "$work/console" "$work/qemu.log" | tail -n 20 >&2
        fail "the guest does not start"
    }
fi
[ $stopped = no ] || fail "the guest was stopped after $seconds s"
status=$(tr -d '\r' <"$work/console" | sed -n 's/.*@@GUEST-END \([0-9]*\) .*/\1/p' | tail -1)
[ -n "$status" ] || fail "the guest died"
[ "$status" -ne 77 ] || fail "a command of the guest could not run and was skipped there"
exit "$status"
