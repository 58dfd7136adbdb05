#!/usr/bin/env bash
# Plans for benches/timeline.rs: what is run, on stdout.
#
#   scripts/bench-plan.sh runs ENGINE DIR ROOT SMALL DEBIAN    the images DIR/{hello,debian-image,files}, with both kernels
#   scripts/bench-plan.sh peers DIR ROOT SMALL DEBIAN          the same by QEMU's microvm on KVM, of the archives DIR/*.cpio
#   scripts/bench-plan.sh ports ENGINE DIR SIZE...             bytes in and out of DIR/libs; DIR/blob.SIZE has as many
#   scripts/bench-plan.sh speeds <PHASES                       of the phases of such a plan: port, bytes, MB/s
#
# ENGINE is kvm or qemu. ROOT is where the rig's image is put together, or empty. A kernel that is not there is left out; standard output and standard error stop at PORTS_MOST bytes (1 MiB).
set -euo pipefail

# row LABEL LABEL LABEL WORD...
row() {
	printf '%s' "$1"
	shift
	printf '\t%s' "$@"
	echo
}

# kernels ROOT SMALL DEBIAN: name and file of those that are there.
kernels() {
	if [ -e "$1$2" ]; then printf 'small kernel\t%s\n' "$2"; fi
	printf "Debian's kernel\t%s\n" "$3"
}

runs() {
	local engine=$1 dir=$2 root=$3 kernel file name command
	while IFS=$'\t' read -r kernel file; do
		for name in hello debian-image files; do
			[ -d "$root$dir/$name" ] || continue
			command=/hello
			if [ "$name" = debian-image ]; then command=/bin/true; fi
			row "${engine^^}" "$kernel" "$name" rdvm run -q --engine "$engine" --report REPORT -k "$file" "$dir/$name" "$command"
		done
	done < <(kernels "$root" "$4" "$5")
}

# Options as in benches/boot.rs.
peers() {
	local dir=$1 kernel file name
	while IFS=$'\t' read -r kernel file; do
		for name in hello debian-image files; do
			row 'QEMU microvm' "$kernel" "$name" qemu-system-x86_64 -accel kvm -cpu host \
				-M microvm,rtc=on,pit=off,pic=off,isa-serial=off -m 640 -nodefaults -no-user-config -no-reboot -display none \
				-chardev null,id=console -device isa-serial,chardev=console,index=0 \
				-chardev null,id=stdout -device isa-serial,chardev=stdout,index=1 -kernel "$file" -initrd "$dir/$name.cpio" -append \
				'console=ttyS0 8250.nr_uarts=4 panic=-1 reboot=t cryptomgr.notests random.trust_cpu=on quiet loglevel=1 rdinit=/init'
		done
	done < <(kernels "$2" "$3" "$4")
}

ports() {
	local engine=$1 dir=$2 size
	shift 2
	# run PORT SIZE WORDS: through a shell, which gives it its standard input.
	run() { row "$1" "${engine^^}" "$2" sh -c "exec rdvm run -q --engine $engine -m 640m $3"; }
	run nothing 0 "$dir/libs busybox true </dev/null"
	for size; do
		if [ "$size" -le "${PORTS_MOST:-1048576}" ]; then
			run 'standard output' "$size" "$dir/libs busybox head -c $size /dev/zero"
			run 'standard error' "$size" "$dir/libs -- busybox sh -c 'busybox head -c $size /dev/zero >&2'"
		fi
		run 'standard input' "$size" "-i $dir/libs busybox dd of=/dev/null bs=64k <$dir/blob.$size"
		run '--copy-in' "$size" "--copy-in $dir/blob.$size:/blob $dir/libs busybox true"
		run '--copy-out' "$size" "--copy-out /blob:$dir/out $dir/libs busybox truncate -s $size /blob"
	done
}

# The time of a run that carries nothing is taken away; what is left may be noise for few bytes, and is left out then.
speeds() {
	printf 'what\tbytes\tMB/s\n'
	awk -F'\t' -v OFS='\t' '
		$1 == "nothing" { nothing += $5; next }
		{ row = $1 OFS $3; if (!(row in sum)) order[++count] = row; sum[row] += $5; bytes[row] = $3 }
		END {
			for (at = 1; at <= count; at++) {
				ms = sum[order[at]] - nothing
				if (ms > nothing * '"${NOISE:-0}"') printf "%s\t%.3g\n", order[at], bytes[order[at]] / ms / 1e3
			}
		}'
}

verb=${1:-}
[ $# = 0 ] || shift
case $verb in
	runs | peers | ports | speeds) "$verb" "$@" ;;
	*)
		echo 'usage: bench-plan.sh runs|peers|ports|speeds, see the head of the file' >&2
		exit 1
		;;
esac
