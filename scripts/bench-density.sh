#!/usr/bin/env bash
# Many machines of one image: what each further one takes of the host's memory, and how many start in a second.
#
#   scripts/bench-density.sh [IMAGES]     (default target/images; RDVM names the program, default target/release/rdvm)
#
# Variables: ENGINE (qemu); MACHINES (100 that share, 10 others), how many are there at once for the memory; RUNS (24), how many are
# started for the rates; MODES ("default share"); TSV (benches/density.tsv), where the figures go besides the tables on standard
# output.
#
# Memory: machines of the Debian image without documents and apt's lists (107 MB) whose command has started and waits, one after
# another. What is counted is PSS of rdvm and QEMU: what a process has for itself, and its part of what it shares. A further
# machine takes (all of N - all of one) / (N - 1). Stops before less than 2 GiB are available.
#
# Rates: machines of the libs image whose command is busybox's true, so many at a time, from the first start to the last end; and
# for what sharing costs, the Debian image one at a time.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
images=$(realpath "${1:-$top/target/images}")
rdvm=$(realpath "${RDVM:-${CARGO_TARGET_DIR:-$top/target}/release/rdvm}")
engine=${ENGINE:-qemu} runs=${RUNS:-24} modes=${MODES:-default share}
tsv=${TSV:-$top/benches/density.tsv}
out=$(mktemp -d "${TMPDIR:-/tmp}/rdvm-density.XXXXXX")
pids=()

stop() {
	exec 9>&-
	[ ${#pids[@]} = 0 ] || wait "${pids[@]}" || :
	pids=()
}

trap 'stop 2>/dev/null; rm -rf --one-file-system "$out"' EXIT

# options MODE: what rdvm is given for it.
options() {
	[ "$1" = default ] || echo "--$1"
}

# available: MiB that the host could give out.
available() {
	awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo
}

# pss: MiB of all machines and of the rdvm beside each.
pss() {
	local pid
	for pid in "${pids[@]}"; do
		cat "/proc/$pid/smaps_rollup"
		for child in $(cat "/proc/$pid/task/$pid/children"); do cat "/proc/$child/smaps_rollup"; done
	done | awk '/^Pss:/ { sum += $2 } END { printf "%.1f", sum / 1024 }'
}

# machine MODE NUMBER: starts one and waits until its command runs.
machine() {
	: >"$out/said.$2"
	# shellcheck disable=SC2046 # a list of words
	"$rdvm" run -q -i --engine "$engine" $(options "$1") "$out/debian" -- sh -c 'echo here; cat' \
		<"$out/input" >"$out/said.$2" 2>"$out/errors.$2" 9>&- &
	pids+=($!)
	while ! grep -q here "$out/said.$2"; do
		kill -0 "${pids[-1]}" 2>/dev/null || { cat "$out/errors.$2" >&2; exit 1; }
		sleep 0.1
	done
}

# memory MODE: a line of the table.
memory() {
	local number before first all further machines=${MACHINES:-10}
	[ "$1" != share ] || machines=${MACHINES:-100}
	rm -f "$out/input"
	mkfifo "$out/input"
	exec 9<>"$out/input"
	machine "$1" 0
	first=$(pss)
	before=$(available)
	for number in $(seq 1 $((machines - 1))); do
		[ "$(available)" -gt 2048 ] || { echo "$number machines: less than 2 GiB are left" >&2; break; }
		machine "$1" "$number"
	done
	all=$(pss)
	number=$((${#pids[@]} - 1))
	further=$(awk -v a="$all" -v b="$first" -v n="$number" 'BEGIN { printf "%.1f", (a - b) / n }')
	echo "| $1 | ${#pids[@]} | $first | $further | $(((before - $(available)) / number)) |"
	printf '%s\t%s\t%s\n' "$1" "${#pids[@]}" "$further" >>"$out/memory.tsv"
	# Nobody has the other end open: it is the end of their input.
	stop
}

# rate MODE AT_A_TIME IMAGE COMMAND...: machines a second.
rate() {
	local mode=$1 at_a_time=$2 from
	shift 2
	from=${EPOCHREALTIME//[!0-9]/}
	# shellcheck disable=SC2046 # a list of words
	seq "$runs" | xargs -P "$at_a_time" -I '{}' "$rdvm" run -q --engine "$engine" $(options "$mode") "$@"
	awk -v us=$((${EPOCHREALTIME//[!0-9]/} - from)) -v runs="$runs" 'BEGIN { printf "%.2f", runs * 1e6 / us }'
}

# rates MODE IMAGE AT_A_TIME... -- WORD...: a line of the table.
rates() {
	local mode=$1 image=$2 at=() line value
	shift 2
	while [ "$1" != -- ]; do
		at+=("$1")
		shift
	done
	shift
	line="| $mode | $image |"
	for at_a_time in "${at[@]}"; do
		value=$(rate "$mode" "$at_a_time" "$@")
		line+=" $value |"
		printf '%s\t%s\t%s\t%s\n' "$mode" "$image" "$at_a_time" "$value" >>"$out/rate.tsv"
	done
	echo "$line"
}

cp -a "$images/debian" "$out/debian"
rm -rf "$out/debian/"{usr/share/doc,usr/share/man,var/cache/apt,var/lib/apt/lists}
echo "engine $engine, $(nproc) CPUs, $(uname -r)"
echo
echo "| mode | machines | the first, MiB (PSS) | each further one, MiB (PSS) | less available, MiB each |"
echo "|---|---|---|---|---|"
printf 'mode\tmachines\tpss_mib_per_machine\n' >"$out/memory.tsv"
for mode in $modes; do memory "$mode"; done
echo
echo "| mode | image | 1 at a time | 2 | 4 | 8 |"
echo "|---|---|---|---|---|---|"
printf 'mode\timage\tat_a_time\tmachines_per_second\n' >"$out/rate.tsv"
for mode in $modes; do rates "$mode" libs 1 2 4 8 -- "$images/libs" -- busybox true; done
for mode in $modes; do rates "$mode" Debian 1 -- "$out/debian" -- true; done
# Two tables, an empty line between them.
{ cat "$out/memory.tsv"; echo; cat "$out/rate.tsv"; } >"$tsv"
