#!/usr/bin/env bash
# Runs every Rust test of the default members. Most wait for callers who speak in real time, so that four run at a
# time, whatever the cores. Test files named rt_* measure real time and need the machine to themselves: they come last,
# one file and one test at a time; lab, which measures how many callers a server carries, comes before them.
set -euo pipefail
cd "$(dirname "$0")/.."

names=$(cargo metadata --no-deps --locked --format-version 1 | python3 -c '
import json, sys
meta = json.load(sys.stdin)
members = set(meta["workspace_default_members"])
tests = {target["name"] for package in meta["packages"] if package["id"] in members
         for target in package["targets"]
         # What asks for a feature is for another day (make soak).
         if "test" in target["kind"] and not target.get("required-features")}
print(*sorted(tests))')
others=() paced=()
for name in $names; do
    case $name in rt_* | lab) paced+=("$name") ;; *) others+=(--test "$name") ;; esac
done

# What each client of others does is noted by its tests, and judged as a whole after them.
rm -rf "${CARGO_TARGET_DIR:-target}/tmp/clients"

# Everything runs even after a failure, so that one run tells all there is to mend.
failed=0
cargo test --release --locked --no-fail-fast --lib --bins "${others[@]}" -- --test-threads=4 || failed=1
cargo test --release --locked --doc || failed=1
for name in "${paced[@]}"; do
    cargo test --release --locked --test "$name" -- --test-threads=1 || failed=1
done
cargo test --release --locked --test matrix -- --ignored || failed=1
exit $failed
