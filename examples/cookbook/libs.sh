#!/bin/sh
# libs.sh DIR SIMPLE: SIMPLE with hello and the libraries that it needs.
set -e
rm -rf "$1"
cp -a "$2" "$1"
cc -O2 -s -o "$1/bin/hello" hello.c
ldd "$1/bin/hello" | grep -o '/[^ ]*' | while read -r library; do
	mkdir -p "$1/${library%/*}"
	cp -L "$library" "$1$library"
done
