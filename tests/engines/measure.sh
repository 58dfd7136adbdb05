#!/usr/bin/env bash
# measure.sh RDVM [ROUNDS]: the time from create to exit of `true` in each engine with each runtime, in turn, inside enter.sh.
#
# Prints a table for benches/results/engines.tsv: seconds, sorted. gVisor's runsc takes part where it is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
rdvm=$1 rounds=${2:-5}
lab=${RDVM_ENGINES_LAB:?tests/engines/enter.sh runs this}
mkdir -p /usr/local/bin /usr/local/lib/rdvm /etc/containers/containers.conf.d "$lab/image/bin"
rm -f /usr/local/bin/rdvm /usr/local/bin/rdvm-oci
cp "$rdvm" /usr/local/bin/rdvm
ln -s rdvm /usr/local/bin/rdvm-oci
cp "$RDVM_ENGINES_KERNEL" /usr/local/lib/rdvm/vmlinux
cp examples/engines/podman/containers.conf /etc/containers/containers.conf.d/rdvm.conf
printf '[containers]\ndefault_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n' \
	>/etc/containers/containers.conf.d/zz-lab.conf
cp /bin/busybox "$lab/image/bin"
ln -s busybox "$lab/image/bin/true"

image=docker.io/library/applets:1
rdvm pack --format docker --tag "$image" --cmd true -o "$lab/image.tar" "$lab/image" 2>/dev/null
podman load -q -i "$lab/image.tar" >/dev/null
containerd >"$lab/containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.2; done
ctr images import "$lab/image.tar" >/dev/null

# timed NAME COMMAND...: appends the seconds that it takes; any failure ends the measurement.
timed() {
	local name=$1 start=$EPOCHREALTIME
	shift
	"$@" >"$lab/out" 2>&1 </dev/null || { cat "$lab/out" >&2; exit 1; }
	awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f\n", b - a }' >>"$lab/times.$name"
}
podman_run() { podman --runtime "$@" run --rm --network=none --pull=never "$image" true; }
number=0
ctr_run() { number=$((number + 1)); ctr run --rm "$@" "$image" "measured-$number" true; }
initialised() {
	local id
	id=$(podman --runtime rdvm create --network=none --pull=never "$image" true)
	podman --runtime rdvm container init "$id" >/dev/null
	sleep 2 # the machine has booted by now
	timed podman-rdvm-start podman --runtime rdvm start -a "$id"
	podman --runtime rdvm rm "$id" >/dev/null
}

for ((round = 0; round <= rounds; round++)); do
	timed rdvm rdvm run -q "$lab/image" true
	timed podman-rdvm podman_run rdvm
	initialised
	timed podman-runc podman_run runc
	if command -v runsc >/dev/null; then timed podman-runsc podman_run runsc --runtime-flag network=none --runtime-flag ignore-cgroups; fi
	timed ctr-rdvm ctr_run --runc-binary /usr/local/bin/rdvm-oci
	timed ctr-runc ctr_run
	# The first round fills caches.
	[ "$round" != 0 ] || rm "$lab"/times.*
done

printf '# kind: wall time from create to exit of true, s, %d rounds in turn, sorted; an image of one file; without KVM\n' "$rounds"
printf '# date: %s\n' "$(date -u +%F)"
printf '# machine: %d CPUs, load %s\n' "$(nproc)" "$(cut -d' ' -f1 /proc/loadavg)"
printf '# with: Linux %s, %s\n' "$(uname -r)" \
	"$(dpkg-query -W -f '${Package} ${Version}, ' podman containerd runc runsc qemu-system-x86 2>/dev/null | sed 's/, $//')"
printf 'way\tseconds\n'
for name in rdvm podman-rdvm podman-rdvm-start podman-runc podman-runsc ctr-rdvm ctr-runc; do
	[ ! -e "$lab/times.$name" ] || printf '%s\t%s\n' "$name" "$(sort -n "$lab/times.$name" | paste -sd ' ')"
done
