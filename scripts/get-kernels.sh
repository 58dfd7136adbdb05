#!/usr/bin/env bash
# Fetches the kernels that the tests boot into DIR (default: target/kernels of this checkout), and of what belongs to them only
# the configuration and the modules by which they have an image in place, in DIR/modules/RELEASE:
#
#   Debian   cloud and generic kernel of two releases: bookworm (6.1) and trixie (6.12); bullseye (5.10) stands in
#   Ubuntu   those of linux-image-virtual, -generic and -generic-hwe-VERSION of the running release
#
#   scripts/get-kernels.sh [DIR]
#
# Nothing is installed and root is not needed: apt keeps its lists and packages in a directory of its own below DIR
# while it works, and checks signatures and sums as ever. NAME.list names the files of a release; while they are all
# there, no network is asked. Delete DIR to fetch newer ones.
#
# The archive is the one that apt uses here (scripts/mirror.sh); MIRROR overrules it on Debian.
set -euo pipefail
umask 022
exec 3>&2 # apt's words go to a file, ours do not
here=$(cd "$(dirname "$0")" && pwd)

say() { printf 'kernels: %s\n' "$*" >&3; }
die() { say "$*"; exit 1; }

# there FILE: is this kernel there, with its modules?
there() {
	[ -s "$out/$1" ] && [ -s "$out/modules/${1#vmlinuz-}/modules.dep" ]
}

# complete NAME: are all kernels there that NAME.list names?
complete() {
	local file
	[ -s "$out/$1.list" ] || return 1
	while read -r file; do there "$file" || return 1; done <"$out/$1.list"
}

# private PROGRAM WORDS...: apt-get or apt-cache with lists of its own, and only the sources in $work/sources. It stays
# the caller, since apt's own user may not be able to enter this directory.
private() {
	local program=$1
	shift
	"$program" -q -o Dir::State="$work" -o Dir::State::status="$work/status" -o Dir::Cache="$work" \
		-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources" \
		-o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
		-o APT::Sandbox::User="$(id -un)" -o APT::Architecture=amd64 -o APT::Architectures::=amd64 \
		-o Acquire::Languages=none -o Acquire::Retries=3 \
		-o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false "$@" </dev/null
}

# real META: the package with the kernel that META depends on, such as linux-image-6.1.0-48-cloud-amd64.
real() {
	private apt-cache show --no-all-versions "$1" 2>/dev/null | sed -n 's/^Depends: *//p' | tr ',' '\n' |
		sed -n 's/^ *\(linux-image-[0-9][^ (|]*\).*/\1/p' | head -n 1
}

# kernel RELEASE: the kernel out of its package, its configuration and modules out of the same or those that Ubuntu has for them.
kernel() {
	local package tree=$work/tree file
	mkdir -p "$tree"
	for package in "linux-image-$1" "linux-modules-$1" "linux-modules-extra-$1"; do
		private apt-cache show "$package" >/dev/null 2>&1 || continue
		(cd "$work/packages" && private apt-get download "$package") || return 1
		dpkg-deb --fsys-tarfile "$work/packages/$package"_*.deb |
			tar -x -C "$tree" --wildcards --transform 's,^\./usr/lib/,./lib/,' './boot/*' '*/lib/modules/*' || return 1
		rm "$work/packages"/*
	done
	depmod -b "$tree" "$1" || return 1
	mkdir -p "$out/modules/$1"
	(
		cd "$tree/lib/modules/$1"
		# Each line is a module and all that it needs, but for an algorithm that libcrc32c asks for.
		{ grep -E '^[^:]*/(nd_e820|nd_pmem|erofs|overlay|crc32c_generic)\.ko' modules.dep || true; } | tr -s ': ' '\n' |
			sort -u | while read -r file; do [ -z "$file" ] || cp --parents "$file" "$out/modules/$1"; done
		cp modules.builtin "$out/modules/$1"
		cp "$tree/boot/config-$1" "$out/modules/$1/config"
		cp modules.dep "$out/modules/$1"
	) || return 1
	mv "$tree/boot/vmlinuz-$1" "$out"
	rm -rf "$tree"
}

# fetch NAME META...: the kernels of these packages from $work/sources, listed in NAME.list.
fetch() {
	local name=$1 meta package file
	shift
	say "$name: fetching the kernels of $*"
	private apt-get update --error-on=any || return 1
	for meta in "$@"; do
		package=$(real "$meta")
		if [ -z "$package" ]; then
			echo "there is no package $meta"
			continue
		fi
		file=vmlinuz-${package#linux-image-}
		there "$file" || kernel "${package#linux-image-}" || return 1
		echo "$file" >>"$work/list"
	done
	[ -s "$work/list" ] || return 1
	# Older ones of the same list, if any, were fetched before modules were.
	{ grep -vxFf "$work/list" "$out/$name.list" 2>/dev/null || true; } | while read -r file; do rm -f "$out/$file"; done
	sort -u "$work/list" >"$out/$name.list"
	say "$name: $(tr '\n' ' ' <"$out/$name.list")"
}

# begin: an empty place for apt, for the sources of one release.
begin() {
	rm -rf --one-file-system "$work"
	mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/packages" "$work/sources"
	: >"$work/status"
}

debian() {
	local suite there=0 suites='bookworm trixie bullseye' keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	for suite in $suites; do
		if complete "$suite"; then there=$((there + 1)); fi
	done
	if [ "$there" -ge 2 ]; then return; fi
	[ -e "$keyring" ] || die "$keyring is missing; install debian-archive-keyring"
	MIRROR=$("$here/mirror.sh" 2>&3)
	there=0
	for suite in $suites; do
		if [ "$there" -ge 2 ]; then break; fi
		begin
		echo "deb [signed-by=$keyring] $MIRROR $suite main" >"$work/sources/debian.list"
		if complete "$suite" || fetch "$suite" linux-image-cloud-amd64 linux-image-amd64 >"$out/$suite.log" 2>&1; then
			there=$((there + 1))
		else
			tail -n 5 "$out/$suite.log" >&2
			say "$suite: cannot be had from $MIRROR, see $out/$suite.log"
		fi
	done
	[ "$there" -ge 2 ] || die "two releases are wanted; choose another archive with MIRROR=URL"
}

ubuntu() {
	local version
	if complete ubuntu; then return; fi
	# shellcheck source=/dev/null
	version=$(. /etc/os-release && printf '%s' "${VERSION_ID:-}")
	begin
	# Older releases have one file, newer ones a file in another format.
	cp -t "$work/sources" /etc/apt/sources.list.d/ubuntu.sources 2>/dev/null ||
		cp /etc/apt/sources.list "$work/sources/ubuntu.list"
	fetch ubuntu linux-image-virtual linux-image-generic "linux-image-generic-hwe-$version" >"$out/ubuntu.log" 2>&1 || {
		tail -n 5 "$out/ubuntu.log" >&2
		die "the kernels of Ubuntu $version cannot be fetched, see $out/ubuntu.log"
	}
}

mkdir -p "${1:-$here/../target/kernels}"
out=$(cd "${1:-$here/../target/kernels}" && pwd)
work=$out/.apt
exec 9>"$out/.lock"
flock 9 # a second one waits, and then finds everything there
trap 'rm -rf --one-file-system "$work"' EXIT

# shellcheck source=/dev/null
distribution=$(. /etc/os-release && printf ' %s %s ' "$ID" "${ID_LIKE:-}")
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
	die "there is no apt here; put kernels as vmlinuz-RELEASE into $out, and their modules into $out/modules/RELEASE"
fi
PATH=$PATH:/usr/sbin:/sbin
command -v depmod >/dev/null || die "depmod is missing; install kmod"
case $distribution in
	*' ubuntu '*) ubuntu ;;
	*' debian '*) debian ;;
	*) die "this is neither Debian nor Ubuntu; put kernels as vmlinuz-RELEASE into $out" ;;
esac
