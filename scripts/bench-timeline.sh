#!/usr/bin/env bash
# Where the time of a run in QEMU goes, by phase, and how fast bytes go in and out there: benches/results/timeline-qemu.tsv and
# ports-qemu.tsv. The same on KVM is `scripts/rig.sh timeline` and `ports`.
#
#   scripts/bench-timeline.sh [phases|ports]     (default both; IMAGES, RDVM, KERNEL name what is not below target and /boot, RUNS how often)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
images=$(realpath "${IMAGES:-$top/target/images}")
rdvm=$(realpath "${RDVM:-${CARGO_TARGET_DIR:-$top/target}/release/rdvm}")
kernel=${KERNEL:-$(find /boot -maxdepth 1 -name 'vmlinuz-*' -readable | sort -V | tail -n 1)}
small=${XDG_CACHE_HOME:-$HOME/.cache}/rdvm/kernel/vmlinux
runs=${RUNS:-7}
work=$(mktemp -d "${TMPDIR:-/tmp}/rdvm-timeline.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
export TMPDIR=$work
PATH=${rdvm%/*}:$PATH
rustc --edition 2024 -O -o "$work/timeline" "$top/benches/timeline.rs"

# table NAME KIND: stdin as results.
table() {
	{
		printf '# kind: %s\n' "$2"
		KERNEL=$kernel "$top/scripts/bench-head.sh"
		cat
	} >"$work/table"
	cp "$work/table" "$top/benches/results/$1.tsv"
	cat "$work/table"
}

phases() {
	mkdir "$work/hello"
	gcc -static -Os -s -o "$work/hello/hello" "$top/scripts/hello.c"
	ln -s "$images/debian" "$work/debian-image"
	"$top/scripts/bench-plan.sh" runs qemu "$work" '' "$small" "$kernel" >"$work/plan"
	"$work/timeline" "$runs" "$work/plan" >"$work/phases"
	{
		printf 'engine\tkernel\timage\tphase\tms\n'
		sed 's/debian-image/Debian/' "$work/phases"
	} | table timeline-qemu "medians of $runs rounds in turn, wall time, the guest is emulated"
}

ports() {
	local size sizes='1048576 4194304 16777216 67108864'
	for size in $sizes; do head -c "$size" /dev/urandom >"$work/blob.$size"; done
	ln -s "$images/libs" "$work/libs"
	# shellcheck disable=SC2086 # a list of numbers
	PORTS_MOST=4194304 "$top/scripts/bench-plan.sh" ports qemu "$work" $sizes >"$work/plan"
	"$work/timeline" "$runs" "$work/plan" >"$work/phases"
	NOISE=0.05 "$top/scripts/bench-plan.sh" speeds <"$work/phases" |
		table ports-qemu "medians of $runs rounds in turn, wall time above that of a run that carries nothing, the guest is emulated"
}

case ${1:-both} in phases | both) phases ;; esac
case ${1:-both} in ports | both) ports ;; esac
