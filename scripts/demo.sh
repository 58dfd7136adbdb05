#!/usr/bin/env bash
# Runs both images of the reference scenario in a chroot and in rdvm, from the same directory, and compares.
#
#   scripts/demo.sh [IMAGES]     (default target/images; RDVM names the program, default target/release/rdvm)
#
# Exit code 0: both images gave the same output and exit code in both places.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
top=$(cd "$(dirname "$0")/.." && pwd)
images=${1:-$top/target/images}
rdvm=${RDVM:-${CARGO_TARGET_DIR:-$top/target}/release/rdvm}
work=$(mktemp -d "${TMPDIR:-/tmp}/rdvm-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT

rule() { printf '%s\n' '-------------------------------------------------------------------------------'; }

# How to get a chroot here. Some systems deny user namespaces to all but root.
if unshare -r chroot / true 2>/dev/null; then
	chroot=(unshare -r chroot)
elif [ "$(id -u)" = 0 ]; then
	chroot=(chroot)
	echo 'demo: user namespaces are off here; using a plain chroot'
elif command -v sudo >/dev/null; then
	chroot=(sudo chroot)
	echo 'demo: user namespaces are off here; using chroot through sudo'
else
	echo 'demo: neither user namespaces nor root here, so there is no chroot to compare with' >&2
	exit 1
fi

# timed NAME COMMAND...: keeps NAME.out, NAME.err, NAME.code and NAME.seconds.
timed() {
	local name=$1 start code=0 end
	shift
	start=${EPOCHREALTIME//[!0-9]/}
	timeout -k 5 300 "$@" </dev/null >"$work/$name.out" 2>"$work/$name.err" || code=$?
	end=${EPOCHREALTIME//[!0-9]/}
	echo "$code" >"$work/$name.code"
	awk -v us=$((end - start)) 'BEGIN { printf "%.3f\n", us / 1e6 }' >"$work/$name.seconds"
}

# column NAME TITLE: one half of the screen.
column() {
	printf '%s\n' "$2" ''
	fold -s -w 37 "$work/$1.out"
	printf '\n%s\n' "exit code $(cat "$work/$1.code"), $(cat "$work/$1.seconds") s"
}

# What the plan in a file says of the RAM in all.
planned_ram() {
	grep -i -E '\<(ram|memory)\>' "$1" | grep -o -E '[0-9]+(\.[0-9]+)? ?[KMG](iB|B)?\>' | head -n 1 || echo '?'
}

differ=0
printf '\nrdvm runs a directory as a machine of its own. Two images, each in two ways:\n'
for image in libs debian; do
	directory=$images/$image
	[ -d "$directory" ] || { echo "demo: $directory is missing; run 'make images'" >&2; exit 1; }
	rule
	printf 'image %s: %s\n\n' "$image" "${directory/#"$PWD/"/}"
	"$rdvm" inspect "$directory" >"$work/plan" || { echo "demo: rdvm inspect failed" >&2; exit 1; }
	sed 's/^/  /' "$work/plan"
	echo
	timed "$image.chroot" "${chroot[@]}" "$directory" /init
	timed "$image.rdvm" "$rdvm" run "$directory"
	column "$image.chroot" "${chroot[*]} DIR /init" >"$work/left"
	column "$image.rdvm" "rdvm run DIR" >"$work/right"
	pr -m -t -w 76 "$work/left" "$work/right" | expand | sed 's/^/  /; s/ *$//'
	for side in chroot rdvm; do
		if [ -s "$work/$image.$side.err" ]; then
			printf '\n  stderr of %s:\n' "$side"
			sed 's/^/    /' "$work/$image.$side.err"
		fi
	done
	same=yes
	for part in out code; do
		if ! diff -u --label "$image in a chroot" --label "$image in rdvm" \
			"$work/$image.chroot.$part" "$work/$image.rdvm.$part" >"$work/difference"; then
			same=no differ=1
			printf '\n  The %s differs:\n' "${part/#out/stdout}"
			sed 's/^/    /' "$work/difference"
		fi
	done
	if [ "$(cat "$work/$image.chroot.code")" != 0 ]; then
		differ=1
		printf '\n  /init fails, already in the chroot.\n'
	fi
	printf '%-10s %9s %9s %11s   %s\n' "$image" "$(cat "$work/$image.chroot.seconds")" \
		"$(cat "$work/$image.rdvm.seconds")" "$(planned_ram "$work/plan")" "$same" >>"$work/table"
done
rule
printf '%-10s %9s %9s %11s   %s\n' image 'chroot s' 'rdvm s' 'guest RAM' 'same output'
cat "$work/table"
rule
if [ "$differ" = 0 ]; then
	printf 'Next:  %s run --timings %s -- sh -c "id; uname -r"\n\n' \
		"${rdvm/#"$PWD/"/}" "${images/#"$PWD/"/}/debian"
fi
exit "$differ"
