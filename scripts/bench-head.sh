#!/usr/bin/env bash
# The lines at the head of a table of results that say when, on what machine and with what it was measured.
#
#   scripts/bench-head.sh     (KERNEL names the distribution's kernel, where one took part)
set -euo pipefail
kernel=${KERNEL:-$(find /boot -maxdepth 1 -name 'vmlinuz-*' -readable | sort -V | tail -n 1)}
small=${XDG_CACHE_HOME:-$HOME/.cache}/rdvm/kernel/vmlinux
release() { [ ! -e "$1" ] || LC_ALL=C grep -a -o -m 1 'Linux version [^ ]*' "$1" | head -n 1 | cut -d' ' -f3; }
model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1 | tr -s ' ')
kvm='no /dev/kvm'
if [ -e /dev/kvm ]; then kvm='with /dev/kvm'; fi
if grep -qs pvm /sys/module/kvm*/uevent || [ -d /sys/module/kvm_pvm ]; then kvm='paravirtual KVM'; fi
printf '# date: %s\n' "$(date -I)"
printf '# machine: %s CPUs, %s, %s, load %s\n' "$(nproc)" "${model:-unknown}" "$kvm" "$(cut -d' ' -f1 /proc/loadavg)"
printf '# with: Linux %s, QEMU %s, kernels %s and %s\n' "$(uname -r)" \
	"$(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')" "${kernel##*/vmlinuz-}" "$(release "$small")"
