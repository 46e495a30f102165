#!/usr/bin/env bash
# Installs what a verb of the Makefile needs and this machine lacks, from apt (through sudo when not root), and says
# what it installs. Everything else comes from the Go module proxy into .tools/.
#   tools/setup.sh build | test | lint | generate | quickstart
set -euo pipefail
cd "$(dirname "$0")/.."

verb=${1:?"usage: tools/setup.sh build|test|lint|generate|quickstart"}
missing=()

# need PACKAGE TEST...: PACKAGE is missing unless the test succeeds.
need() {
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || missing+=("$package")
}

have() { command -v "$1"; }
# The matrix products' library is opened at run time; without it slower ones of our own are used.
onednn() { [[ $(PATH=$PATH:/sbin:/usr/sbin ldconfig -p) == *libdnnl.so* ]]; }

command -v go >/dev/null || {
	echo "setup: go is missing: install the version in go.mod or newer from https://go.dev/dl" >&2
	exit 1
}

need gcc have gcc
need libc6-dev test -e /usr/include/stdlib.h
case $verb in
build) need libdnnl-dev onednn ;;
test)
	need libdnnl-dev onednn
	need g++ have g++
	need git have git
	need python3-pip python3 -m pip --version
	need unzip have unzip
	need npm have npm
	;;
lint)
	need clang-format have clang-format
	need git have git
	;;
generate) need protobuf-compiler have protoc ;;
quickstart)
	need libdnnl-dev onednn
	need python3-pip python3 -m pip --version
	need unzip have unzip
	;;
*)
	echo "setup: no verb $verb" >&2
	exit 2
	;;
esac

if [ ${#missing[@]} -gt 0 ]; then
	if ! command -v apt-get >/dev/null; then
		echo "setup: missing, and there is no apt-get here to install it with: ${missing[*]}" >&2
		exit 1
	fi
	root=()
	[ "$(id -u)" = 0 ] || root=(sudo)
	echo "setup: installing from apt for make $verb: ${missing[*]}"
	"${root[@]}" apt-get update -qq
	DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# tool NAME PACKAGE: builds a tool at the version that tools/lint/go.mod pins, when that changed.
tool() {
	local out=.tools/$1 stamp
	stamp=$(cat tools/lint/go.mod tools/lint/go.sum | sha256sum | cut -d' ' -f1)-$(go env GOVERSION)
	if [ ! -x "$out" ] || [ "$(cat "$out.stamp" 2>/dev/null)" != "$stamp" ]; then
		echo "setup: building $1 into .tools (about a minute)"
		mkdir -p .tools
		(cd tools/lint && go build -o "../../$out" "$2")
		echo "$stamp" >"$out.stamp"
	fi
}

# The servers that tests of the checkpoint store run: here, and not within a test's time. A test says what is missing.
if [ "$verb" = test ]; then
	for server in versitygw fake-gcs-server azurite; do
		tools/fetch/server.sh "$server" >/dev/null || [ $? = 69 ]
	done
fi

if [ "$verb" = lint ]; then
	tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	tool buf github.com/bufbuild/buf/cmd/buf
fi
