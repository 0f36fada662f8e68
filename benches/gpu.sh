#!/usr/bin/env bash
# Everything that wants a GPU, in one go: the tests against the CPU in f64, training steps beside PyTorch's,
# the `short` profile. What goes to docs/results/ lands in DIR (default gpu-results/): machine.txt with the
# device and the date, tests.txt, train_step.txt, the tables, report.html.
#
#   benches/gpu.sh [DIR] [PART...]        parts: tests bench short; all of them unless some are named
#
# Environment: REPRO_DATA (local copies of the data sets and of the Inception weights), TOOLKIT (where
# benches/cuda_env.py keeps its packages; default target/cuda-toolkit; `system` uses CUDA_HOME as it is),
# PYTHON (one that has torch 2.11.0, torchvision, pytorch-fid and safetensors; `bench` is skipped without),
# DATASET (of `short`; default cifar10), DOWNLOAD=1 (let stages fetch what is not here), REPRO_TF32=1 (the
# `short` profile in TF32).
#
# Ends with 0 if all was done, 1 if something failed, 3 if a part had to be skipped: it says which, and why.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-gpu-results}
shift || true
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(tests bench short)
out=$(mkdir -p "$folder" && cd "$folder" && pwd)
TOOLKIT=${TOOLKIT:-target/cuda-toolkit}
PYTHON=${PYTHON:-python3}
DATASET=${DATASET:-cifar10}
repro=target/release/repro
skipped=0

skip() {
    echo "SKIPPED $*" | tee -a "$out/skipped.txt" >&2
    skipped=3
}
wants() {
    local part
    for part in "${parts[@]}"; do [ "$part" = "$1" ] && return 0; done
    return 1
}
for part in "${parts[@]}"; do
    case $part in
    tests | bench | short) ;;
    *)
        echo "$part: one of tests, bench, short" >&2
        exit 2
        ;;
    esac
done

rm -f "$out/skipped.txt"
if ! nvidia-smi -L >/dev/null 2>&1; then
    echo 'no GPU: `nvidia-smi -L` finds none; nothing was built or run' >&2
    exit 1
fi
[ "$TOOLKIT" = system ] || eval "$(python3 benches/cuda_env.py "$TOOLKIT")"
cargo build --release --features cuda
{
    date -u +%FT%TZ
    git describe --always --dirty
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
    lscpu | grep -E '^(Model name|CPU\(s\))'
    echo "REPRO_TF32=${REPRO_TF32:-0}"
} | tee "$out/machine.txt"
"$repro" --device cuda doctor | tee "$out/doctor.txt"

if wants tests; then
    echo '== kernels and training against the CPU'
    # Exact products: the tests of TF32 ask for it themselves.
    REPRO_TF32=0 cargo test --release --features cuda --workspace --lib gpu_tests -- --nocapture --test-threads=1 \
        2>&1 | tee "$out/tests.txt"
    if grep SKIPPED "$out/tests.txt" >&2; then
        echo 'some tests did not run, although there is a GPU' >&2
        exit 1
    fi
fi

if wants bench; then
    echo '== training steps beside PyTorch'
    why=$("$PYTHON" -c 'import torch, torchvision, pytorch_fid, safetensors; assert torch.cuda.is_available(), "torch sees no GPU"' 2>&1) || {
        skip "bench: $PYTHON: $(tail -n 1 <<<"$why"); pip install torch==2.11.0 torchvision==0.26.0 pytorch-fid safetensors"
        why=no
    }
    if [ "$why" != no ]; then
        cargo build --release --features cuda --workspace --examples
        # LD_LIBRARY_PATH gives PyTorch the toolkit's libraries: those that torch 2.11.0 asks for itself.
        "$PYTHON" benches/train_step.py target/release/examples/train_step --device cuda | tee "$out/train_step.txt"
    fi
fi

if wants short; then
    echo "== the short profile on $DATASET"
    missing=$("$repro" doctor --json | python3 -c '
import json, sys
report = json.load(sys.stdin)
wanted = {sys.argv[1], "inception-2015-12-05"}
print(*(e["name"] for e in report["data_sets"] + report["weights"] if e["name"] in wanted and not e["path"]))' "$DATASET")
    if [ -n "$missing" ] && [ "${DOWNLOAD:-0}" != 1 ]; then
        skip "short: not here: $missing; put copies into a folder and name it in REPRO_DATA, or let the stages" \
            "download them with DOWNLOAD=1"
    else
        mapfile -t stages < <("$repro" status --profile short --json | python3 -c '
import json, sys
names = [s["stage"] for s in json.load(sys.stdin)["stages"]]
print(*(n for n in names if sys.argv[1] in n.partition("@")[2].split(",")), sep="\n")' "$DATASET")
        "$repro" run "${stages[@]}" --profile short --device cuda 2>&1 | tee "$out/run.txt"
        "$repro" tables --profile short --out "$out"
        "$repro" figures --profile short --out "$out"
        "$repro" report --profile short --out "$out/report.html"
    fi
fi
echo "results in $out"
exit $skipped
