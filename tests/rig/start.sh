#!/bin/sh
# The command of the rig's outer machine: loads KVM, then runs its arguments in place of itself.
#
#   start.sh COMMAND [ARG...]
cd / || exit 1
grep -q -w -e svm -e vmx /proc/cpuinfo ||
	{ echo 'rig: the CPU of the outer machine has neither SVM nor VT-x; a Bochs must be built with --enable-vmx=2, as that of Debian 12 is' >&2; exit 1; }
while read -r module; do
	insmod "/modules/$module" || { echo "rig: $module cannot be loaded" >&2; exit 1; }
done </modules/order
if [ -n "$RIG_PULSE" ]; then # xtask/src/rig/qemu.rs says what for; the port interrupts only while it is open
	stty -F /dev/ttyS3 raw -echo
	cat /dev/ttyS3 >/dev/null &
fi
[ -c /dev/kvm ] || { echo 'rig: there is no /dev/kvm' >&2; exit 1; }
exec "$@"
