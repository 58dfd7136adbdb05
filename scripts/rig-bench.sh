#!/usr/bin/env bash
# What scripts/rig.sh measures with counted instructions; it reads this file, and these functions use its own.

# bench_machine: the release build of rdvm in an image for measuring, below /bin whatever this directory is called, and what
# is measured: benches/guest.c as a PID 1 in an initrd and beside a directory, the small image, files to pack.
bench_machine() {
	local program flags=(-Wall -Os -s -static -nostdlib -fno-stack-protector -fno-builtin)
	flags+=(-Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro)
	cargo build --quiet --release
	rdvm=$target/release/rdvm
	rig=$target/rig-bench
	image=$rig/image
	mkdir -p "$rig"
	base
	cp "$rdvm" "$image/bin/rdvm"
	add_libraries "$rdvm"
	for program in boot counts timeline; do
		rustc --edition 2024 -O -C strip=symbols -o "$image/rig/$program" "benches/$program.rs"
		add_libraries "$image/rig/$program"
	done
	mkdir -p "$image/bench/dir" "$image/bench/many" "$rig/guest"
	gcc "${flags[@]}" -o "$image/bench/guest" benches/guest.c
	echo 'An image must not be empty.' >"$image/bench/dir/file"
	cp "$image/bench/guest" "$rig/guest/init"
	"$rdvm" pack "$rig/guest" -o "$image/bench/initrd"
	ln -s "$debian" "$image/bench/debian"
	cp "$kernel" "$image/bench/bzimage"
	mkdir -p "$image/bench/libs/bin" "$image/bench/hello"
	gcc -static -Os -s -o "$image/bench/hello/hello" scripts/hello.c
	cp "$image/bin/busybox" "$image/bench/libs/bin"
	(cd "$image/bench/many" && mkdir {00..19} && for directory in *; do seq 100 | split -l 1 -a 3 -d - "$directory/file"; done)
}

# with_qemu: Debian's QEMU, with its libraries and firmware.
with_qemu() {
	local firmware
	install -D "$(command -v qemu-system-x86_64)" "$image/usr/bin/qemu-system-x86_64"
	add_libraries "$image/usr/bin/qemu-system-x86_64"
	for firmware in /usr/share/qemu/{pvh,linuxboot,linuxboot_dma,kvmvapic}.bin /usr/share/seabios/bios-{256k,microvm}.bin; do
		install -D "$firmware" "$image$firmware"
	done
}

# versions: what the figures depend on besides rdvm.
versions() {
	printf '%s, Linux %s, small kernel %s, %s' "$(qemu-system-x86_64 --version | sed -n '1s/ emulator version//p')" "${kernel#*/vmlinuz-}" \
		"$([ ! -e "$small" ] || LC_ALL=C grep -a -o -m 1 'Linux version [^ ]*' "$small" | head -n 1 | cut -d' ' -f3)" "$(rustc --version | cut -d' ' -f1-2)"
}

# head_of KIND: the head of a table of results, without the machine: counted figures do not depend on it.
head_of() { printf '# kind: %s\n# date: %s\n# with: %s\n' "$1" "$(date -I)" "$(versions)"; }

# counts: the table of benches/counts.rs, below a head that says what it depends on.
counts() {
	local libc symbol name
	libc=$(ldd "$rdvm" | grep -o '/[^ ]*/libc\.so\.6')
	for name in malloc calloc realloc posix_memalign; do
		symbol+=" $(nm -D --defined-only "$libc" | awk -v name="$name" '{ sub(/@.*/, "", $3) } $3 == name && !seen++ { print $1 }')"
	done
	head_of 'counted on KVM in the rig: instructions as ms, exits, and what rdvm asks of the host'
	# shellcheck disable=SC2086 # a list of numbers
	RIG_ICOUNT=1 outer counts 1g /rig/counts "$libc" $symbol
}

# bench_bench: the table of benches/boot.rs, rdvm beside QEMU's machines.
bench_bench() {
	bench_machine
	with_qemu
	peers >"$rig/peers.tsv"
	cp "$rig/peers.tsv" benches/results/peers.tsv
	grep -v '^#' benches/results/peers.tsv | column -t -s "$(printf '\t')"
}

peers() {
	head_of "counted instructions on KVM in the rig, one a nanosecond; guest RAM 144 MiB"
	printf 'what\texec to user space, ms\texec to exit, ms\ta byte of output, us\n'
	RIG_ICOUNT=1 outer bench 1g /rig/boot all "$debian" /cache/kernel/vmlinux /bench/bzimage /bench/initrd /bench/guest /bench/dir
}

# with_images: three images for whole runs, and archives of them for QEMU, with benches/guest.c as PID 1: a program alone, the
# Debian image without what apt and dpkg could do without (107 MB), 50,000 files of ten bytes in 200 directories.
with_images() {
	local name
	mkdir -p "$image/bench/files/"{000..199}
	cp "$image/bench/hello/hello" "$image/bench/files"
	(cd "$image/bench/files" && for name in [0-9]*; do seq -f '%09.0f' 250 | split -l 1 -a 3 -d - "$name/file"; done)
	cp -a "$images/debian" "$image/bench/debian-image" ||
		die "$images has no debian; scripts/make-images.sh makes it"
	rm -rf "$image/bench/debian-image/"{usr/share/doc,usr/share/man,var/cache/apt,var/lib/apt/lists}
	for name in hello debian-image files; do
		"$rdvm" pack "$image/bench/$name" -o "$image/bench/$name.cpio"
		cat "$image/bench/initrd" >>"$image/bench/$name.cpio"
	done
}

# bench_scale ARCHIVES OUT: runs of the archives of files and of images of KVM_MIB MiB, made inside, as far as the outer
# machine's memory goes; lines of what, how many, and ms above those of a program alone.
bench_scale() {
	local size words='' most=0 all=0
	bench_machine
	mkdir -p "$image/bench/archives"
	run_of() { printf 'KVM\t%s\t%s\t' "$1" "$2"; printf '%s\t' rdvm run -q --engine kvm --report REPORT "$3"; printf '/hello\n'; }
	run_of hello 0 /bench/hello >"$image/bench/plan"
	for size in $(find "$1" -name '*.cpio' -printf '%f\n' | sed 's/\.cpio//' | sort -n); do
		ln "$1/$size.cpio" "$image/bench/archives" 2>/dev/null || cp "$1/$size.cpio" "$image/bench/archives"
		run_of entries "$size" "/bench/archives/$size.cpio" >>"$image/bench/plan"
		most=$((size * 6 / 1024))
	done
	for size in $KVM_MIB; do
		words+="mkdir /bench/$size; cp /bench/hello/hello /bench/$size; for part in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=/bench/$size/\$part bs=128k count=$size 2>/dev/null; done; "
		run_of bytes "$size" "/bench/$size" >>"$image/bench/plan"
		all=$((all + size))
		most=$((size * 5 / 2 > most ? size * 5 / 2 : most))
	done
	RIG_ICOUNT=1 RIG_LIMIT=${RIG_LIMIT:-3600s} outer scale "$((1024 + all + most))m" sh -c "$words exec /rig/timeline 0 /bench/plan" >"$rig/phases.scale"
	awk -F'\t' -v OFS='\t' '$2 == "hello" { hello += $5; next } { row = $2 OFS $3; if (!(row in sum)) order[++count] = row; sum[row] += $5 }
			END { for (at = 1; at <= count; at++) printf "%s\t%.1f\n", order[at], sum[order[at]] - hello }' "$rig/phases.scale" >"$2"
}

# bench_timeline: whole runs of the three images, rdvm's by phase.
bench_timeline() {
	bench_machine
	with_qemu
	with_images
	{
		scripts/bench-plan.sh runs kvm /bench "$image" /cache/kernel/vmlinux "$debian"
		# The archives that QEMU gets, so that nothing of a directory is packed.
		scripts/bench-plan.sh runs kvm /bench "$image" /cache/kernel/vmlinux "$debian" |
			sed -E 's/^KVM/rdvm of the archive/; s#(/bench/(hello|debian-image|files))\t#\1.cpio\t#'
		scripts/bench-plan.sh peers /bench "$image" /cache/kernel/vmlinux "$debian"
	} | sed 's/\trun\t/\trun\t--timeout\t10s\t/' >"$image/bench/plan" # benches/timeline.rs says why
	RIG_ICOUNT=1 RIG_LIMIT=${RIG_LIMIT:-1800s} outer timeline "${RIG_MEMORY:-4g}" /rig/timeline 1 /bench/plan | sed 's/debian-image/Debian/; s/\tfiles\t/\t50,000 files\t/' >"$rig/phases"
	{
		head_of 'counted instructions on KVM in the rig, one a nanosecond'
		printf 'engine\tkernel\timage\tphase\tms\n'
		grep '^KVM' "$rig/phases"
	} >benches/results/timeline-kvm.tsv
	{
		head_of 'counted instructions on KVM in the rig, from exec to exit, ms; rdvm packs while it runs, for QEMU the archive was ready; second run'
		awk -F'\t' -v OFS='\t' '
			{ row = ($1 == "KVM" ? "rdvm" : $1) ", " $2; if (!(row in rows)) { rows[row]; order[++count] = row } sum[row, $3] += $5 }
			END {
				print "what", "hello", "Debian", "50,000 files", "Debian above hello", "50,000 files above hello"
				for (at = 1; at <= count; at++) {
					row = order[at]; hello = sum[row, "hello"]; tree = sum[row, "Debian"]; files = sum[row, "50,000 files"]
					printf "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\n", row, hello, tree, files, tree - hello, files - hello
				}
			}' "$rig/phases"
	} >benches/results/whole.tsv
	cat benches/results/whole.tsv
}

# bench_ports: how fast bytes go in and out on KVM.
bench_ports() {
	local size sizes='4096 65536 1048576 16777216'
	bench_machine
	for size in $sizes; do head -c "$size" /dev/urandom >"$image/bench/blob.$size"; done
	# shellcheck disable=SC2086 # a list of numbers
	scripts/bench-plan.sh ports kvm /bench $sizes >"$image/bench/plan"
	{
		head_of 'counted instructions on KVM in the rig; time of a run above one that carries nothing'
		RIG_ICOUNT=1 RIG_LIMIT=${RIG_LIMIT:-1800s} outer ports 2g /rig/timeline 0 /bench/plan | scripts/bench-plan.sh speeds
	} >"$rig/ports.tsv"
	cp "$rig/ports.tsv" benches/results/ports-kvm.tsv
	cat "$rig/ports.tsv"
}

# bench_plan PLAN [WORDS]: the phases of any runs on KVM, in counted instructions; PLAN as benches/timeline.rs says, WORDS of sh before.
bench_plan() {
	bench_machine
	cp "$1" "$image/bench/plan"
	RIG_ICOUNT=1 RIG_LIMIT=${RIG_LIMIT:-1800s} outer plan "${RIG_MEMORY:-2g}" sh -c "${2:-}
		exec /rig/timeline 0 /bench/plan"
}

# counted: the table of what a start costs now; a second time when a machine came to no end (docs/testing.md).
counted() {
	bench_machine
	counts >"$rig/counts.tsv" || {
		say 'not counted to the end; once more'
		counts >"$rig/counts.tsv"
	}
}

# bench_check: what a start costs now against what is committed; fails when a figure has grown by more than 5 %.
bench_check() {
	counted
	cargo run --quiet -p figures -- compare benches/results/counts.tsv "$rig/counts.tsv"
}

# bench_accept: what a start costs now becomes what is committed.
bench_accept() {
	counted
	cp "$rig/counts.tsv" benches/results/counts.tsv
	say "benches/results/counts.tsv is written; make bench-draw shows it in docs/performance.md"
}
