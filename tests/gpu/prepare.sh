#!/usr/bin/env bash
# Fill .gpu/ (about 22 MB) with what run.sh needs on a machine without internet.
#
#     bash tests/gpu/prepare.sh [FOLDER]
#
# That is MLX with its CUDA back end for one NVIDIA Hopper card (sm_90), CPython 3.12 and x86-64 Linux,
# and mlx-lm. The library is made small by prune.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-.gpu} mlx=0.32.4 mlx_lm=0.32.2
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

download() {  # download FOLDER REQUIREMENT
  python3 -m pip download -q --no-deps --only-binary=:all: -d "$1" \
    --python-version 3.12 --implementation cp --platform manylinux_2_35_x86_64 \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 "$2" 2>/dev/null
}

mkdir -p "$folder"
download "$temporary/cuda" "mlx-cuda-13==$mlx"
download "$folder" "mlx==$mlx"
download "$folder" "mlx-lm==$mlx_lm"

python3 -m zipfile -e "$temporary"/cuda/*.whl "$temporary/wheel"
library=$temporary/wheel/mlx/lib/libmlx.so
python3 "$here/prune.py" "$library" "$temporary/libmlx90.so" 90
rm "$library"
xz -T2 -9 -c "$temporary/libmlx90.so" > "$folder/libmlx90.so.xz"
tar -C "$temporary/wheel" -cJf "$folder/rest.tar.xz" .
du -sh "$folder"
