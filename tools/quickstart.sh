#!/usr/bin/env bash
# make quickstart: fetches SmolLM2-135M-Instruct and makes questions and answers from the Go standard library's
# documentation (both into the ignored .cache), asks the model one question, fine-tunes it on two ZeRO-3 workers, and asks
# again. Ends with the time from launch to exit.
set -euo pipefail
cd "$(dirname "$0")/.."

run=runs/quickstart
question=${QUESTION:-"What does strings.Cut do?"}

model=$(tools/fetch/smollm2.sh)
data=.cache/quickstart
go run ./tools/quickstart "$data"
# Perplexity is taken on at most 4,000 tokens: 45 of the records that are held out.
head -n 45 "$data/eval.jsonl" >"$data/eval-short.jsonl"

ask() {
	bin/coordinator generate --model "$1" --chat --max-tokens 80 --prompt "$question"
}

before=$(ask "$model")
printf '\nbefore: %s\n%s\n\n' "$question" "$before"

rm -rf "$run" # of the last quickstart
start=$(date +%s)
bin/coordinator launch examples/quickstart.yaml --set output.dir="$run"
took=$(($(date +%s) - start))

printf '\nbefore: %s\n%s\n' "$question" "$before"
printf '\nafter: %s\n%s\n' "$question" "$(ask "$run/model")"
printf '\nfrom launch to exit: %d s; the run is in %s, the model in %s/model\n' "$took" "$run" "$run"
