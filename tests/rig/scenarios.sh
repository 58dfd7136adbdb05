#!/bin/sh
# Inside the outer machine: runs scenario tests on KVM and says what really ran.
#
#   scenarios.sh LIST
#
# LIST has a line `KERNEL TEST` for each test; KERNEL is a file, or `default`. Some lines of the output are for
# the rig: "rig-again KERNEL TEST" names a test that passed only when run again, "rig-failed KERNEL TEST" one that did
# not, "rig-skipped TEST: WHY" what was left out; the last line is "rig-result SCENARIOS MACHINES". SCENARIOS is how many
# tests started a run on KVM. MACHINES is KVM's own count of machines made, which it sends in a uevent each time.
# With RIG_TRIES=1 nothing is run again.
# shellcheck shell=dash # busybox, which has local too
list=$1
scenarios=0 failed=0
export RDVM_TEST_SKIPS=/tmp/skips
mkdir -p /var/tmp # where scratch space is, as on any Debian

# watch: after the time for the tests of one kernel says what the threads of each machine are doing, and ends the tests.
watch() {
	sleep "${RIG_PATIENCE:-600}"
	for process in $(pidof rdvm); do
		echo "rig: stuck: $(tr '\0' ' ' <"/proc/$process/cmdline" | cut -c1-200)"
		for task in "/proc/$process/task"/*; do
			echo "rig:   $(cut -d' ' -f2,3,14,15 "$task/stat") $(sed 's/+.*//; s/.*] //' "$task/stack" | tr '\n' ' ')"
		done
	done
	killall it rdvm
}

# attempt NAME...: runs tests; leaves their names that failed or did not end in /tmp/bad.
attempt() {
	local name
	watch &
	/rig/it --test-threads="${RIG_THREADS:-2}" --exact "$@" 2>&1 | tee /tmp/tests
	kill "$!"
	for name do
		grep -q "^test $name \.\.\. ok" /tmp/tests || echo "$name"
	done >/tmp/bad
}

# tests KERNEL: runs the tests of the list that are to boot it. What fails is run once more and named: emulated SVM loses
# an interrupt now and then (docs/testing.md), and what fails twice has another reason.
tests() {
	local name bad verdict
	export RDVM_TEST_RUNS="/tmp/runs.${1##*/}"
	touch "$RDVM_TEST_RUNS"
	echo "kernel: $1"
	# shellcheck disable=SC2046 # a list of words
	attempt $(sed -n "s|^$1 ||p" "$list")
	bad=$(cat /tmp/bad)
	for name in $bad; do
		verdict=rig-failed
		if [ "${RIG_TRIES:-2}" -gt 1 ]; then
			echo "rig: $name failed or did not end; once more"
			attempt "$name"
			[ -s /tmp/bad ] || verdict=rig-again
		fi
		echo "$verdict ${1##*/} $name"
		[ "$verdict" = rig-again ] || failed=$((failed + 1))
	done
	scenarios=$((scenarios + $(grep '^kvm ' "$RDVM_TEST_RUNS" | sort -u | wc -l)))
}

# shellcheck disable=SC2016 # the variable is uevent's
uevent sh -c 'test -z "$CREATED" || echo "$CREATED" >/tmp/machines' &
events=$!
# shellcheck disable=SC2013 # names of files without spaces
for kernel in $(cut -d' ' -f1 "$list" | sort -u); do
	if [ "$kernel" != default ]; then export RDVM_KERNEL="$kernel"; else unset RDVM_KERNEL; fi
	tests "$kernel"
done
sleep 1 # for the last event
kill "$events"
[ ! -e /tmp/skips ] || sort -u /tmp/skips | sed 's/^/rig-skipped /'
echo "rig-result $scenarios $(cat /tmp/machines 2>/dev/null || echo 0)"
[ "$failed" = 0 ]
