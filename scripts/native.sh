#!/usr/bin/env bash
# Throws away compiled C++ that was made for another processor or with other flags: cargo does not see that either
# has changed, and a binary for another processor dies of an illegal instruction.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
stamp=$target/.native
now=$( { grep -m1 -E '^(flags|Features)' /proc/cpuinfo || uname -m
         cat .cargo/config.toml
         env | grep -E '^(CMAKE_|GGML_|LLAMA_|WHISPER_)' | sort || true; } | sha256sum)
if [ -d "$target" ] && [ "$(cat "$stamp" 2>/dev/null)" != "$now" ]; then
    cargo clean --quiet --release --locked -p llama-cpp-sys-2 -p whisper-rs-sys
fi
mkdir -p "$target"
echo "$now" >"$stamp"
