#!/usr/bin/env bash
# Runs a program in a place where container engines can be started without a trace on the host:
#
#   tests/engines/enter.sh PROGRAM [ARGUMENT...]
#
# It has its own mounts, network, processes, host name and shared memory. What is written below /etc, /var, /run and /usr/local
# stays in a tmpfs of its own, and whatever still runs is killed at the end. The network is a loopback interface, and one with
# an address that leads nowhere, since Slurm resolves no name without. /sys/fs/cgroup is a cgroup v2 hierarchy, as on most
# hosts today; RDVM_ENGINES_CGROUP=host leaves the host's own.
#
# When the program has ended, machines, state of the runtime and cgroups of containers that it has left are an error.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

die() { printf 'engines: %s\n' "$*" >&2; exit 1; }

if [ -z "${RDVM_ENGINES_LAB:-}" ]; then
	[ "$(id -u)" = 0 ] || die 'container engines are started as root, and this is not; sudo tests/engines/enter.sh does it'
	export RDVM_ENGINES_LAB=/run/engines
	export RDVM_ENGINES_KERNEL=${RDVM_ENGINES_KERNEL:-${RDVM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rdvm}/kernel/vmlinux}
	exec unshare --mount --net --uts --ipc --pid --fork --kill-child --mount-proc --propagation private "$0" "$@"
fi

lab=$RDVM_ENGINES_LAB
cgroups=/sys/fs/cgroup

# What the program is started from may lie below a directory that is about to be hidden.
mount -t tmpfs -o mode=755,size=75% tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir -p "$lab/tmp" /run/lock /run/user
chmod 1777 "$lab/tmp"
for directory in /etc /var /usr/local; do
	above=$lab/above$directory
	mkdir -p "$above" "$lab/work$directory"
	chmod --reference="$directory" "$above"
	mount -t overlay -o "lowerdir=$directory,upperdir=$above,workdir=$lab/work$directory" overlay "$directory"
done
# A storage driver's overlays cannot lie on another overlay.
for directory in containers containerd docker; do
	mkdir -p "/var/lib/$directory"
	mount -t tmpfs -o mode=755 tmpfs "/var/lib/$directory"
done
if [ "${RDVM_ENGINES_CGROUP:-v2}" = v2 ]; then
	umount -R "$cgroups"
	mount -t cgroup2 cgroup2 "$cgroups"
fi

hostname rdvm-engines
printf '127.0.0.1 localhost rdvm-engines\n' >/etc/hosts
ip link set lo up
ip link add outside type veth peer name inside
ip address add 192.0.2.1/24 dev outside
ip link set outside up
ip link set inside up

code=0
mkdir "$lab/home"
HOME=$lab/home TMPDIR=$lab/tmp "$@" || code=$?

# left WHAT COMMAND: an error when the command still prints something after some seconds.
left() {
	local found='' turn
	for turn in 1 2 3 4 5 6 7 8 9 10; do
		found=$(eval "$2") || true
		[ -n "$found" ] || return 0
		[ "$turn" = 10 ] || sleep 0.5
	done
	printf 'engines: left behind, %s:\n%s\n' "$1" "$found" >&2
	[ "$code" != 0 ] || code=1
}
containers() { find "$cgroups" -type d \( -name 'libpod-*' -o -path '*/docker/*' -o -path '*/default/*' -o -path '*/k8s.io/*' \); }
left machines "pgrep -a '^(qemu|rdvm)'"
left 'state of the runtime' "find /run -path '$lab' -prune -o -path '*/rdvm*/*' -prune -print"
left cgroups containers
# What is left is no use to anyone: its processes end with this one, and its cgroups go. So do the engines' own directories,
# which they keep for their next container.
for directory in $(containers); do
	if [ -e "$directory/cgroup.kill" ]; then echo 1 >"$directory/cgroup.kill"; fi
done
own() { find "$cgroups" -mindepth 1 -maxdepth 2 -type d \( -name libpod_parent -o -name docker -o -name default -o -name k8s.io \); }
for turn in 1 2 3 4 5; do
	own | while read -r directory; do find "$directory" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
	[ -n "$(own)" ] || break
	sleep 0.2
done
exit "$code"
