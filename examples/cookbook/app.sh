#!/bin/sh
# app.sh DIR INSTALL: INSTALL with a program to run.
set -e
rm -rf --one-file-system "$1"
cp -a "$2" "$1"
install -m 755 init.sh "$1/init"
