#!/usr/bin/env bash
# What this machine carries, in about 75 minutes during which nothing else may run on it: the framework alone, real
# engines at a few numbers of callers beside the simulator's forecast for them, both capacities, and the scheduler against
# the order of arrival. Weights of profile `test`, `make engines` and `viva calibrate --profile test` come first.
#
#   scripts/capacity.sh [FOLDER]       all of it
#   ONLY="fake sim" HOLD=120 scripts/capacity.sh [FOLDER]
#
# Steps: fake (a ramp on stubs), real (1, 4, 8 callers and the simulator), ramp (at 12 and 24 s), arrival (the baseline), sim
# (the policies on five seeds, and 64 sessions on an H100). HOLD is how many seconds a number of callers is held in step
# `real`, RAMP in the ramps at 12 s a turn.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-benches/runs/$(date +%F)-capacity}
only=${ONLY:-fake real ramp arrival sim}
viva=${VIVA:-target/release/viva}
hold=${HOLD:-300}
ramp=${RAMP:-90}
mkdir -p "$folder"
log() { echo "== $*" | tee -a "$folder/log.txt" >&2; }
wants() { [[ " $only " == *" $1 "* ]]; }
# Whoever shares the machine is told of in the log.
load() { log "$* (load $(cut -d' ' -f1 /proc/loadavg))"; "$viva" load "$@" 2>>"$folder/log.txt" | tee -a "$folder/log.txt" >&2; }
sim() { "$viva" sim "$@" 2>/dev/null | tee -a "$folder/log.txt" >&2; }

if wants fake; then
    # Sessions until p95 passes 1.5 times that of one, or one frame of a hundred is late.
    load --engines stub --ramp --target-ratio 1.5 --ramp-max 256 --seconds 40 --json "$folder/fake-ramp.json"
    load --engines stub --callers 150 --seconds 60 --json "$folder/fake-150.json"
fi
if wants real; then
    # The simulator is to be within a fifth of these.
    for callers in 1 4 8; do
        load --profile test --callers $callers --seconds $hold --json "$folder/real-$callers.json"
        for machine in cpu2 cpu2-calibrated; do
            sim --machine $machine --sessions $callers --seconds $hold --ramp-up 12 --json "$folder/sim-$machine-$callers.json"
        done
    done
fi
if wants ramp; then
    load --profile test --ramp --ramp-max 24 --seconds "$ramp" --json "$folder/real-ramp-12s.json"
    # Half as many turns a minute.
    sed 's/^cycle_s = .*/cycle_s = 24.0/' presets/scenarios/short.toml >"$folder/short-24s.toml"
    load --profile test --ramp --ramp-max 48 --seconds $((ramp * 3 / 2)) --scenario "$folder/short-24s.toml" --json "$folder/real-ramp-24s.json"
fi
if wants arrival; then
    load --profile test --ramp --ramp-max 24 --seconds "$ramp" --policy arrival --json "$folder/arrival-ramp-12s.json"
fi
if wants sim; then
    for machine in cpu2 cpu2-calibrated; do
        for policy in viva arrival fifo; do
            for seed in 1 2 3 4 5; do
                sim --machine $machine --ramp --cycle 12 --policy $policy --seconds 120 --seed $seed \
                    --json "$folder/$machine-$policy-$seed.json"
            done
        done
    done
    for sessions in 1 64; do
        sim --machine h100-48 --sessions $sessions --cycle 12 --seconds 300 --json "$folder/h100-48-$sessions.json"
    done
    for policy in viva arrival; do
        sim --machine h100-48 --ramp --cycle 12 --seconds 120 --policy $policy --json "$folder/h100-48-ramp-$policy.json"
    done
fi
python3 - "$folder" <<'PY'
import glob, json, os, sys

folder = sys.argv[1]
def read(path):
    with open(path) as file:
        return json.load(file)
rows = []
for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
    report = read(path)
    felt = report.get("score") or report["outcome"]
    waited, cost = felt["voice_to_voice_ms"], felt.get("cost") or {}
    carried = (report.get("capacity") or {}).get("callers", "")
    rows.append((os.path.basename(path), carried, felt["sessions"], waited["n"], round(waited["p50"]), round(waited["p95"]),
                 cost.get("cpu_s_per_session_s", ""), cost.get("rss_mib_per_session", ""), cost.get("cpu_s_per_turn", "")))
names = ("file", "capacity", "sessions", "turns", "p50", "p95", "CPU-s a session-s", "MiB a session", "CPU-s a turn")
with open(os.path.join(folder, "table.md"), "w") as table:
    print("|", " | ".join(names), "|", file=table)
    print("|---" * len(names) + "|", file=table)
    for row in rows:
        cells = (f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row)
        print("|", " | ".join(cells), "|", file=table)
print(open(os.path.join(folder, "table.md")).read())
PY
