#!/usr/bin/env bash
# Installs what rdvm's demo, examples or tests need and this Debian or Ubuntu machine lacks.
#
#   scripts/install-deps.sh [demo|examples|test|vmx]     (default demo; each is the one before and more)
#   scripts/install-deps.sh engines                      (examples, and the container engines that make test-engines starts)
#
# Looks first: a program counts wherever it comes from. When nothing is missing it asks for neither network nor root.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
level=${1:-demo}

say() { printf 'deps: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"
	elif command -v sudo >/dev/null; then sudo "$@"
	else die "installing needs root and there is no sudo here; as root: $*"
	fi
}

# Program and package.
demo_programs='qemu-system-x86_64 qemu-system-x86
debootstrap debootstrap
gpgv gpgv
unshare util-linux
gcc gcc'
examples_programs='make make
git git
wget wget
xz xz-utils
jq jq
ld binutils
setpriv util-linux'
test_programs='cpio cpio
curl curl
bsdtar libarchive-tools
fakeroot fakeroot
strace strace
openssl openssl
lz4 lz4
zstd zstd
hyperfine hyperfine
man man-db
flex flex
bison bison
patch patch
bc bc
python3 python3
musl-gcc musl-tools
skopeo skopeo
docker-registry docker-registry
htpasswd apache2-utils
umoci umoci
setcap libcap2-bin
bwrap bubblewrap
runc runc
crun crun
depmod kmod
bochs bochs
xorriso xorriso
shellcheck shellcheck
mkfs.erofs erofs-utils'
vmx_programs='g++ g++'
# Container engines and what starts them. Their services are not wanted: make test-engines starts each by itself.
engines_programs='podman podman
conmon conmon
runc runc
crun crun
newuidmap uidmap
containerd containerd
dockerd docker.io
slurmctld slurmctld
slurmd slurmd
srun slurm-client
munged munge
ip iproute2
curl curl
pgrep procps
script bsdutils'

# missing_programs LIST: the packages of those that are not here.
missing_programs() {
	local program package
	while read -r program package; do
		command -v "$program" >/dev/null || echo "$package"
	done <<<"$1"
}

missing_packages() {
	missing_programs "$demo_programs"
	[ "$level" = demo ] || missing_programs "$examples_programs"
	case $level in test | vmx) missing_programs "$test_programs" ;; esac
	[ "$level" != vmx ] || missing_programs "$vmx_programs"
	[ "$level" != engines ] || missing_programs "$engines_programs"
	[ -e /usr/include/stdio.h ] || echo libc6-dev
	if [ "$level" = test ] || [ "$level" = vmx ]; then
		# Bochs's terminal, BIOSes and boot loader, which have no program on PATH.
		compgen -G '/usr/lib/*/bochs/plugins/libbx_term_gui.so' >/dev/null || echo bochs-term
		[ -e /usr/share/bochs/BIOS-bochs-latest ] || echo bochsbios
		[ -e /usr/share/vgabios/vgabios.bin ] || echo vgabios
		[ -e /usr/lib/ISOLINUX/isolinux.bin ] || echo isolinux
		[ -e /usr/lib/syslinux/modules/bios/ldlinux.c32 ] || echo syslinux-common
		# What a kernel is built from, and what its build reads objects with.
		[ -e /usr/include/gelf.h ] || echo libelf-dev
		compgen -G '/usr/src/linux-source-*.tar.*' >/dev/null || echo linux-source
	fi
	# A busybox that needs libraries of its own is of no use in the libs image.
	if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then echo busybox-static; fi
	[ -n "$(kernels)" ] || kernel_package
}

# in_the_way PACKAGE...: PACKAGE=VERSION of those that apt would remove for these: a package of a newer release, whose source is
# no longer there, keeps out what the sources have. Their own version of it does not.
in_the_way() {
	local package
	for package in $(apt-get install -s --no-install-recommends "$@" 2>/dev/null | sed -n 's/^Remv \([^ ]*\) .*/\1/p'); do
		apt-cache madison "$package" | awk -F ' *[|] *' 'NR == 1 { gsub(" ", "", $1); print $1 "=" $2 }'
	done
}

# Any distribution's kernel will do. A second one is not installed beside it: it could become the one that boots next.
kernels() {
	if [ -r "${RDVM_KERNEL:-}" ]; then echo "$RDVM_KERNEL"; fi
	find /boot -maxdepth 1 -name 'vmlinuz-*' | sort -V
}

kernel_package() {
	case $distribution in
		debian) echo linux-image-cloud-amd64 ;;
		ubuntu) echo linux-image-virtual ;;
	esac
}

# Ubuntu lets only root read its kernels. Their contents are public, and the override lasts through updates of the file.
make_a_kernel_readable() {
	local kernel newest
	newest=$(kernels | tail -n 1)
	for kernel in $(kernels); do
		if [ -r "$kernel" ]; then return; fi
	done
	kernel=/boot/vmlinuz-$(uname -r)
	[ -e "$kernel" ] || kernel=$newest
	say "$kernel can be read by root only; making it readable (undo: dpkg-statoverride --remove $kernel)"
	if dpkg-statoverride --list "$kernel" >/dev/null; then as_root dpkg-statoverride --remove "$kernel"; fi
	as_root dpkg-statoverride --update --add root root 0644 "$kernel"
}

case $level in demo | examples | test | vmx | engines) ;; *) die "level '$level' is unknown; it is demo, examples, test, vmx or engines" ;; esac

if ! command -v cargo >/dev/null && [ ! -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
	die "cargo is missing; install Rust with rustup: https://rustup.rs, or 'apt install rustup' and 'rustup default stable'"
fi

# shellcheck source=/dev/null
distribution=$(. /etc/os-release && case " $ID ${ID_LIKE:-} " in
	*' ubuntu '*) echo ubuntu ;;
	*' debian '*) echo debian ;;
esac)
if [ -z "$distribution" ] || ! command -v apt-get >/dev/null; then
	distribution=other
	mapfile -t packages < <(missing_packages)
	[ ${#packages[@]} = 0 ] && exit 0
	die "this is neither Debian nor Ubuntu; install what these packages hold: ${packages[*]}"
fi

mapfile -t packages < <(missing_packages)
if [ ${#packages[@]} -gt 0 ]; then
	say "installing ${packages[*]}"
	install=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends --no-remove --no-upgrade "${packages[@]}")
	# Missing package lists show in the simulation, which needs no root; old ones show when a download is gone.
	if ! apt-get install -s --no-remove "${packages[@]}" >/dev/null 2>&1 || ! as_root "${install[@]}" </dev/null >&2; then
		as_root apt-get -o DPkg::Lock::Timeout=300 update -q </dev/null >&2 || die "apt-get update failed; see above"
		if ! as_root "${install[@]}" </dev/null >&2; then
			mapfile -t older < <(in_the_way "${packages[@]}")
			[ ${#older[@]} -gt 0 ] || die "apt-get install failed; see above"
			say "replacing what stands in the way by the version of this machine's sources: ${older[*]}"
			as_root "${install[@]}" --allow-downgrades "${older[@]}" </dev/null >&2 || die "apt-get install failed; see above"
		fi
	fi
fi
make_a_kernel_readable
