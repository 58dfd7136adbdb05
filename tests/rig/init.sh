#!/bin/sh
# PID 1 of the rig's outer machine where rdvm cannot boot it, since it is Bochs that emulates the hardware: does what rdinit
# and rdvm do for the one in QEMU, then runs start.sh with the command of /rig/command. The last line is its exit code.
export PATH=/bin:/usr/bin HOME=/root TMPDIR=/tmp
mkdir -p /dev /proc /sys /tmp /root
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t devpts devpts /dev/pts -o mode=620,ptmxmode=666
mount -t tmpfs tmpfs /dev/shm
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -o remount,size=90% / # half of the RAM is what the kernel allows
ip link set lo up
export RDVM_CACHE=/cache RDVM_TEST_IMAGES=/images RDVM_TEST_PROGRAMS=/programs RDVM_TEST_KERNELS=/kernels \
	RDVM_TEST_KERNEL_CACHE=/unpacked RDVM_TEST_ENGINES=kvm RDVM_TEST_SMALL=1 CI=1
# shellcheck source=/dev/null
. /rig/command
sh /rig/start.sh "$@" </dev/null 2>&1
echo "rig-exit $?"
sleep 2 # the serial port sends 115200 bits in a second
poweroff -f
