#!/usr/bin/env bash
# Every part of gpu.py, then the tests of MLX, on a machine with an NVIDIA card.
#
#     bash tests/gpu/run.sh        in the project's root; about 9 minutes
#
# It wants .gpu/ as prepare.sh fills it; a Hopper card (sm_90), x86-64, CPython 3.12; torch, whose CUDA
# libraries are used; numpy, tokenizers, jinja2, rich, pytest, hypothesis. Results: $OUT/gpu.jsonl and
# $OUT/pytest.txt. The parts are in order of importance; the last may be cut.
set -uo pipefail
place=$(mktemp -d)
out=${OUT:-$place}

echo "== MLX for this card, in $place"
python3 -m pip install -q --no-index --no-deps --no-compile --target "$place" .gpu/*.whl || exit
tar xJf .gpu/rest.tar.xz -C "$place"
mkdir -p "$place/mlx/lib"
xz -dc .gpu/libmlx90.so.xz > "$place/mlx/lib/libmlx.so"
export PYTHONPATH=$PWD:$place PYTHONUNBUFFERED=1 MLX_ENABLE_TF32=0
LD_LIBRARY_PATH=$(python3 - <<'PYTHON'
import glob, os, site

files = [f for p in site.getsitepackages() for f in glob.glob(p + "/nvidia/**/*.so*", recursive=True)]
print(":".join(sorted({os.path.dirname(file) for file in files})))
PYTHON
):${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH
python3 -c "
import mlx.core as mx
print(mx.__version__, mx.default_device(), mx.device_info())
print((mx.ones((4, 4)) @ mx.ones((4, 4))).sum())" || exit

part() {  # part SECONDS NAME ARGUMENT ...
  echo "== ${*:2}"
  timeout "$1" python3 tests/gpu/gpu.py "${@:2}" 2>&1 | grep -v Warning | tee -a "$out/gpu.jsonl"
}
model=$place/shape quantized=$place/shape4

part 90 make "$model"
part 90 game
part 90 seeds
part 90 threads
part 90 copies
part 90 correct "$model" float32 bfloat16 float16
MLX_ENABLE_TF32=1 part 90 correct "$model" float32  # expected: 1e-3, where the line above has 1e-5
part 90 quantize "$model" "$quantized"
[ -d "$quantized" ] && part 90 correct "$quantized" bfloat16

export MLX_CUDA_USE_CUDNN_SDPA=0  # cuDNN builds a graph for every new length: not what Metal does
part 100 speed "$model" bfloat16 ahead
part 100 speed "$model" bfloat16 late
part 80 mlxlm "$model" bfloat16
if [ -d "$quantized" ]; then
  part 60 speed "$quantized" bfloat16 ahead
  part 60 mlxlm "$quantized" as-is
fi
MLX_CUDA_USE_CUDNN_SDPA=1 part 40 speed "$model" bfloat16 ahead

timeout 150 python3 -m pytest -q -n 8 -x --maxfail=40 \
  tests/core tests/checkpoints/test_quantized.py tests/testing/test_laws.py \
  -k "mlx or ops or pipeline or Mac or mac or step" 2>&1 | tail -40 | tee "$out/pytest.txt"
