#!/usr/bin/env bash
# Builds the small kernel twice, as two different people on two different machines would, and compares the bytes.
#
#   scripts/kernel-twice.sh [SOURCE]
#
# What differs: directory and its length, user, home, host name, umask, time zone, language, number of jobs, and the time of
# day. Takes twice as long as `rdvm kernel build`, which is RDVM or the one on PATH. SOURCE as for --source.
set -euo pipefail
rdvm=$(realpath "$(command -v "${RDVM:-rdvm}")")
work=$(mktemp -d "${TMPDIR:-/tmp}/kernel-twice.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

say() { printf 'kernel-twice: %s\n' "$*" >&2; }

# build DIRECTORY UMASK NAME CPUS [SOURCE]: a build in that directory, on so many CPUs, by a user and on a host of that name.
build() {
	local directory=$1 mask=$2 name=$3 cpus=$4 run=(env) hosts=true
	shift 4
	mkdir -p "$directory/tmp"
	unshare --uts true 2>/dev/null || hosts=false
	if "$hosts"; then
		# shellcheck disable=SC2016
		run=(unshare --uts sh -c 'hostname "$0" && exec "$@"' "$name" env)
	else
		say "the host's name is the same both times: unshare --uts is not allowed here"
	fi
	(
		umask "$mask"
		"${run[@]}" -u RDVM_KERNEL USER="$name" LOGNAME="$name" HOME="$directory" RDVM_CACHE="$directory" \
			TMPDIR="$directory/tmp" TZ="$name" LANG="$name" KBUILD_BUILD_USER="$name" \
			taskset --cpu-list "$cpus" "$rdvm" kernel build --force ${1:+--source "$1"}
	)
}

last=$(($(nproc --all) - 1))
build "$work/one" 022 first "0-$last" "$@"
build "$work/second/and/much/longer" 077 other 0 "$@"
cmp "$work/one/kernel/vmlinux" "$work/second/and/much/longer/kernel/vmlinux"
say "twice the same: $(sha256sum <"$work/one/kernel/vmlinux" | cut -d' ' -f1)"
