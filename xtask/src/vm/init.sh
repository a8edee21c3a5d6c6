#!/bin/busybox sh
# The first process of a guest: sets up what a booted Debian has, runs the test programs one after the other, and reports
# on the console. `cargo xtask vm` reads the lines that begin with `vm: `.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ TERM=dumb TASKGATE_BIN=/taskgate/taskgate

mount() { /bin/busybox mount -t "$@" || echo "vm: wrong: cannot mount $3"; }
/bin/busybox mkdir -p /proc /sys /dev /run /tmp
mount proc proc /proc
mount sysfs sysfs /sys
mount devtmpfs dev /dev
mount tmpfs run /run
mount tmpfs tmp /tmp
mount bpf bpf /sys/fs/bpf
for module in /modules/*; do
    /bin/busybox insmod "$module" || echo "vm: wrong: cannot load $module"
done
ip link set lo up
# Tests of one program run side by side, each with sockets and namespaces.
ulimit -n 20000

# Words for the test programs, each on a line.
set --
while read -r word; do set -- "$@" "$word"; done </words
# Not for the tests to read: the end of the console is the end of the guest.
exec </dev/null

echo "vm: kernel $(/bin/busybox uname -r)"
/taskgate/verified
echo "vm: status verified $?"
# Runs a test program with its output on the console and in a file; its status is the program's.
run() { "$@" | /bin/busybox tee /output; }
set -o pipefail
for program in /tests/*; do
    [ -x "$program" ] || break
    echo "vm: program ${program##*/}"
    run "$program" "$@"
    status=$?
    # Emulated CPUs stall occasionally, so failed tests are run once more; a second failure counts. A program that broke off
    # names no failed tests: all of it is run again.
    if [ $status != 0 ]; then
        failed=$(/bin/busybox sed -n '/^failures:$/,/^test result: FAILED/s/^    \([a-z0-9_:]*\)$/\1/p' /output |
            /bin/busybox sort -u)
        # shellcheck disable=SC2086 # a name has no spaces
        echo "vm: again ${program##*/}" $failed
        if [ -n "$failed" ]; then
            # shellcheck disable=SC2086
            run "$program" --include-ignored --color=never --exact $failed
        else
            run "$program" "$@"
        fi
        status=$?
    fi
    echo "vm: status ${program##*/} $status"
done
/bin/busybox dmesg | /bin/busybox grep -E 'BUG:|WARNING:|Call Trace|soft lockup|rcu.*stall' | while read -r line; do
    echo "vm: kernel said $line"
done
echo "vm: end"
/bin/busybox poweroff -f
