#!/usr/bin/env bash
# Runs every fuzz target for some time, where a nightly Rust and cargo-fuzz are installed: its seeds first, then what it finds
# from them, which is kept in fuzz/corpus. A finding ends it, and lies in fuzz/artifacts. usage: fuzz.sh [SECONDS_EACH]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-120}

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "fuzz: not run, since it needs a nightly Rust and cargo-fuzz (rustup toolchain install nightly; cargo install cargo-fuzz)"
    exit 0
fi
# Beside the other builds, and not among them: everything is built anew with the fuzzer's instruments.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/fuzz"
for target in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$target" .rs)
    mkdir -p "fuzz/corpus/$name"
    cargo +nightly fuzz run "$name" "fuzz/corpus/$name" "fuzz/seeds/$name" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1
done
