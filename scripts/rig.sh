#!/usr/bin/env bash
# The KVM rig: an outer machine on emulated hardware, in which Linux's own KVM runs. The scenario tests and the measurements
# of the KVM engine run in it, wherever the host's /dev/kvm is (docs/testing.md). The hardware is QEMU's with AMD's SVM, booted
# by rdvm; for `vmx` and `test-vmx` it is Bochs's with Intel's VT-x (scripts/rig-vmx.sh).
#
#   scripts/rig.sh test [FILTER]     the scenarios on KVM, side by side in two outer machines
#   scripts/rig.sh vmx               four runs of Debian's kernel on VT-x, in the Bochs of Debian's packages
#   scripts/rig.sh test-vmx [FILTER] the scenarios on VT-x, in a faster Bochs that is built first; some hours
#   scripts/rig.sh native [FILTER]   the scenarios on the host's own KVM, where it is real
#   scripts/rig.sh bench             rdvm beside QEMU's machines on KVM, in counted instructions: benches/results/peers.tsv
#   scripts/rig.sh timeline          whole runs of three images, by phase: benches/results/timeline-kvm.tsv, whole.tsv
#   scripts/rig.sh ports             throughput of the ways in and out: benches/results/ports-kvm.tsv
#   scripts/rig.sh scale DIR OUT     for scripts/bench-scale.sh
#   scripts/rig.sh plan FILE [WORDS] the phases of any runs on KVM; FILE as benches/timeline.rs says, WORDS of sh go before
#   scripts/rig.sh check             what a start costs rdvm, in all that can be counted, against benches/results/counts.tsv
#   scripts/rig.sh accept            takes what is measured now as the new benches/results/counts.tsv
#   scripts/rig.sh run COMMAND...    a command of sh in the outer machine
#   scripts/rig.sh shell             a shell in it
#
# FILTER is part of a test's name, as for cargo test. Variables: OUTERS (2), how many outer machines share the tests;
# RIG_MEMORY (5g), RAM of each; RIG_AGAIN (2), how many scenarios may pass only the second time;
# RIG_KERNEL, the outer machine's kernel; RIG_GUEST, the kernel that boots inside instead of the small one.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
images=${RDVM_TEST_IMAGES:-$top/target/images}
kernels=${RDVM_TEST_KERNELS:-$top/target/kernels}
rig=$target/rig
image=$rig/image
cache=${RDVM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rdvm}
module=kvm-amd
started=$SECONDS

say() { printf 'rig: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

# outer_release: the newest kernel of /boot that has the module of KVM; a cloud kernel starts faster than others.
outer_release() {
	local release found=''
	for release in $(find /boot -maxdepth 1 -name 'vmlinuz-*' -readable -printf '%f\n' | sed 's/^vmlinuz-//' | sort -V); do
		grep -qs "/$module\.ko[.a-z0-9]*:" "/lib/modules/$release/modules.dep" || continue
		case $found/$release in *cloud*/*cloud* | *cloud*) [[ $release = *cloud* ]] || continue ;; esac
		found=$release
	done
	[ -n "$found" ] || die "no kernel in /boot has the modules kvm and $module; apt install linux-image-cloud-amd64"
	echo "$found"
}

# add_modules RELEASE: KVM's module and what it needs, uncompressed, and the order to load them in.
add_modules() {
	local dep file name
	mkdir -p "$image/modules"
	dep=$(grep "/$module\.ko[.a-z0-9]*:" "/lib/modules/$1/modules.dep")
	for file in ${dep/:/}; do
		name=${file##*/} name=${name%.ko*}.ko
		case $file in
			*.xz) xz -dc "/lib/modules/$1/$file" ;;
			*.zst) zstd -qdc "/lib/modules/$1/$file" ;;
			*.gz) gzip -dc "/lib/modules/$1/$file" ;;
			*) cat "/lib/modules/$1/$file" ;;
		esac >"$image/modules/$name"
		strip -g "$image/modules/$name"
		echo "$name"
	done | tac >"$image/modules/order" # what is needed stands last
}

# add_libraries PROGRAM...: what ldd says that they need, at the same paths.
add_libraries() {
	ldd "$@" | grep -o '/[^ ]*\.so[^ ]*' | sort -u | while read -r library; do
		install -D "$library" "$image$library"
	done
}

# unpacked FILE OUT: the kernel in FILE as an uncompressed one, so that no decompressor runs in emulation.
unpacked() {
	local hash
	if [ "$(head -c 4 "$1" | od -An -c | tr -d ' ')" = '177ELF' ]; then
		cp "$1" "$2"
		return
	fi
	"$rdvm" inspect -k "$1" "$image" >/dev/null # unpacks it into the cache
	hash=$(sha256sum "$1" | cut -d' ' -f1)
	[ -e "$cache/vmlinux/$hash" ] || die "$1: rdvm could not unpack it into $cache"
	cp "$cache/vmlinux/$hash" "$2"
}

# base: the outer machine's image with its kernel, the modules and a shell; $rdvm has to be there.
base() {
	local release name
	release=${RIG_KERNEL:+${RIG_KERNEL##*/vmlinuz-}}
	release=${release:-$(outer_release)}
	kernel=${RIG_KERNEL:-/boot/vmlinuz-$release}

	rm -rf --one-file-system "$image"
	mkdir -p "$image"/{bin,boot,cache/kernel,rig,tmp}
	cp "$(command -v busybox)" "$image/bin/busybox"
	for name in $(busybox --list); do [ "$name" = busybox ] || ln -s busybox "$image/bin/$name"; done
	add_modules "$release"
	cp tests/rig/{start,scenarios,shell,vmx}.sh "$image/rig"
	debian=/boot/vmlinuz-$release # where rdvm looks for it, though it is unpacked
	unpacked "$kernel" "$image$debian"
	small=${RIG_GUEST:-$cache/kernel/vmlinux}
	if [ -e "$small" ]; then unpacked "$small" "$image/cache/kernel/vmlinux"; fi
}

# build: the test program and rdvm, and the outer machine's image with both.
build() {
	local program name
	cargo test --no-run --test it 2>"$target/rig.log" || { cat "$target/rig.log" >&2; exit 1; }
	it=$(sed -n 's/^ *Executable tests\/it\/main.rs (\(.*\))$/\1/p' "$target/rig.log")
	it=$(realpath "$it")
	rdvm=$target/debug/rdvm
	base
	mkdir -p "$image/programs" "$image${rdvm%/*}"
	strip -o "$image/rig/it" "$it"
	strip -o "$image$rdvm" "$rdvm" # where the tests look for it
	ln -s "$rdvm" "$image/bin/rdvm"
	cp "$(command -v strace)" "$image/bin/strace"
	add_libraries "$it" "$rdvm" "$image/bin/strace"
	for program in tests/programs/*.c; do
		name=${program##*/} name=${name%.c}
		gcc -static -Os -s -o "$image/programs/$name" "$program"
	done
}

# add_kernels: the kernels of several releases, with a cache in which they are unpacked: xz takes minutes in emulation.
add_kernels() {
	local file
	mkdir -p "$image/kernels" "$image/unpacked"
	for file in "$kernels"/vmlinuz-*; do
		[ -e "$file" ] || die "$kernels has no kernels; scripts/get-kernels.sh fetches them"
		cp "$file" "$image/kernels"
		RDVM_CACHE=$image/unpacked "$rdvm" inspect -k "$file" "$image/rig" >/dev/null
	done
	find "$image/unpacked" -name 'at-*' -delete # stamps of this host's files
}

# outer NAME MEMORY COMMAND...: runs a command in an outer machine of that name.
#
# idle=poll: from before the pulse, when without it the outer kernel slept for ever; both cores are busy anyway.
# tsc_early_khz: with counted instructions the TSC has 1 GHz, whatever rdvm measured on the host. rcu_expedited: what is
# counted should be work, and the end of a machine otherwise waits for several ticks of the outer kernel.
#
# The pulse: QEMU's emulation of SVM clears a bit in its word of pending interrupts at every #VMEXIT, without its lock, and
# now and then so loses what another thread sets there meanwhile (docs/testing.md). The outer kernel then never hears of a
# timer that it set, and never sets another. Any later interrupt delivers the lost one too, so a byte comes in on a serial
# port five times a second. With counted instructions the timers are of the same thread.
outer() {
	local name=$1 memory=$2 words='idle=poll tsc=reliable no_timer_check nokaslr nowatchdog' pulse='' status=0
	shift 2
	if [ -n "${RIG_ICOUNT:-}" ]; then
		words+=' tsc_early_khz=1000000 rcupdate.rcu_expedited=1'
	elif [ -z "${RIG_SHELL:-}" ]; then
		RIG_PULSE=$rig/pulse.$name
		rm -f "$RIG_PULSE".{in,out}
		mkfifo "$RIG_PULSE".{in,out}
		while sleep 0.2; do echo; done 1<>"$RIG_PULSE.in" &
		pulse=$!
	fi
	RIG_PULSE=${RIG_PULSE:-} RDVM_QEMU=$top/tests/rig/qemu.sh \
		"$rdvm" run --engine qemu --timeout "${RIG_LIMIT:-900s}" -m "$memory" \
		-k "$kernel" --append "$words" --hostname "$name" \
		-e RDVM_CACHE=/cache -e RDVM_TEST_IMAGES=/images -e RDVM_TEST_PROGRAMS=/programs \
		-e RDVM_TEST_KERNELS=/kernels -e RDVM_TEST_KERNEL_CACHE=/unpacked -e RDVM_TEST_BIG \
		-e RDVM_TEST_ENGINES=kvm -e RDVM_TEST_SMALL=1 -e CI=1 -e RIG_THREADS -e RIG_PATIENCE -e "RIG_PULSE=$pulse" \
		"$image" sh /rig/start.sh "$@" </dev/null || status=$?
	[ -z "$pulse" ] || kill "$pulse"
	return "$status"
}

# scenarios [FILTER]: the tests that loop over the engines, themselves or by a helper. Those of pack, cookbook and the documents need more
# tools than are inside.
scenarios() {
	awk '/^#\[test\]/ { mark = 1 }
		/^fn / { name = $2; sub(/\(.*/, "", name); test = mark; mark = 0 }
		test && /in engines\(\)|while_sleeping\(/ {
			file = FILENAME; gsub(/.*\/|\.rs$/, "", file); print file "::" name
		}' tests/it/*.rs |
		grep -v -E '^((pack|readme|guide|examples|cookbook|support)::|root::bubblewrap)' | sort -u | grep -F -- "${1:-}" ||
		die "no scenario's name has '${1:-}' in it"
}

# Booted on the distribution's kernel too; all others boot the small one where it has been built.
on_both='^(streams::every_byte|input::every_byte|tty::the_command_has|endings::(exit_codes|a_kernel_panic|a_guest_that_resets)|surroundings::several_cpus|images::)'

# share NUMBER: one outer machine's part of the scenarios.
share() {
	outer "rig$1" "${RIG_MEMORY:-5g}" sh /rig/scenarios.sh "/rig/list.$1" >"$rig/out.$1" 2>&1 || true
}

# scenarios_on_kvm [FILTER]: the scenarios, shared by the outer machines.
scenarios_on_kvm() {
	local number=0 at=0 test names pids=()
	build
	mkdir -p "$image/images"
	cp -al "$images"/{libs,debian} "$image/images" 2>/dev/null || cp -a "$images"/{libs,debian} "$image/images" ||
		die "$images has no images; scripts/make-images.sh makes them"
	add_kernels
	rm -f "$rig"/out.*
	names=$(scenarios "${1:-}")
	for test in $names; do
		echo "default $test" >>"$image/rig/list.$((at++ % outers))"
	done
	[ ! -e "$image/cache/kernel/vmlinux" ] || for test in $(grep -E "$on_both" <<<"$names" || true); do
		echo "$debian $test" >>"$image/rig/list.$((at++ % outers))"
	done
	[ "$at" -ge "$outers" ] || outers=$at
	say "$at scenarios in $outers outer machines; large ones are smaller here (RDVM_TEST_SMALL)"
	for number in $(seq 0 $((outers - 1))); do
		share "$number" &
		pids+=($!)
	done
	wait "${pids[@]}"
	for number in $(seq 0 $((outers - 1))); do grep -v '^rig-[a-z]* ' "$rig/out.$number" || true; done
	cat "$rig"/out.* | report
}

# report: sums up the lines on stdin that are for it, see tests/rig/scenarios.sh. Fails when nothing ran, something failed, a
# machine gave no result, or more scenarios than RIG_AGAIN passed only the second time; those are named last.
report() {
	tr -d '\r' | awk -v outers="$outers" -v seconds=$((SECONDS - started)) -v most="${RIG_AGAIN:-2}" -v skips="${RDVM_TEST_SKIPS:-}" '
		/^rig-result / { seen++; ran += $2; machines += $3 }
		/^rig-failed / { failed[++failures] = $3 " (kernel " $2 ")" }
		/^rig-again / { again[++twice] = $3 " (kernel " $2 ")" }
		/^rig-skipped / {
			sub(/^rig-skipped /, "in the rig: ")
			if (skips != "") print >>skips
			else print "rig: left out: " substr($0, 13)
		}
		END {
			if (seen != outers) printf "rig: %d of %d outer machines gave no result\n", outers - seen, outers
			if (machines < ran) print "rig: fewer machines than scenarios: KVM did not run them"
			printf "rig: %d scenarios ran on kvm, %d failed, %d passed the second time; %d machines, %d s\n",
				ran, failures, twice, machines, seconds
			for (at = 1; at <= failures; at++) print "rig: failed: " failed[at]
			for (at = 1; at <= twice; at++) print "rig: passed only the second time: " again[at]
			if (twice > 0) print "rig: add each to the table in docs/testing.md, with its cause"
			if (twice > most) printf "rig: more than %d passed only the second time, so the run has failed\n", most
			exit !(ran > 0 && failures == 0 && seen == outers && machines >= ran && twice <= most)
		}'
}

# scenarios_native [FILTER]: the same on the host.
scenarios_native() {
	local names verdict
	cargo build --quiet
	verdict=$("$target/debug/rdvm" doctor | grep -E '^[a-zA-Z]+ +kvm ' || true)
	if [[ $verdict != ok* ]]; then
		say "SKIPPED, no scenario ran on the host's own KVM; doctor says: ${verdict:-nothing of kvm}"
		return
	fi
	names=$(scenarios "${1:-}")
	mkdir -p "$rig"
	rm -f "$rig/runs"
	# shellcheck disable=SC2086 # a list of words
	RDVM_TEST_RUNS=$rig/runs RDVM_TEST_ENGINES=kvm RDVM_TEST_IMAGES=$images cargo test --test it -- --exact $names
	say "$(grep '^kvm ' "$rig/runs" | sort -u | grep -c .) scenarios ran on the host's kvm"
}

# shell: joins the terminal to the shell inside, until that ends.
shell() {
	local outer input settings=''
	rm -f "$rig"/shell.*
	mkfifo "$rig/shell.in" "$rig/shell.out"
	RIG_SHELL=$rig/shell outer rig 1g sh /rig/shell.sh &
	outer=$!
	cat "$rig/shell.out" &
	if [ -t 0 ]; then
		settings=$(stty -g)
		stty raw -echo
	fi
	cat <&0 >"$rig/shell.in" &
	input=$!
	wait "$outer" || true
	kill "$input" 2>/dev/null || true
	[ -z "$settings" ] || stty "$settings"
}

verb=${1:-}
[ $# = 0 ] || shift
outers=${OUTERS:-2}
case $verb in
	test) scenarios_on_kvm "$@" ;;
	vmx | test-vmx)
		# shellcheck source=scripts/rig-vmx.sh
		. scripts/rig-vmx.sh
		vmx_"${verb%-vmx}" "$@"
		;;
	native) scenarios_native "$@" ;;
	report) report ;; # of standard input, for tests/it/rig.rs
	bench | timeline | ports | scale | plan | check | accept)
		# shellcheck source=scripts/rig-bench.sh
		. scripts/rig-bench.sh
		bench_"$verb" "$@"
		;;
	run)
		build
		outer rig 1g sh -c "$*"
		;;
	shell)
		build
		shell
		;;
	*) die "usage: rig.sh test|vmx|test-vmx|native|bench|timeline|ports|scale|plan|check|accept|run|shell, see the head of the file" ;;
esac
