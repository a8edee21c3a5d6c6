#!/bin/busybox sh
# The first process of a guest: it makes what a booted Debian has, runs the test programs one after the other, and says on
# the console what began and how it ended. `cargo xtask vm` reads the lines that begin with `vm: `.
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

# Words for the test programs, each on a line.
set --
while read -r word; do set -- "$@" "$word"; done </words
# Not for the tests to read: the end of the console is the end of the guest.
exec </dev/null

echo "vm: kernel $(/bin/busybox uname -r)"
/taskgate/verified
echo "vm: status verified $?"
for program in /tests/*; do
    [ -x "$program" ] || break
    echo "vm: program ${program##*/}"
    "$program" "$@"
    status=$?
    # An emulated processor is now and then slow as no machine is: what fails twice has failed.
    if [ $status != 0 ]; then
        echo "vm: again ${program##*/}"
        "$program" "$@"
        status=$?
    fi
    echo "vm: status ${program##*/} $status"
done
/bin/busybox dmesg | /bin/busybox grep -E 'BUG:|WARNING:|Call Trace|soft lockup|rcu.*stall' | while read -r line; do
    echo "vm: kernel said $line"
done
echo "vm: end"
/bin/busybox poweroff -f
