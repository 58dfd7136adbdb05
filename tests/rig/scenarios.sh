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

# tests KERNEL: runs the tests of the list that are to boot it.
tests() {
	local code=0 failures
	export RDVM_TEST_RUNS="/tmp/runs.${1##*/}"
	touch "$RDVM_TEST_RUNS"
	# shellcheck disable=SC2046 # a list of words
	/rig/it --test-threads="${RIG_THREADS:-2}" --exact $(sed -n "s|^$1 ||p" "$list") >/tmp/tests 2>&1 || code=$?
	echo "kernel: $1"
	grep -v '^$' /tmp/tests
	failures=$(grep -c '^test .* FAILED$' /tmp/tests)
	# A test program that dies names no failed test.
	[ "$code" = 0 ] || [ "$failures" -gt 0 ] || failures=1
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
