#!/usr/bin/env bash
# Installs what bench/collectives measures itself against and this machine lacks, from apt (through sudo when not root), and
# says what it installs: Open MPI with its compiler, and iperf3. Nothing else of the project needs them.
set -euo pipefail

missing=()
command -v mpirun >/dev/null || missing+=(openmpi-bin)
command -v mpicc >/dev/null || missing+=(libopenmpi-dev)
command -v iperf3 >/dev/null || missing+=(iperf3)
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "openmpi.sh: missing, and there is no apt-get here to install it with: ${missing[*]}" >&2
	exit 1
fi
root=()
[ "$(id -u)" = 0 ] || root=(sudo)
echo "openmpi.sh: installing from apt: ${missing[*]}"
"${root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
