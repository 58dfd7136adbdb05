#!/bin/sh
# toolchain.sh DIR: an image with the C compiler of this host, make and busybox, and nothing that they do not need.
#
# Asks the compiler itself: which programs it starts, which headers and which parts of the C library a program needs.
# Needs neither root nor network. Made once, as DIR.tmp first, so that what is at DIR is whole; a second one waits.
set -eu
exec 9>"$1.lock"
flock 9
[ ! -d "$1" ] || exit 0
dir=$1.tmp
rm -rf "$dir"
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/bin" "$dir/etc" "$dir/root" "$dir/tmp"
chmod 1777 "$dir/tmp"

for program in busybox gcc make; do
	command -v "$program" >/dev/null || { echo "toolchain: $program is missing; run scripts/install-deps.sh examples" >&2; exit 1; }
done
if ldd "$(command -v busybox)" >/dev/null 2>&1; then
	echo "toolchain: busybox is not static; install the package busybox-static" >&2
	exit 1
fi

# add FILE...: the files under their own names, links followed, with the libraries they load.
add() {
	for file; do
		file=$(realpath -s "$file")
		[ ! -e "$dir$file" ] || continue
		mkdir -p "$dir${file%/*}"
		cp -L "$file" "$dir$file"
		ldd "$file" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do add "$library"; done
	done
}

cp "$(command -v busybox)" "$dir/bin/busybox"
busybox --list | while read -r applet; do
	[ "$applet" = busybox ] || ln -s busybox "$dir/bin/$applet"
done

add "$(command -v gcc)" "$(command -v make)"
ln -s gcc "$dir/usr/bin/cc"
for program in cc1 collect2 as ld; do
	add "$(command -v "$(gcc -print-prog-name="$program")")"
done

# The headers of C and POSIX, and what the linker opens for a program with threads and mathematics.
headers='assert ctype errno fcntl float inttypes limits locale math pthread setjmp signal stdarg stdbool stddef stdint stdio
	stdlib string sys/mman sys/stat sys/time sys/types sys/wait time unistd wchar'
for header in $headers; do echo "#include <$header.h>"; done >"$dir/tmp/all.c"
echo 'int main(void) { return 0; }' >>"$dir/tmp/all.c"
# shellcheck disable=SC2046 # lists of names without spaces
add $({ gcc -M "$dir/tmp/all.c"; gcc -M -O2 -D_FORTIFY_SOURCE=2 "$dir/tmp/all.c"; } | tr ' ' '\n' | grep '^/.*\.h$' | sort -u)
# shellcheck disable=SC2046
add $(cd "$dir/tmp" && TMPDIR=/tmp gcc -Wl,-t all.c -o all -lm -pthread | grep -v '^/tmp/.*\.o$' | grep '^/')
add "$(gcc -print-file-name=liblto_plugin.so)"
rm "$dir/tmp/all" "$dir/tmp/all.c"

mv -T "$dir" "$1"
