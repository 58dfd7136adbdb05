#!/bin/sh
# Inside the outer machine with VT-x: runs rdvm on kvm-intel and looks at exit code and bytes.
#
#   vmx.sh KERNEL
# shellcheck shell=dash # busybox, which has local too
kernel=$1
machines=0

# loaded WORDS...: loads kvm-intel with these parameters and makes sure that they hold; by default Intel's CPU has both.
loaded() {
	local name
	rmmod kvm_intel
	insmod /modules/kvm-intel.ko "$@" || exit 1
	for name in unrestricted_guest ept; do
		case " $* " in *" $name=0 "*) wanted=N ;; *) wanted=Y ;; esac
		# There is no unrestricted guest without EPT.
		case "$name $*" in 'unrestricted_guest ept=0') wanted=N ;; esac
		[ "$(cat "/sys/module/kvm_intel/parameters/$name")" = "$wanted" ] ||
			{ echo "rig-vmx bad: kvm-intel $*: $name is not $wanted"; exit 1; }
	done
	with="$*"
}

# right CPUS: all bytes come back with the number of CPUs behind them, standard error apart, and the exit code.
right() {
	local code=0 name="$1 CPUs${with:+, $with}"
	{ cat /tree/bytes; echo "$1"; } >/tmp/wanted
	rdvm run -q --engine kvm -k "$kernel" --timeout 300s --cpus "$1" --report /tmp/report /tree -- \
		sh -c 'busybox cat /bytes; busybox nproc; echo and this >&2; exit 37' >/tmp/stdout 2>/tmp/stderr || code=$?
	if [ "$code" = 37 ] && cmp /tmp/wanted /tmp/stdout && [ "$(cat /tmp/stderr)" = 'and this' ] &&
		grep -q '"engine": "kvm"' /tmp/report; then
		echo "rig-vmx good: $name"
	else
		echo "rig-vmx bad: $name: exit code $code, $(wc -c </tmp/stdout) bytes"
		tail -n 5 /tmp/stderr
		dmesg | tail -n 5
	fi
}

grep -m 1 'model name' /proc/cpuinfo
# shellcheck disable=SC2016 # the variable is uevent's
uevent sh -c 'test -z "$CREATED" || echo "$CREATED" >/tmp/machines' &
events=$!
loaded
right 1
right 4
loaded unrestricted_guest=0 # the second CPU starts in virtual 8086 mode: identity map and TSS
right 2
loaded ept=0
right 2
sleep 1 # for the last event
kill "$events"
machines=$(cat /tmp/machines 2>/dev/null || echo 0)
echo "KVM's own count of machines: $machines"
[ "$machines" -ge 4 ]
