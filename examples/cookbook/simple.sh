#!/bin/sh
# simple.sh DIR: a root file system of one static program.
set -e
rm -rf "$1"
mkdir -p "$1/bin"
cp "$(command -v busybox)" "$1/bin/busybox"
ln -s busybox "$1/bin/sh"
printf '#!/bin/sh\necho "Hello from a shell."\n' >"$1/init"
chmod 755 "$1/init"
