#!/bin/sh
# Inside the outer machine: runs scenario tests on KVM and says what really ran.
#
#   scenarios.sh LIST
#
# LIST has a line `KERNEL TEST` for each test; KERNEL is a file, or `default`. The last line of the output is for
# scripts/rig.sh: "rig-result SCENARIOS MACHINES FAILED". SCENARIOS is how many tests started a run on KVM. MACHINES is
# KVM's own count of machines made, which it sends in a uevent each time.
list=$1
scenarios=0 failed=0

# watch: after the time for the tests of one kernel says what the threads of each machine are doing, and ends the tests.
watch() {
	sleep "${RIG_PATIENCE:-270}"
	for process in $(pidof rdvm); do
		echo "rig: stuck: $(tr '\0' ' ' <"/proc/$process/cmdline" | cut -c1-200)"
		for task in "/proc/$process/task"/*; do
			echo "rig:   $(cut -d' ' -f2,3,14,15 "$task/stat") $(sed 's/+.*//; s/.*] //' "$task/stack" | tr '\n' ' ')"
		done
	done
	killall it rdvm
}

# tests KERNEL: runs the tests of the list that are to boot it.
tests() {
	local names failures
	export RDVM_TEST_RUNS="/tmp/runs.${1##*/}"
	touch "$RDVM_TEST_RUNS"
	echo "kernel: $1"
	names=$(sed -n "s|^$1 ||p" "$list")
	# shellcheck disable=SC2086 # a list of words
	watch &
	/rig/it --test-threads="${RIG_THREADS:-2}" --exact $names 2>&1 | tee /tmp/tests
	kill "$!"
	failures=$(grep -c '^test .* FAILED$' /tmp/tests)
	for name in $names; do
		grep -q "^test $name \.\.\. " /tmp/tests || {
			echo "rig: $name did not end"
			failures=$((failures + 1))
		}
	done
	failed=$((failed + failures))
	scenarios=$((scenarios + $(grep '^kvm ' "$RDVM_TEST_RUNS" | sort -u | wc -l)))
}

uevent sh -c 'test -z "$CREATED" || echo "$CREATED" >/tmp/machines' &
events=$!
for kernel in $(cut -d' ' -f1 "$list" | sort -u); do
	if [ "$kernel" != default ]; then export RDVM_KERNEL="$kernel"; else unset RDVM_KERNEL; fi
	tests "$kernel"
done
sleep 1 # for the last event
kill "$events"
echo "rig-result $scenarios $(cat /tmp/machines 2>/dev/null || echo 0) $failed"
[ "$failed" = 0 ]
