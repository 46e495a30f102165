#!/usr/bin/env bash
# Makes the ignored .venv that tools/golden, tools/roundtrip and bench/train run in: torch, transformers and the rest of
# tools/golden/requirements.txt, from PyPI. No Go test needs it. PyPI's Linux torch brings its CUDA libraries: several GB
# to download and to keep. Does nothing when .venv already holds what the file asks for; prints .venv's python.
#   $(tools/venv.sh) tools/golden/model.py
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=tools/golden/requirements.txt
python=.venv/bin/python
stamp=$(sha256sum "$requirements" | cut -d' ' -f1)
if [ ! -x "$python" ] || [ "$(cat .venv/requirements.sha256 2>/dev/null)" != "$stamp" ]; then
	if ! python3 -c 'import ensurepip' 2>/dev/null; then
		echo "venv.sh: python3 makes no virtual environments: install it whole (Debian and Ubuntu: apt-get install python3-venv)" >&2
		exit 1
	fi
	echo "venv.sh: installing $requirements into .venv, several GB with torch's CUDA libraries" >&2
	python3 -m venv .venv
	"$python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" >&2
	echo "$stamp" >.venv/requirements.sha256 # last: an interrupted run is not taken for a whole one
fi
echo "$PWD/$python"
