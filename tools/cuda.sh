#!/usr/bin/env bash
# Builds bin/libzerofleet_cuda.so, which a worker opens when its job asks for a GPU, from kernels/cuda with nvcc.
#   NVCC          the compiler (nvcc on PATH, else /usr/local/cuda/bin/nvcc)
#   CUDA_ARCHS    compute capabilities to build for ("80 90"); cards newer than the last run its PTX
#   CUBLAS        folder with include/cublasLt.h and lib/libcublasLt.so, where they are not nvcc's own
set -euo pipefail
cd "$(dirname "$0")/.."

NVCC=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if ! command -v "$NVCC" >/dev/null; then
	echo "cuda: no nvcc on PATH and none at $NVCC: install the CUDA toolkit (12 or newer), or name it with NVCC=" >&2
	exit 1
fi
archs=()
for a in ${CUDA_ARCHS:-80 90}; do
	archs+=("-gencode=arch=compute_$a,code=sm_$a")
	last=$a
done
archs+=("-gencode=arch=compute_$last,code=compute_$last")
# No contraction: the optimizer's kernels have the bits of kernels/cpu. Division, roots and subnormals are IEEE's by default.
flags=(-std=c++17 -O3 -fmad=false -Xcompiler -fPIC,-fvisibility=hidden "${archs[@]}")
link=(-lcublasLt)
if [[ -n ${CUBLAS:-} ]]; then
	flags+=("-I$CUBLAS/include")
	lib=$(ls "$CUBLAS"/lib/libcublasLt.so* | head -n 1)
	link=("$lib" -Xlinker "-rpath=$CUBLAS/lib")
fi

mkdir -p bin/cuda
printf '%s\n' kernels/cuda/*.cu | xargs -P "$(nproc)" -I{} sh -c '"$0" "$@" -c {} -o bin/cuda/$(basename {} .cu).o' "$NVCC" "${flags[@]}"
"$NVCC" -shared -o bin/libzerofleet_cuda.so bin/cuda/*.o "${link[@]}"
rm -r bin/cuda
echo "bin/libzerofleet_cuda.so: $("$NVCC" --version | tail -n 1), for ${CUDA_ARCHS:-80 90}"
