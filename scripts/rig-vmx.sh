#!/usr/bin/env bash
# The outer machine with Intel's VT-x, which is Bochs's; scripts/rig.sh reads this file, and these functions use its own.
# `outer` replaces the one that boots QEMU.
#
# Variables: VMX_MODEL (corei7_haswell_4770), a CPU of `bochs --help cpu`; VMX_IPS, instructions in a second of its time;
# RIG_LIMIT, seconds of CPU time after which an outer machine is given up.

module=kvm-intel
rig=$target/rig-vmx
image=$rig/image
model=${VMX_MODEL:-corei7_haswell_4770}
bios=/usr/share/bochs/BIOS-bochs-latest
vga=/usr/share/bochs/VGABIOS-lgpl-latest

# iso KERNEL INITRD OUT: a CD that boots them. cryptomgr.notests alone halves the boot.
iso() {
	local dir=$3.dir
	rm -rf --one-file-system "$dir"
	mkdir -p "$dir/isolinux"
	cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$dir/isolinux"
	cp "$1" "$dir/isolinux/vmlinuz"
	mv "$2" "$dir/isolinux/initrd"
	cat >"$dir/isolinux/isolinux.cfg" <<-'END'
		DEFAULT rig
		PROMPT 0
		LABEL rig
		 KERNEL /isolinux/vmlinuz
		 INITRD /isolinux/initrd
		 APPEND console=ttyS0 quiet panic=-1 cryptomgr.notests mitigations=off nokaslr tsc=reliable no_timer_check nowatchdog random.trust_cpu=on init_on_alloc=0
	END
	xorriso -as mkisofs -quiet -o "$3" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
		-boot-load-size 4 -boot-info-table "$dir" >"$3.log" 2>&1 || die "xorriso failed: $(tail -n 1 "$3.log")"
	rm -rf --one-file-system "$dir"
}

# bochsrc DIR MEMORY DISPLAY: Bochs's configuration.
bochsrc() {
	cat <<-END
		cpu: model=$model, count=1, ips=${VMX_IPS:-50000000}, reset_on_triple_fault=0
		memory: guest=$2, host=$2
		romimage: file=$bios
		vgaromimage: file=$vga
		boot: cdrom
		ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
		ata0-master: type=cdrom, path=$1/cd.iso, status=inserted
		com1: enabled=1, mode=file, dev=$1/serial
		display_library: $3
		clock: sync=none
		log: $1/log
		panic: action=fatal
		error: action=ignore
		info: action=report
		debug: action=ignore
	END
}

# bochs_on DIR: runs the bochs that was chosen. Debian's has a debugger, which waits for a command, and needs a terminal.
bochs_on() {
	local words=(-q -f "$1/bochsrc")
	if [ "$display" = nogui ]; then
		exec "$bochs" "${words[@]}"
	fi
	if grep -q -- '-rc filename' <<<"$features"; then
		echo c >"$1/debugger"
		words+=(-rc "$1/debugger")
	fi
	TERM=vt100 exec script -qfc "exec ${bochs@Q} ${words[*]@Q}" /dev/null
}

# outer NAME MEMORY COMMAND...: runs a command in an outer machine of that name, as rig.sh's does. What it prints comes over
# a serial port and its last line is the exit code. Time spent halted counts as well, so a machine that hangs ends at the limit.
outer() {
	local name=$1 memory=$2 dir=$rig/outer.$1 variable status limit=${RIG_LIMIT:-300}
	shift 2
	case $memory in *g) memory=$((${memory%g} * 1024)) ;; *m) memory=${memory%m} ;; esac
	[ "$memory" -le 2048 ] || memory=2048 # the most that Bochs gives below its hole for PCI
	rm -rf --one-file-system "$dir"
	mkdir -p "$dir/root/rig"
	{
		for variable in RDVM_TEST_BIG RIG_THREADS RIG_PATIENCE RIG_TRIES; do
			[ -z "${!variable:-}" ] || printf 'export %s=%s\n' "$variable" "${!variable@Q}"
		done
		printf 'hostname %s\nset -- %s\n' "$name" "${*@Q}"
	} >"$dir/root/rig/command"
	install tests/rig/init.sh "$dir/root/init"
	"$rdvm" pack --owner root -o "$dir/image.cpio" "$image" || die "the outer machine's image could not be packed"
	(cat "$dir/image.cpio" && cd "$dir/root" && find . -mindepth 1 | cpio -o -H newc -R 0:0 --quiet) >"$dir/initrd"
	rm "$dir/image.cpio"
	iso "$kernel" "$dir/initrd" "$dir/cd.iso"
	bochsrc "$dir" "$memory" "$display" >"$dir/bochsrc"
	TIMEFORMAT='%0U'
	{ time { (ulimit -t "${limit%s}"; bochs_on "$dir") >"$dir/out" 2>&1 </dev/null; }; } 2>"$dir/seconds" || true
	tr -d '\r' <"$dir/serial" | grep -a -v '^rig-exit ' || true
	status=$(tr -d '\r' <"$dir/serial" | sed -n 's/^rig-exit \([0-9]*\)$/\1/p' | tail -n 1)
	if [ -z "$status" ]; then
		tail -n 3 "$dir/log" "$dir/out" >&2 2>/dev/null || true
		say "$name: the outer machine came to no end in $(cat "$dir/seconds") s of CPU time, see $dir" >&2
		status=125
	fi
	rm -f "$dir/cd.iso"
	return "$status"
}

# choose_bochs PROGRAM DISPLAY: the Bochs for `outer`; fails where it lacks the CPU. One without VT-x shows in tests/rig/start.sh.
choose_bochs() {
	local cpus
	bochs=$1 display=$2
	command -v "$bochs" >/dev/null || die "there is no $bochs; scripts/install-deps.sh test installs it"
	features=$("$bochs" --help 2>&1 </dev/null || true)
	cpus=$("$bochs" --help cpu 2>&1 </dev/null || true)
	version=$(sed -n 's/^.*Bochs x86 Emulator \([0-9.]*\).*/\1/p' <<<"$cpus" | head -n 1)
	grep -qx "$model" <<<"$cpus" ||
		die "Bochs ${version:-of this release} has no CPU $model with VT-x; Debian 12's 2.7 does, and make test-vmx builds one"
}

# vmx_vmx: Debian's kernel, unmodified, in four machines on kvm-intel; what is tried is in tests/rig/vmx.sh. The limit of
# emulated instructions guards the price of the check, and unlike seconds does not depend on the host.
vmx_vmx() {
	local status=0 ticks good limit=5000
	choose_bochs bochs term
	cargo build --quiet
	rdvm=$target/debug/rdvm
	RIG_GUEST=/nonexistent base # Debian's kernel alone
	strip -o "$image/bin/rdvm" "$rdvm"
	add_libraries "$rdvm"
	mkdir -p "$image/tree/bin"
	cp "$image/bin/busybox" "$image/tree/bin/busybox"
	ln -s busybox "$image/tree/bin/sh"
	awk 'BEGIN { for (byte = 0; byte < 256; byte++) printf "\\%03o", byte }' | xargs -0 printf >"$image/tree/bytes"
	[ "$(wc -c <"$image/tree/bytes")" = 256 ] || die 'the file of all bytes was not made'
	outer vmx 1g sh /rig/vmx.sh "$debian" >"$rig/vmx.out" || status=$?
	cat "$rig/vmx.out"
	good=$(grep -c '^rig-vmx good: ' "$rig/vmx.out" || true)
	ticks=$(($(grep -ao '^[0-9]*' "$rig/outer.vmx/log" | tail -n 1 | sed 's/^0*//') / 1000000))
	say "$good of 4 runs on kvm-intel were right: Bochs $version, $model, Linux ${debian#*-}; $(cat "$rig/outer.vmx/seconds") s of CPU time, $ticks million instructions"
	[ "$status" = 0 ] && [ "$good" = 4 ] || die "rdvm on emulated VT-x failed, or did not run (exit code $status)"
	[ "$ticks" -le "$limit" ] || die "more than $limit million instructions are too many for make test; find out which grew"
}

# own_bochs: Bochs without debugger and SMP, three times as fast as Debian's; built once, from the source package of trixie.
own_bochs() {
	local dir=$target/bochs private mirror flags='-O3 -march=native -fomit-frame-pointer -pipe -w' keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	if [ ! -x "$dir/bochs" ]; then
		[ -e "$keyring" ] || die "$keyring is missing; install debian-archive-keyring"
		mirror=$(scripts/mirror.sh)
		rm -rf --one-file-system "$dir" "$dir.new"
		mkdir -p "$dir.new"/{state/lists/partial,archives/partial,sources,src,package}
		: >"$dir.new/status"
		echo "deb-src [signed-by=$keyring] $mirror trixie main" >"$dir.new/sources/trixie.list"
		private=(-q -o "Dir::State=$dir.new/state" -o "Dir::State::status=$dir.new/status" -o "Dir::Cache=$dir.new"
			-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$dir.new/sources" -o "APT::Sandbox::User=$(id -un)"
			-o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o Acquire::Languages=none)
		say "building Bochs from the source in $mirror, some minutes; see $dir.log"
		( # errexit is off in a condition; what failed shows at the end
			apt-get "${private[@]}" update
			# The archive with the source is what counts; a mirror that has not the .dsc will do. apt has checked its sum.
			(cd "$dir.new/package" && apt-get "${private[@]}" source --download-only bochs) || true
			tar xf "$dir.new"/package/bochs_3.*.orig.tar.xz -C "$dir.new/src" --strip-components=1
			cd "$dir.new/src"
			# Fixed upstream in 3.1 (#556): KVM's posted interrupt descriptor is aligned to 64 bytes, not to a page.
			sed -i 's/if (! IsValidPageAlignedPhyAddr(vm->pid_addr))/if (! IsValidPhyAddr(vm->pid_addr) || (vm->pid_addr \& 63))/' cpu/vmx.cc
			CFLAGS=$flags CXXFLAGS=$flags ./configure --with-nogui --enable-cpu-level=6 --enable-x86-64 --enable-vmx=2 --enable-avx \
				--enable-evex --enable-fpu --enable-pci --enable-all-optimizations --disable-plugins --disable-smp \
				--disable-debugger --disable-gdb-stub --disable-docbook --enable-show-ips
			make -j"$(nproc)"
			[ -x bochs ]
		) >"$dir.log" 2>&1 </dev/null || die "Bochs could not be built, see $dir.log"
		mkdir -p "$dir"
		mv "$dir.new/src/bochs" "$dir/bochs"
		rm -rf --one-file-system "$dir.new"
	fi
	choose_bochs "$dir/bochs" nogui
}

# vmx_test [FILTER]: the scenarios on kvm-intel. No interrupt gets lost here, so each has to pass the first time. The second
# of this machine has as many instructions as the tests' deadlines expect.
vmx_test() {
	own_bochs
	export RIG_MEMORY=${RIG_MEMORY:-2g} RIG_LIMIT=${RIG_LIMIT:-21600} RIG_TRIES=1 RIG_AGAIN=0 RIG_PATIENCE=${RIG_PATIENCE:-3600} VMX_IPS=${VMX_IPS:-200000000}
	scenarios_on_kvm "$@"
}
