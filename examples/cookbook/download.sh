#!/bin/sh
# download.sh DIR SUITE [MIRROR]: the packages of a minimal Debian or Ubuntu, not installed.
set -e
dir=$1
shift
rm -rf --one-file-system "$dir"
suite=$1
[ $# = 0 ] || shift
debootstrap --variant=minbase --download-only "$suite" "$dir" "$@" >debootstrap.log 2>&1 </dev/null || {
	tail -n 5 debootstrap.log >&2
	exit 1
}
