#!/usr/bin/env bash
# Compares rdvm, side by side in one run, with what one would use instead:
#
#   packing      find | sort | cpio, bsdcpio and GNU tar, on the debian image and on 50,000 small files
#   a whole run  the cookbook's recipe (cookbook.sh) with the same tree and kernel, on both images
#
#   scripts/bench.sh [IMAGES]     (default target/images; RDVM names the program, KERNEL the kernel, RUNS how often)
#
# Prints Markdown tables; the files are in the page cache, output goes to a file in TMPDIR.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
images=$(realpath "${1:-$top/target/images}")
rdvm=$(realpath "${RDVM:-${CARGO_TARGET_DIR:-$top/target}/release/rdvm}")
kernel=${KERNEL:-$(find /boot -maxdepth 1 -name 'vmlinuz-*' -readable | sort -V | tail -n 1)}
runs=${RUNS:-10}
work=$(mktemp -d "${TMPDIR:-/tmp}/rdvm-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
[ -n "$kernel" ] || { echo 'bench: no readable kernel in /boot; name one with KERNEL=FILE' >&2; exit 1; }

# compare TITLE NAME COMMAND [NAME COMMAND...]: hyperfine's table; the first command is the measure of the others.
compare() {
	local title=$1 arguments=()
	shift
	while [ $# -gt 0 ]; do
		arguments+=(--command-name "$1" "$2")
		shift 2
	done
	printf '\n### %s\n\n' "$title"
	hyperfine --style none --warmup 2 --runs "$runs" --export-markdown "$work/table.md" "${arguments[@]}" \
		</dev/null >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
	cat "$work/table.md"
}

# packing TITLE DIR
packing() {
	compare "packing $1" \
		'rdvm pack' "$rdvm pack $2 -o $work/packed" \
		'find, sort, cpio' "cd $2 && find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc --quiet >$work/packed" \
		'find, sort, bsdcpio' "cd $2 && find . -print0 | LC_ALL=C sort -z | bsdcpio -0 -o -H newc --quiet >$work/packed" \
		'GNU tar' "tar -C $2 --sort=name -cf $work/packed ."
}

small=$work/small
mkdir "$small"
for directory in $(seq 250); do
	mkdir "$small/$directory"
	(cd "$small/$directory" && seq 200 | split -l 1 -a 3 - file)
done

printf '%s, %d cpus, %s, kernel %s\n' "$(uname -sr)" "$(nproc)" "$(qemu-system-x86_64 --version | head -n 1)" "${kernel##*/}"
packing 'the debian image' "$images/debian"
packing '50,000 small files' "$small"
for image in libs debian; do
	compare "a whole run of $image" \
		'rdvm run' "timeout 120 $rdvm run --engine qemu --kernel $kernel $images/$image" \
		'the cookbook' "$top/scripts/cookbook.sh $images/$image $kernel"
done
