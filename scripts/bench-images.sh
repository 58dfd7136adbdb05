#!/usr/bin/env bash
# What reading images costs, side by side with the usual tools, in one run: each figure is the best of ROUNDS (3), taken in turn,
# in benches/results/images.tsv.
#
#   scripts/bench-images.sh [WORK]     (default target/bench-images; RDVM names the program, default target/release/rdvm)
#
# 1. A docker archive of 8 layers and some 500 MB to an initrd, and to a booted command, against skopeo, umoci and cpio (as root).
# 2. A tar archive of 100,000 entries to an initrd, against GNU tar and GNU cpio.
# 3. gzip, zstd and the cache: the same archive compressed, unpacked by rdvm and by the tools; the second run with --cache.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
top=$(cd "$(dirname "$0")/.." && pwd)
work=$(realpath -m "${1:-$top/target/bench-images}")
rdvm=$(realpath "${RDVM:-${CARGO_TARGET_DIR:-$top/target}/release/rdvm}")
rounds=${ROUNDS:-3}
out=$(mktemp -d "${TMPDIR:-/tmp}/rdvm-bench.XXXXXX")
trap 'rm -rf --one-file-system "$out"' EXIT
[ "$(id -u)" = 0 ] || { echo 'bench-images: umoci unpacks as root only' >&2; exit 1; }

# layers: eight directories of real files, some 62 MB each.
layers() {
	local number=0 size=0 file length
	rm -rf "$work/layers"
	mkdir -p "$work/layers"
	while read -r length file; do
		mkdir -p "$work/layers/$number${file%/*}"
		cp -p "$file" "$work/layers/$number$file"
		size=$((size + length))
		if [ "$size" -gt 65000000 ]; then
			size=0 number=$((number + 1))
			if [ "$number" = 8 ]; then break; fi
		fi
	done < <(find /usr/lib /usr/bin /usr/share -xdev -type f -size -20000k -printf '%s %p\n' | sort -k2)
	rm -rf "$work/layers/8"
}

prepare() {
	local number words=()
	mkdir -p "$work"
	[ -e "$work/made" ] && return
	layers
	mkdir -p "$work/layers/0/bin"
	cp "$(command -v busybox)" "$work/layers/0/bin/busybox"
	ln -s busybox "$work/layers/0/bin/true"
	for number in 1 2 3 4 5 6 7; do words+=(--layer "$work/layers/$number"); done
	"$rdvm" pack --format docker --tag bench:latest -o "$work/app.tar" "${words[@]}" "$work/layers/0"
	"$rdvm" pack --format docker --compress gzip --tag bench:latest -o "$work/app.gz.tar" "${words[@]}" "$work/layers/0"
	rm -rf "$work/many"
	mkdir -p "$work/many"
	for number in $(seq 0 99); do mkdir -p "$work/many/d$number"; done
	awk 'BEGIN { for (i = 0; i < 100000; i++) { name = ENVIRON["MANY"] "/d" i % 100 "/file" i; printf "%s %d\n", "content of", i >name; close(name) } }'
	tar -C "$work/many" -cf "$work/many.tar" .
	touch "$work/made"
}

# seconds COMMAND...: how long it takes.
seconds() {
	local start=${EPOCHREALTIME//[!0-9]/}
	"$@" >/dev/null 2>"$out/err" </dev/null || { cat "$out/err" >&2; echo "bench-images: failed: $*" >&2; exit 1; }
	awk -v us=$((${EPOCHREALTIME//[!0-9]/} - start)) 'BEGIN { printf "%.3f", us / 1e6 }'
}

# best NAME COMMAND...: keeps the least time in $out/NAME.
best() {
	local name=$1 now
	shift
	now=$(seconds "$@")
	if [ ! -e "$out/$name" ] || awk -v a="$now" -v b="$(cat "$out/$name")" 'BEGIN { exit !(a < b) }'; then echo "$now" >"$out/$name"; fi
}

line() { awk -v what="$1" -v a="$(cat "$out/$2")" -v b="$(cat "$out/$3")" 'BEGIN { printf "%s\t%.2f\t%.2f\t%.1f\n", what, a, b, b / a }'; }

ours_initrd() { "$rdvm" pack -o "$out/ours.cpio" "$1"; }
theirs_initrd() {
	rm -rf "$out/oci" "$out/bundle"
	skopeo copy --quiet "docker-archive:$1" "oci:$out/oci:bench" && umoci unpack --image "$out/oci:bench" "$out/bundle" &&
		cd "$out/bundle/rootfs" && find . | sort | cpio --quiet -o -H newc >"$out/theirs.cpio"
}
ours_boot() { "$rdvm" run --engine qemu -m 2g "$1" /bin/true; }
theirs_boot() { theirs_initrd "$1" && "$rdvm" run --engine qemu -m 2g "$out/bundle/rootfs" /bin/true; }
theirs_many() {
	rm -rf "$out/many"
	mkdir "$out/many"
	tar -C "$out/many" -xf "$work/many.tar" && cd "$out/many" && find . | sort | cpio --quiet -o -H newc >"$out/many.cpio"
}
cached() { "$rdvm" run --engine qemu --cache -m 2g "$1" /bin/true; }

MANY=$work/many prepare
printf '%s, %s layers, %s\n' "$(du -h "$work/app.tar" | cut -f1)" 8 "$(nproc) CPUs"
for ((round = 0; round < rounds; round++)); do
	best ours ours_initrd "$work/app.tar"
	best theirs theirs_initrd "$work/app.tar"
	best ours.gz ours_initrd "$work/app.gz.tar"
	best theirs.gz theirs_initrd "$work/app.gz.tar"
	best ours.many ours_initrd "$work/many.tar"
	best theirs.many theirs_many
	best ours.boot ours_boot "$work/app.tar"
	best theirs.boot theirs_boot "$work/app.tar"
	best ours.gz.boot ours_boot "$work/app.gz.tar"
	best cached.gz.boot cached "$work/app.gz.tar"
done
{
	printf '# kind: least wall time of %s rounds in turn\n' "$rounds"
	"$top/scripts/bench-head.sh"
	printf 'what\trdvm, s\tothers, s\tratio\n'
	line 'docker archive to an initrd, against skopeo, umoci, find, sort, cpio' ours theirs
	line 'the same, layers compressed with gzip' ours.gz theirs.gz
	line '100,000 entries in a tar to an initrd, against GNU tar and GNU cpio' ours.many theirs.many
	line 'docker archive to a booted command, in QEMU' ours.boot theirs.boot
	line 'compressed, to a booted command: with `--cache`, second run, against without' cached.gz.boot ours.gz.boot
} >"$out/table"
cp "$out/table" "$top/benches/results/images.tsv"
cat "$out/table"
