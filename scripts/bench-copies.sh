#!/usr/bin/env bash
# What files in and out cost, side by side in one run, in turn: each figure is the best of ROUNDS (3), in benches/results/copies.tsv.
#
#   scripts/bench-copies.sh [IMAGES]     (default target/images; RDVM names the program, default target/release/rdvm)
#
# 1. 64 MiB out: by standard output, and by --copy-out (time from the command's end to ours); the second by the ports too, where
#    the kernel gives PID 1 no /dev/mem.
# 2. 64 MiB in by standard input.
# 3. 10,000 files in: a run with --copy-in against one without, beside rdvm pack of the same files.
# 4. Ctrl-C (SIGINT) to the end of rdvm, while the command floods standard output and while it sleeps.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
image=$(realpath "${1:-$top/target/images}")/libs
rdvm=$(realpath "${RDVM:-${CARGO_TARGET_DIR:-$top/target}/release/rdvm}")
rounds=${ROUNDS:-3} mib=${MIB:-64}
out=$(mktemp -d "${TMPDIR:-/tmp}/rdvm-bench.XXXXXX")
trap 'rm -rf --one-file-system "$out"' EXIT
cd "$out"
head -c $((mib << 20)) /dev/urandom >blob
mkdir many
awk 'BEGIN { for (i = 0; i < 10000; i++) { name = "many/file" i; printf "%s %d\n", "content of", i >name; close(name) } }'

# phase NAME: milliseconds of a phase of the last run's report.
phase() {
	awk -v name="\"$1\":" '$1 == name { sub(",", "", $2); print $2 }' report
}

# run ARGUMENTS...: with a report.
run() {
	"$rdvm" run -q --report report "$@"
}

# best NAME MILLISECONDS: keeps the least of each.
declare -A least
best() {
	if [ -z "${least[$1]:-}" ] || awk "BEGIN { exit !($2 < ${least[$1]}) }"; then least[$1]=$2; fi
}

# interrupt NAME COMMAND...: SIGINT when it has printed something; how long rdvm then takes.
interrupt() {
	local name=$1 from=0 pid
	shift
	mkfifo fifo
	"$rdvm" run -q "$image" -- "$@" >fifo 2>/dev/null &
	pid=$!
	exec 3<fifo
	head -c 1 <&3 >/dev/null
	from=${EPOCHREALTIME//[!0-9]/}
	kill -INT $pid
	wait $pid || :
	best "$name" "$(awk -v us=$((${EPOCHREALTIME//[!0-9]/} - from)) 'BEGIN { print us / 1e3 }')"
	exec 3<&-
	rm fifo
}

for _ in $(seq "$rounds"); do
	run --copy-in blob:/blob "$image" -- busybox cat /blob >seen
	cmp seen blob
	best stdout "$(phase command)"
	run --copy-in blob:/blob --copy-out /blob:seen "$image" -- busybox true
	cmp seen blob
	best copy-out "$(phase stop)"
	run -i "$image" -- busybox sha256sum <blob >/dev/null
	best stdin "$(phase command)"
	run --copy-in blob:/blob "$image" -- busybox sha256sum /blob >/dev/null
	best sum "$(phase command)"
	run "$image" -- busybox true
	best plain "$(phase pack)"
	run --copy-in many:/many "$image" -- busybox true
	best copy-in "$(phase pack)"
	from=${EPOCHREALTIME//[!0-9]/}
	"$rdvm" pack -o many.cpio many
	best pack "$(awk -v us=$((${EPOCHREALTIME//[!0-9]/} - from)) 'BEGIN { print us / 1e3 }')"
	interrupt flood busybox yes
	interrupt sleep busybox sh -c 'echo on; sleep 1000'
done

mbs() { awk "BEGIN { printf \"%.1f MB/s\", $mib * 1.048576 * 1e3 / $1 }"; }
{
	printf '# kind: least of %s rounds in turn, wall time, the default engine and kernel\n' "$rounds"
	"$top/scripts/bench-head.sh"
	printf 'what\tfigure\n'
	while read -r figure unit what; do printf '%s\t%s %s\n' "$what" "$figure" "$unit"; done <<TABLE
$(mbs "${least[stdout]}") $mib MiB out by standard output
$(mbs "${least[copy-out]}") $mib MiB out by \`--copy-out\`
$(mbs "${least[stdin]}") $mib MiB in by \`-i\`, through sha256sum
$(mbs "${least[sum]}") $mib MiB through sha256sum from a file in the guest
${least[plain]} ms host's side of a run
${least[copy-in]} ms host's side of a run with 10,000 files copied in
${least[pack]} ms \`rdvm pack\` of the same files
${least[flood]} ms Ctrl-C to the end, the command floods
${least[sleep]} ms Ctrl-C to the end, the command sleeps
TABLE
} >table
cp table "$top/benches/results/copies.tsv"
cat table
