#!/bin/sh
# install.sh DIR DOWNLOAD SUITE [MIRROR]: DOWNLOAD's packages, installed; the packages themselves are gone.
set -e
dir=$1
download=$2
suite=$3
shift 3
rm -rf --one-file-system "$dir"
cp -a "$download" "$dir"
debootstrap --variant=minbase "$suite" "$dir" "$@" >debootstrap.log 2>&1 </dev/null || {
	tail -n 5 debootstrap.log >&2
	exit 1
}
rm -f "$dir"/var/cache/apt/archives/*.deb
