#!/usr/bin/env bash
# Everything that wants a GPU, in one go: kernel tests against the CPU in f64, training steps timed, the
# `short` profile. Results land in DIR (default gpu-results/), with the device and the date.
#
#   benches/gpu.sh [DIR]
#
# Environment: REPRO_DATA (local copies of the data sets), TOOLKIT (where benches/cuda_env.py keeps its
# packages; default target/cuda-toolkit; `system` uses CUDA_HOME as it is), REPRO_TF32=1.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)
TOOLKIT=${TOOLKIT:-target/cuda-toolkit}
[ "$TOOLKIT" = system ] || eval "$(python3 benches/cuda_env.py "$TOOLKIT")"

cargo build --release --features cuda
repro=target/release/repro
{ date -u +%FT%TZ; git rev-parse HEAD; nvidia-smi -L; } | tee "$out/machine.txt"
"$repro" --device cuda doctor | tee "$out/doctor.txt"

echo '== kernels and training against the CPU'
cargo test --release --features cuda -p stages --lib gpu_tests -- --nocapture --test-threads=1 \
    2>&1 | tee "$out/tests.txt"
if grep -q SKIPPED "$out/tests.txt"; then
    echo 'some tests did not run: see SKIPPED above' >&2
    exit 1
fi

echo '== training steps'
for model in vae flow-layer glow; do
    printf '%s ' "$model"
    # Losses are read back every 32 steps, so progress is a matter of hundreds.
    REPRO_DEVICE=cuda:0 cargo run --release --features cuda -p stages --example train_step -- "$model" 320 64
done | tee "$out/train_step.txt"

echo '== the short profile'
"$repro" run --profile short --device cuda 2>&1 | tee "$out/run.txt"
"$repro" tables --profile short --out "$out"
"$repro" report --profile short --out "$out/report.html"
echo "results in $out"
