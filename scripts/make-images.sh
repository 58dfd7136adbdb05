#!/usr/bin/env bash
# Makes the images below OUTDIR (default: target/images of this checkout): the two of the reference scenario, and one
# with what builds use.
#
#   libs    sh, a static busybox, and hello with the libraries it needs; /init is a link to hello
#   debian  a minbase Debian or Ubuntu of the release that runs here; /init counts the installed packages
#   tools   the same release with compilers, interpreters and file system tools, for the tests of the small kernel
#
#   scripts/make-images.sh [OUTDIR [NAME...]]      all of them when none is named
#
# An image is made once, and again only when its recipe (kept in NAME.stamp beside it) changes. It is built as
# NAME.tmp and renamed when complete, so an interrupted build is never taken for an image. Everything belongs to the
# caller. Only debootstrap needs root: without it, sudo is asked.
#
# The mirror is the one that apt uses here. MIRROR, SUITE and DEBOOTSTRAP_OPTS overrule what was found.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
umask 022
here=$(cd "$(dirname "$0")" && pwd)

say() { printf 'images: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"
	elif command -v sudo >/dev/null; then sudo "$@"
	else die "debootstrap needs root and there is no sudo here; run 'make images' once as root"
	fi
}

need() { command -v "$1" >/dev/null || die "$1 is missing; run scripts/install-deps.sh"; }

# made NAME RECIPE: is the image there, complete, and by this recipe?
made() { [ -d "$out/$1" ] && [ "$(cat "$out/$1.stamp" 2>/dev/null)" = "$2" ]; }

# remove DIR: a half-made Debian may belong to root.
remove() {
	rm -rf --one-file-system "$1" 2>/dev/null || as_root rm -rf --one-file-system "$1"
}

# finish NAME RECIPE: the complete build takes its place.
finish() {
	rm -f "$out/$1.stamp"
	remove "$out/$1"
	mv "$out/$1.tmp" "$out/$1"
	printf '%s\n' "$2" >"$out/$1.stamp"
	say "$1: $(du -sh --apparent-size "$out/$1" | cut -f1) in $(find "$out/$1" | wc -l) files: $out/$1"
}

static_busybox() {
	need busybox
	local busybox
	busybox=$(command -v busybox)
	if ldd "$busybox" >/dev/null 2>&1; then
		die "$busybox is not static; install the package busybox-static"
	fi
	printf '%s\n' "$busybox"
}

make_libs() {
	local recipe tmp=$out/libs.tmp busybox library
	recipe="libs 1 $(cksum <"$here/hello.c")"
	made libs "$recipe" && return
	need gcc
	busybox=$(static_busybox)
	remove "$tmp"
	mkdir -p "$tmp/bin"
	cp "$busybox" "$tmp/bin/busybox"
	ln -s busybox "$tmp/bin/sh"
	gcc -O2 -s -o "$tmp/bin/hello" "$here/hello.c"
	# Either "NAME => FILE (address)", or the program interpreter: "FILE (address)".
	ldd "$tmp/bin/hello" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
		mkdir -p "$tmp/${library%/*}"
		cp -L "$library" "$tmp$library"
	done
	ln -s bin/hello "$tmp/init"
	finish libs "$recipe"
}

# Which mirror, suite and keyring apt has for the release that runs here, as three lines. apt itself reads its files, so
# sources.list and *.sources count alike; of several sources (a vendor's may name the same suite) the likeliest wins.
apt_source() {
	# shellcheck disable=SC2016 # apt's own placeholders
	apt-get indextargets --format '$(RELEASE)|$(COMPONENT)|$(CODENAME)|$(ORIGIN)|$(REPO_URI)|$(SIGNED_BY)' \
		'Created-By: Packages' 2>/dev/null | awk -F'|' -v codename="$1" '
		$2 != "main" || $1 ~ /[-\/]/ { next }
		{
			ours = ($1 == codename || $3 == codename)
			origin = ($4 == "Debian" || $4 == "Ubuntu")
			place = ($5 ~ /\/(debian|ubuntu)\/?$/)
			score = 4 * ours + 2 * origin + place
			if (!ours && !origin) next
			if (score > best) { best = score; mirror = $5; suite = ours ? codename : $1; keyring = $6 }
		}
		END { print mirror; print suite; print keyring }'
}

# bootstrap NAME VARIANT-OPTIONS...: a root file system by debootstrap in NAME.tmp, of $suite from $mirror.
bootstrap() {
	local name=$1 tmp=$out/$1.tmp run=() variable
	shift
	need debootstrap
	case $keyring in /*.gpg | /*.pgp) set -- --keyring="$keyring" "$@" ;; esac
	# debootstrap fetches with wget, which knows nothing of apt's proxy, and sudo drops the environment.
	eval "$(apt-config shell apt_http Acquire::http::Proxy apt_https Acquire::https::Proxy)"
	: "${http_proxy:=${apt_http:-}}" "${https_proxy:=${apt_https:-${apt_http:-}}}"
	run=(env LC_ALL=C)
	for variable in http_proxy https_proxy no_proxy; do
		case ${!variable:-} in '' | DIRECT) ;; *) run+=("$variable=${!variable}") ;; esac
	done
	# Mounts of its own, so that an interrupted debootstrap leaves none behind.
	if as_root unshare --mount true 2>/dev/null; then run+=(unshare --mount); fi

	say "$name: debootstrap of $suite from ${mirror:-the default mirror}, log in $out/$name.log"
	remove "$tmp"
	# shellcheck disable=SC2086 # DEBOOTSTRAP_OPTS is a list of words
	as_root "${run[@]}" debootstrap --variant=minbase "$@" ${DEBOOTSTRAP_OPTS:-} \
		"$suite" "$tmp" ${mirror:+"$mirror"} >"$out/$name.log" 2>&1 </dev/null || {
		tail -n 5 "$out/$name.log" >&2
		[ ! -f "$tmp/debootstrap/debootstrap.log" ] || as_root tail -n 5 "$tmp/debootstrap/debootstrap.log" >&2
		die "$name: debootstrap failed; see $out/$name.log, and choose another source with MIRROR=URL or SUITE=NAME"
	}
	if [ "$(id -u)" != 0 ]; then
		# A node of the system's console must not become the caller's. Set-uid bits go with the change of owner, which is
		# as well: a program that runs as the caller is no business of others.
		as_root rm -f "$tmp/dev/console"
		as_root chown -hR "$(id -u):$(id -g)" "$tmp"
	fi
	rm -f "$tmp"/var/cache/apt/archives/*.deb "$tmp"/var/cache/apt/*.bin
}

# find_source: sets mirror, suite and keyring.
find_source() {
	local codename
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && printf '%s' "${UBUNTU_CODENAME:-${VERSION_CODENAME:-}}")
	{ read -r mirror; read -r suite; read -r keyring; } < <(apt_source "$codename") || true
	case $mirror in
		mirror+file:*) mirror=$(awk '/^[a-z]+:/ { print $1; exit }' "${mirror#mirror+file:}") ;;
		http:* | https:* | file:*) ;;
		*) mirror='' keyring='' ;; # a CD, or a scheme only apt speaks: debootstrap's own default
	esac
	mirror=${MIRROR:-$mirror}
	suite=${SUITE:-${suite:-$codename}}
	[ -n "$suite" ] || die "/etc/os-release names no release; set SUITE, for example SUITE=stable"
}

make_debian() {
	local recipe mirror suite keyring
	find_source
	recipe="debian 1 minbase $suite"
	made debian "$recipe" && return
	bootstrap debian
	install -m 755 "$here/debian-init.sh" "$out/debian.tmp/init"
	finish debian "$recipe"
}

# What the tests of the small kernel run (tests/it/small_kernel.rs).
tools=gcc,libc6-dev,make,git,python3,nodejs,e2fsprogs,squashfs-tools,squashfuse,fuse3,iproute2

make_tools() {
	local recipe mirror suite keyring components=main
	find_source
	# shellcheck source=/dev/null
	case $(. /etc/os-release && printf '%s' "$ID") in ubuntu) components=main,universe ;; esac
	recipe="tools 1 $tools $suite"
	made tools "$recipe" && return
	bootstrap tools --include="$tools" --components="$components"
	# It is packed and unpacked for every run, so what no test reads goes: half of it.
	(
		cd "$out/tools.tmp"
		rm -rf usr/share/{doc,man,info,locale,i18n,icu} var/lib/apt/lists/* var/cache/debconf/*-old
		rm -f usr/bin/*-lto-dump-* usr/lib/gcc/*/*/lto1 usr/lib/gcc/*/*/lib{a,t,l,ub}san*
		rm -f usr/lib/*/lib{asan,tsan,lsan,ubsan}.so*
	)
	install -m 755 "$here/debian-init.sh" "$out/tools.tmp/init"
	finish tools "$recipe"
}

mkdir -p "${1:-$here/../target/images}"
out=$(cd "${1:-$here/../target/images}" && pwd)
[ $# = 0 ] || shift
[ $# != 0 ] || set -- libs debian tools
exec 9>"$out/.lock"
flock 9 # a second build waits, and then finds everything made
for name; do
	case $name in libs | debian | tools) "make_$name" ;; *) die "there is no image $name" ;; esac
done
