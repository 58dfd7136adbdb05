#!/bin/sh
# Counts and lists what tests have left out for want of a tool, of root, of time: the lines of the file RDVM_TEST_SKIPS.
skips=${RDVM_TEST_SKIPS:?}
touch "$skips"
set +x
printf 'tests: %d left out, whole or in part\n' "$(sort -u "$skips" | wc -l)"
sort -u "$skips" | sed 's/^/tests: left out: /'
