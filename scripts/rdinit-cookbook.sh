#!/bin/sh
# The cookbook's init, for `rdvm run --rdinit` and for cookbook.sh: /init with its stdout on the second serial port, its
# status as a decimal number on the third, then power off. Four commands, of which the image must bring mount: as a
# program, or as busybox. /proc goes below /dev, since an image's own /proc may be anything; the reset by sysrq needs
# neither an ACPI machine nor a reboot program, and closing a port has sent what was written to it.
if [ -x /bin/busybox ]; then mount() { /bin/busybox mount "$@"; }; mkdir() { /bin/busybox mkdir "$@"; }; fi

mount -t devtmpfs dev /dev
/init </dev/null >/dev/ttyS1
echo $? >/dev/ttyS2
mkdir /dev/proc && mount -t proc proc /dev/proc && echo b >/dev/proc/sysrq-trigger
