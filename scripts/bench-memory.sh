#!/usr/bin/env bash
# What machines need of memory: planned against least RAM by bisection with both kernels (some twenty minutes), and many machines
# of one image at once. Leaves benches/results/memory.tsv, density.tsv and starts.tsv.
#
#   scripts/bench-memory.sh [ram|density]     (default both; IMAGES and KERNEL name what is not below target and /boot)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
export RDVM_TEST_IMAGES=${IMAGES:-$top/target/images}
kernel=${KERNEL:-$(find /boot -maxdepth 1 -name 'vmlinuz-*' -readable | sort -V | tail -n 1)}
small=${XDG_CACHE_HOME:-$HOME/.cache}/rdvm/kernel/vmlinux
work=$(mktemp -d "${TMPDIR:-/tmp}/rdvm-memory.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
cd "$top"

# table NAME KIND: stdin as results.
table() {
	{
		printf '# kind: %s\n' "$2"
		KERNEL=$kernel scripts/bench-head.sh
		cat
	} >"$work/table"
	cp "$work/table" "benches/results/$1.tsv"
	cat "$work/table"
}

# ram: the bench fails when a plan is too large, which is no reason not to show it.
ram() {
	local name file failed=0
	printf 'image\tkernel\tinitrd MiB\tplanned MiB\tneed MiB\tleast with room MiB\tleast that boots MiB\n' >"$work/all"
	while read -r file name; do
		[ -e "$file" ] || continue
		RDVM_KERNEL=$file RDVM_MEMORY_TSV=$work/one cargo bench --quiet --bench memory >&2 || failed=1
		awk -F'\t' -v OFS='\t' -v kernel="$name" 'NR > 1 { print $1, kernel, $2, $3, $4, $5, $6 }' "$work/one" >>"$work/all"
	done <<-KERNELS
		$small small kernel
		$kernel Debian's kernel
	KERNELS
	table memory 'least RAM found by bisection to the mebibyte' <"$work/all"
	return "$failed"
}

# density: of the two tables that the script leaves in one file, the second begins below an empty line.
density() {
	TSV=$work/both scripts/bench-density.sh "$RDVM_TEST_IMAGES"
	awk '/^$/ { exit } { print }' "$work/both" |
		sed '1s/.*/mode\tmachines\tMiB (PSS) for each further machine/' | table density 'PSS of rdvm and QEMU, commands that wait; the Debian image without documents (107 MB)'
	awk 'seen { print } /^$/ { seen = 1 }' "$work/both" |
		sed '1s/.*/mode\timage\tat a time\tmachines per second/' | table starts 'wall time; true in the libs image, and in the Debian image of 107 MB'
}

case ${1:-both} in ram | both) ram ;; esac
case ${1:-both} in density | both) density ;; esac
