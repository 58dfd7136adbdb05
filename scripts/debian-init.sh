#!/bin/sh
# /init of the `debian` image: counts what is installed in it.
set -e
PATH=/usr/sbin:/usr/bin:/sbin:/bin
echo "$(dpkg-query -W -f '.\n' | wc -l) packages"
