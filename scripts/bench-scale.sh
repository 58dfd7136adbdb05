#!/usr/bin/env bash
# What packing and running cost over the number of files and over bytes, far beyond what images have: benches/results/scale.tsv.
#
#   scripts/bench-scale.sh     (RDVM names the program, default target/release/rdvm; TMPDIR where there are 4 GiB and a million inodes)
#
# FILES (1000 10000 100000 1000000) and MIB (16 64 256 1024 2048) are the sizes. Packing is the least CPU time of ROUNDS (3), to a
# file in /dev/shm, from a warm cache. Runs in QEMU are CPU time too, up to QEMU_FILES (100000) and QEMU_MIB (2048), for a guest
# of a million files is emulated for minutes; runs on KVM are counted in the rig, up to KVM_FILES and KVM_MIB of the same. From
# both the run of a single program is taken away. Some ten minutes.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
rdvm=$(realpath "${RDVM:-${CARGO_TARGET_DIR:-$top/target}/release/rdvm}")
rounds=${ROUNDS:-3}
work=$(mktemp -d "${TMPDIR:-/var/tmp}/rdvm-scale.XXXXXX")
packed=/dev/shm/${work##*/}.cpio
trap 'rm -rf --one-file-system "$work" "$packed"' EXIT
say() { printf 'bench-scale: %s\n' "$*" >&2; }

# cpu COMMAND...: milliseconds of user and system time, its children's too.
cpu() {
	local TIMEFORMAT='%U %S'
	{ time "$@" </dev/null >/dev/null 2>"$work/log"; } 2>"$work/time" || { cat "$work/log" >&2; say "failed: $*"; exit 1; }
	awk '{ print ($1 + $2) * 1000 }' "$work/time"
}

least() { sort -g | head -n 1; }
packing() { for _ in $(seq "$rounds"); do cpu "$rdvm" pack -o "$packed" "$1"; done | least; }
running() { for _ in $(seq "$rounds"); do touched "$2"; cpu "$rdvm" run -q --engine qemu "$1" /hello; done | least; }

# touched MIB: has memory for a run of so many MiB touched and given back. Where this machine is itself a virtual one, what it has not
# used for a while is not there, and each first touch costs ten times what a page of its own kernel does.
touched() {
	head -c $((${1%.*} * 3 + 1024))M /dev/zero >"$packed"
	rm "$packed"
}

# files COUNT: that many of ten bytes, 250 in a directory.
files() {
	mkdir "$work/tree"
	(cd "$work/tree" && seq 0 $((($1 - 1) / 250)) | xargs mkdir && awk -v count="$1" 'BEGIN {
		for (at = 0; at < count; at++) { name = int(at / 250) "/file" at; printf "%09d\n", at >name; close(name) } }')
}

# bytes MIB: in eight files, of bytes that nothing can leave out.
bytes() {
	mkdir "$work/tree"
	for part in 1 2 3 4 5 6 7 8; do head -c $(($1 << 17)) /dev/urandom >"$work/tree/$part"; done
}

# measure OVER FILES MIB: a row of $work/rows, of the tree that was made.
measure() {
	local pack run=-
	cp "$work/hello/hello" "$work/tree"
	pack=$(packing "$work/tree")
	if [ "$2" -le "${QEMU_FILES:-100000}" ] && [ "${3%.*}" -le "${QEMU_MIB:-2048}" ]; then
		run=$(running "$work/tree" "$3" | awk -v hello="$hello" '{ print ($1 > hello ? $1 - hello : 0) }')
	fi
	if [ "$1" = entries ] && [ "$2" -le "${KVM_FILES:-100000}" ]; then "$rdvm" pack -o "$work/archives/$2.cpio" "$work/tree"; fi
	printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$pack" "$run" | tee -a "$work/rows" >&2
	rm -rf "$work/tree"
}

mkdir "$work/hello" "$work/archives"
gcc -static -Os -s -o "$work/hello/hello" "$top/scripts/hello.c"
hello=$(running "$work/hello" 1)
for count in ${FILES:-1000 10000 100000 1000000}; do
	files "$count"
	measure entries "$count" "$(awk -v count="$count" 'BEGIN { printf "%.2f", count * 10 / 1048576 }')"
done
for mib in ${MIB:-16 64 256 1024 2048}; do
	bytes "$mib"
	measure bytes 8 "$mib"
done
mib=$(for mib in ${MIB:-16 64 256 1024 2048}; do [ "$mib" -gt "${KVM_MIB:-1024}" ] || echo "$mib"; done)
if ! KVM_MIB=$mib "$top/scripts/rig.sh" scale "$work/archives" "$work/kvm"; then
	say 'the rig gave no figures: those on KVM are missing'
	: >"$work/kvm"
fi
{
	printf '# kind: packing and QEMU: least CPU time of %s rounds; KVM: counted instructions in the rig\n' "$rounds"
	"$top/scripts/bench-head.sh"
	printf 'over\tentries\tMiB\tpack, CPU ms\tboot in QEMU, CPU ms\tboot on KVM, ms\n'
	awk -F'\t' -v OFS='\t' '
		FILENAME == ARGV[1] { counted[$1, $2] = $3; next }
		{ key = $1 == "entries" ? $2 : $3; print $0, ($1, key) in counted ? counted[$1, key] : "-" }' "$work/kvm" "$work/rows"
} >"$top/benches/results/scale.tsv"
cat "$top/benches/results/scale.tsv"
