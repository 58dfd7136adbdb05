#!/usr/bin/env bash
# The reference recipe, to measure rdvm against: DIR as a cpio initrd in a stock QEMU PC, with three serial ports for
# console, stdout and exit code, and RAM of three times the initrd plus 64 MB.
#
#   scripts/cookbook.sh DIR KERNEL        runs DIR's /init; its stdout, its exit code, 99 when none came
#
# It has the recipe's properties, which are not rdvm's: stdout comes at the end and loses every CR, the archive is
# unsorted, DIR must hold a shell and a mount program. ACCEL (tcg), LIMIT (300 s) and TIMES=1 (each step's milliseconds to
# stderr) are ours, and so is MORE: MB of RAM added to the recipe's sum. The sum leaves the root tmpfs, half of what is
# left beside initrd and kernel, about as large as the image; Debian's 6.1 cloud kernel misses some 12 MB of it with a
# 163 MB tree and panics (MORE=0 shows it), so the comparison gives 32 away.
set -euo pipefail
[ $# = 2 ] || { echo "usage: cookbook.sh DIR KERNEL" >&2; exit 125; }
here=$(cd "$(dirname "$0")" && pwd)
kernel=$(realpath "$2")
work=$(mktemp -d "${TMPDIR:-/tmp}/cookbook.XXXXXX")
trap 'rm -rf "$work"' EXIT

start=${EPOCHREALTIME/./}
step() { # step NAME: what has passed since the last one
	local now=${EPOCHREALTIME/./}
	[ -z "${TIMES:-}" ] || echo "cookbook: $1 $(((now - start) / 1000)) ms" >&2
	start=$now
}

(cd "$1" && find . | cpio -o -H newc --quiet) >"$work/initrd"
install -m 755 "$here/rdinit-cookbook.sh" "$work/rdinit"
(cd "$work" && echo rdinit | cpio -o -H newc --quiet) >>"$work/initrd"
step pack

bytes=$(stat -c %s "$work/initrd")
ram=$(((3 * bytes + 1048575) / 1048576 + 64 + ${MORE:-32}))
touch "$work/console" "$work/stdout" "$work/status"
timeout "${LIMIT:-300}" qemu-system-x86_64 -M pc -accel "${ACCEL:-tcg}" -m "${ram}M" -display none -no-reboot \
	-kernel "$kernel" -initrd "$work/initrd" \
	-append 'rdinit=/rdinit console=ttyS0 quiet panic=-1' \
	-chardev file,id=console,path="$work/console" -serial chardev:console \
	-chardev file,id=stdout,path="$work/stdout" -serial chardev:stdout \
	-chardev file,id=status,path="$work/status" -serial chardev:status </dev/null || echo "cookbook: qemu: status $?" >&2
step "run in ${ram} MB,"

status=$(tr -d '\r' <"$work/status")
if [[ ! $status =~ ^[0-9]+$ ]]; then
	tail -n 20 "$work/console" >&2
	echo "cookbook: no exit code came" >&2
	exit 99
fi
tr -d '\r' <"$work/console" >&2
tr -d '\r' <"$work/stdout"
exit "$status"
