#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME each, one after another, and prints what each executed.
#   FUZZTIME=2m tools/fuzz.sh [package pattern]
set -uo pipefail
cd "$(dirname "$0")/.."

time=${FUZZTIME:-1m}
status=0
count=0
while read -r package target; do
	count=$((count + 1))
	log=$(mktemp)
	if go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10s >"$log" 2>&1; then
		printf '%-60s %s\n' "${package##*/zerofleet/} $target" "$(grep -o 'execs: [0-9]*' "$log" | tail -1)"
	else
		status=1
		printf '%-60s FAILED\n' "${package##*/zerofleet/} $target"
		cat "$log"
	fi
	rm -f "$log"
done < <(go test -list '^Fuzz' "${1:-./...}" 2>/dev/null |
	awk '/^Fuzz/ {targets[n++] = $1} /^ok/ {for (i = 0; i < n; i++) print $2, targets[i]; n = 0} /^\?|^FAIL/ {n = 0}')
echo "fuzz targets: $count"
[ "$count" -gt 0 ] || status=1
exit $status
