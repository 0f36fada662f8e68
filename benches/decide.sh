#!/usr/bin/env bash
# Readings of the paper that a measurement could decide (docs/fidelity.md), each trained in turn on CIFAR-10:
# bits/dim of held-out images by epoch, and seconds per epoch against Table 4's ratios.
#
#     benches/decide.sh PROFILE [SECONDS] [EPOCHS] [more arguments of repro, such as --device cuda]
#
# `benches/decide.sh short 600 2 --device cuda` is meant for ten minutes of a GPU, `quick 600` for two cores. What no
# longer fits into SECONDS is left out and said; results are kept, so that a second call goes on. Prints a table and
# writes it to decide.md as it goes. Nothing here changes pipeline.toml: who has run it writes what came out into
# docs/fidelity.md.
set -uo pipefail
cd "$(dirname "$0")/.."
profile=${1:?which profile}; seconds=${2:-600}; epochs=${3:-2}; shift $(($# < 3 ? $# : 3))
repro=${REPRO_BIN:-target/release/repro}
out=decide.md

say() { printf '%s\n' "$*" | tee -a "$out"; }

# train STAGE [--set ...]: runs a stage and what it needs, within what is left of the time.
train() {
  local left=$((seconds - SECONDS))
  [ $left -gt 10 ] || { echo "no time left"; return 1; }
  timeout -s INT -k 30 "$left" "$repro" run "$1" --profile "$profile" "${@:2}" "${more[@]}" >>decide.log 2>&1
}

# The held-out numbers of each epoch in the history of a stage, and seconds per epoch of its training.
history() {
  "$repro" explain "$1" --profile "$profile" --json "${@:2}" "${more[@]}" 2>/dev/null | python3 -c '
import json, os, sys
about = json.load(sys.stdin)[0]
record = about["record"]
path = os.environ.get("REPRO_STORE", "artifacts") + "/results/" + record["result"]["fp"] + "/history.jsonl"
epochs = [json.loads(line) for line in open(path)]
key = sys.argv[1]
shown = " ".join("%.4f" % e["valid"][key] for e in epochs)
print("| %s | %.1f |" % (shown, record["wall_seconds"] / max(1, len(epochs))))
' "$key"
}

# arm NAME STAGE KEY [--set ...]
arm() {
  local name=$1 stage=$2 key=$3; shift 3
  if train "$stage" "$@"; then say "| $name $(history "$stage" "$@")"; else say "| $name | not run: see decide.log | |"; fi
}

more=("$@")
: >"$out"; : >decide.log
say "Profile $profile, $epochs epochs, on $(uname -m), $(date +%F). Held-out numbers by epoch; seconds of an epoch with all around it."
say ""
say "| reading | held-out | s/epoch |"
say "|---|---|--:|"
short=(--set "glow.train.epochs=$epochs")
for start in identity paired data; do
  arm "flow layer starts: $start (A4), bits/dim" glow@cifar10 bits/dim "${short[@]}" --set "glow.flow.start=$start"
done
for split in condition-on-one alternate; do
  arm "couplings split: $split (A3), bits/dim" glow@cifar10 bits/dim "${short[@]}" --set "glow.flow.split=$split"
done
for width in 128 256; do
  arm "width $width (A1), bits/dim" glow@cifar10 bits/dim "${short[@]}" --set "glow.flow.width=$width"
done
for start in zero drawn; do
  arm "deviations start: $start (A37), bits/dim of the VAE" vae@cifar10 bits/dim --set "vae.train.epochs=$epochs" \
    --set "vae.covariance.start=$start"
done
arm "prior for 50 epochs (A16), -ln p(z)" fixed-prior@cifar10 loss
# Table 4: the paper's ratio of Glow to the mean of VAE and flow layer is 512 / 140 = 3.7.
if train timing; then
  "$repro" tables 4 --profile "$profile" "${more[@]}" 2>>decide.log | sed -n '/^|/p' | tee -a "$out"
else
  say "Table 4: not run, see decide.log"
fi
