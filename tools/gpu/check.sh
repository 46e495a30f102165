#!/usr/bin/env bash
# What to run on a machine with an NVIDIA GPU, which needs nvcc and no Go:
#   1. builds the library; 2. the conformance suite and the CPU's bits; 3. every Op's rate; 4. jobs from beginning to end,
#   on the CPU, on the GPU, again, and with two workers: the GPU's hashes must be the same.
# Before, where there is Go:  make build && go test -c -o bin/cuda.test ./kernels/cuda
# With ZEROFLEET_CUDA_LIBRARY set nothing is built, and that library is used: the emulator's, to try this script.
# STEPS is the tiny job's.
# With a model folder as argument step 4 also trains that in bf16, 2,048 tokens at a time, on this repository's text.
set -euo pipefail
cd "$(dirname "$0")/../.."

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv || true
if [[ -z ${ZEROFLEET_CUDA_LIBRARY:-} ]]; then
	tools/cuda.sh
	export ZEROFLEET_CUDA_LIBRARY=$PWD/bin/libzerofleet_cuda.so
	bin/cuda.test -test.v | grep -v '=== RUN'
	bin/cuda.test -test.run '^$' -test.bench . -test.benchtime 0.2s
fi

out=$(mktemp -d)
trap 'rm -r "$out"' EXIT
# job NAME ARGUMENT...: launches, shows the last steps, and keeps the hash.
job() {
	local name=$1
	shift
	bin/coordinator launch "$@" --set "output.dir=$out/$name" --set checkpoint.every_steps=0 >"$out/$name.log" 2>&1 || {
		cat "$out/$name.log"
		return 1
	}
	echo "== $name"
	grep '^step' "$out/$name.log" | tail -n 3
	bin/coordinator hash "$out/$name" | tee "$out/$name.hash"
}
same() { cmp "$out/$1.hash" "$out/$2.hash" && echo "$1 and $2: the same bits"; }

tiny=(examples/tiny.yaml --set "train.steps=${STEPS:-30}" --set workers.device=cuda)
job cpu "${tiny[@]}" --set workers.device=cpu
job one "${tiny[@]}" --workers 1
job again "${tiny[@]}" --workers 1
job two "${tiny[@]}" --workers 2
same one again
same one two
if [[ $# -gt 0 ]]; then
	find . -name '*.go' -not -path './.*' -print0 | sort -z | xargs -0 cat >"$out/text.txt"
	large=(examples/tiny.yaml --set workers.device=cuda --set "model.base=$1" --set "data.train=[{path: $out/text.txt, format: text}]"
		--set data.sequence_len=2048 --set train.micro_batch_size=8 --set train.global_batch_size=32 --set train.steps=10
		--set train.precision=bf16 --set workers.threads=8)
	job large "${large[@]}" --workers 1
	job large-again "${large[@]}" --workers 1
	job large-two "${large[@]}" --workers 2
	same large large-again
	same large large-two
fi
