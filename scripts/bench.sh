#!/usr/bin/env bash
# Compares rdvm, side by side in one run, with what one would use instead:
#
#   packing      find | sort | cpio, bsdcpio and GNU tar, on the debian image and on 50,000 small files
#   a whole run  the cookbook's recipe (cookbook.sh) with the same tree and kernel, on both images
#
#   scripts/bench.sh [pack|run]     (default both; IMAGES, RDVM, KERNEL name what is not below target and /boot, RUNS how often)
#
# Leaves medians in benches/results/packing.tsv and runs.tsv; the files are in the page cache, output goes to a file in TMPDIR.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
images=$(realpath "${IMAGES:-$top/target/images}")
rdvm=$(realpath "${RDVM:-${CARGO_TARGET_DIR:-$top/target}/release/rdvm}")
kernel=${KERNEL:-$(find /boot -maxdepth 1 -name 'vmlinuz-*' -readable | sort -V | tail -n 1)}
runs=${RUNS:-10}
work=$(mktemp -d "${TMPDIR:-/tmp}/rdvm-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
[ -n "$kernel" ] || { echo 'bench: no readable kernel in /boot; name one with KERNEL=FILE' >&2; exit 1; }

# measure ROW COMMAND: runs it once; adds its wall and CPU seconds (its children's too) to the row's file.
measure() {
	local TIMEFORMAT='%R %U %S'
	{ time bash -c "$2" </dev/null >"$work/out" 2>"$work/log"; } 2>"$work/time" || { cat "$work/log" >&2; exit 1; }
	cat "$work/time" >>"$work/row.$1"
}

# median: the middle one of the numbers on stdin.
median() { sort -n | awk '{ n[NR] = $1 } END { print (n[int((NR + 1) / 2)] + n[int(NR / 2) + 1]) / 2 }'; }

# compare TASK NAME COMMAND [NAME COMMAND...]: rows of medians; ratios are to the last row, and below 1 is faster.
# The commands take turns, in reverse order in every second round, so that a busy machine slows all of them alike.
compare() {
	local title=$1 names=() commands=() round turn row wall cpu reference
	shift
	while [ $# -gt 0 ]; do
		names+=("$1") commands+=("$2")
		shift 2
	done
	local last=$((${#names[@]} - 1))
	rm -f "$work"/row.*
	for round in $(seq 0 "$runs"); do
		for turn in "${!names[@]}"; do
			row=$((round % 2 ? last - turn : turn))
			measure "$row" "${commands[row]}"
		done
		[ "$round" -gt 0 ] || rm "$work"/row.* # the first round only warms the caches
	done
	reference="$(cut -d' ' -f1 "$work/row.$last" | median) $(awk '{ print $2 + $3 }' "$work/row.$last" | median)"
	for row in "${!names[@]}"; do
		wall=$(cut -d' ' -f1 "$work/row.$row" | median)
		cpu=$(awk '{ print $2 + $3 }' "$work/row.$row" | median)
		echo "$wall $cpu $reference $(sort -n "$work/row.$row" | awk 'NR == 1 { a = $1 } END { print a, $1 }')" |
			awk -v OFS='\t' -v name="${names[row]}" -v task="$title" '{ printf "%s\t%s\t%.0f\t%.0f..%.0f\t%.0f\t%.2f\t%.2f\n",
				name, task, $1 * 1000, $5 * 1000, $6 * 1000, $2 * 1000, $1 / $3, $2 / $4 }'
	done
}

# packing TASK DIR
packing() {
	compare "$1" \
		'rdvm pack' "$rdvm pack $2 -o $work/packed" \
		'GNU tar' "tar -C $2 --sort=name -cf $work/packed ." \
		'find, sort, bsdcpio' "cd $2 && find . -print0 | LC_ALL=C sort -z | bsdcpio -0 -o -H newc --quiet >$work/packed" \
		'find, sort, cpio' "cd $2 && find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc --quiet >$work/packed"
}

# runs IMAGE: rdvm as it comes, with the small kernel where that is built, and with the cookbook's kernel.
runs() {
	compare "$1" \
		'rdvm run' "timeout 120 $rdvm run --engine qemu $images/$1" \
		"rdvm run, Debian's kernel" "timeout 120 $rdvm run --engine qemu --kernel $kernel $images/$1" \
		'the cookbook' "$top/scripts/cookbook.sh $images/$1 $kernel"
}

# table NAME: the rows on stdin as results.
table() {
	{
		printf '# kind: medians of %s rounds in turn, wall and CPU time of all processes; in CPU time the guest, emulated\n' "$runs"
		KERNEL=$kernel "$top/scripts/bench-head.sh"
		printf 'what\ttask\twall, ms\tleast..most\tCPU, ms\twall ratio\tCPU ratio\n'
		cat
	} >"$work/table"
	cp "$work/table" "$top/benches/results/$1.tsv"
	cat "$work/table"
}

case ${1:-both} in pack | both)
	small=$work/small
	mkdir "$small"
	for directory in $(seq 250); do
		mkdir "$small/$directory"
		(cd "$small/$directory" && seq 200 | split -l 1 -a 3 - file)
	done
	{
		packing 'the Debian image' "$images/debian"
		packing '50,000 small files' "$small"
	} | table packing
	;;
esac
case ${1:-both} in run | both) for image in libs debian; do runs "$image"; done | table runs ;; esac
