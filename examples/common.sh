# Sourced by each example's `run`: where rdvm and the outputs are. RDVM overrules the program, OUT the directory that
# is written to; nothing is written anywhere else.
# shellcheck shell=sh
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
RDVM=${RDVM:-${CARGO_TARGET_DIR:-$top/target}/release/rdvm}
out=${OUT:-$top/target/examples}

say() { printf '%s: %s\n' "${here##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# need PROGRAM...: or say how to get it.
need() {
	for program; do
		command -v "$program" >/dev/null || die "$program is missing; run scripts/install-deps.sh examples"
	done
}

need "$RDVM"
mkdir -p "$out"
