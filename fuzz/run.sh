#!/usr/bin/env bash
# Runs the fuzz targets, each for SECONDS (default 60); a finding stays below fuzz/artifacts and is a failure.
#
#   fuzz/run.sh [SECONDS]
#
# Wants rustup's nightly toolchain, and installs cargo-fuzz where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}

if ! rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
	echo "fuzz: a nightly toolchain is missing; rustup toolchain install nightly" >&2
	exit 1
fi
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz

# It is a kernel's header that counts, so no input needs to be long. The time-out is for what never ends; the targets
# themselves see to it that no input is slow.
for target in $(cargo +nightly fuzz list); do
	mkdir -p "fuzz/corpus/$target"
	cargo +nightly fuzz run --target-dir "${CARGO_TARGET_DIR:-target}/fuzz" "$target" -- \
		-max_total_time="$seconds" -timeout=20 -max_len=65536 -print_final_stats=1
done
