#!/usr/bin/env bash
# Builds an object store's server that tests run, versitygw (S3) or fake-gcs-server (Google Cloud Storage) at the versions
# that tools/servers/go.mod pins, or installs azurite (Azure) as tools/servers/package-lock.json does, into .tools, and
# prints its path. Does nothing when it is there.
#
# Exit status: 0 there, 69 it cannot be downloaded, 2 no such name, 1 anything else.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=${1:?"usage: server.sh versitygw|fake-gcs-server|azurite"}
case $name in
versitygw) package=github.com/versity/versitygw/cmd/versitygw pins=(go.mod go.sum) program=.tools/versitygw ;;
fake-gcs-server) package=github.com/fsouza/fake-gcs-server pins=(go.mod go.sum) program=.tools/fake-gcs-server ;;
azurite) package='' pins=(package.json package-lock.json) program=.tools/azurite/node_modules/.bin/azurite-blob ;;
*)
	echo "server.sh: no server $name: want versitygw, fake-gcs-server or azurite" >&2
	exit 2
	;;
esac

stamp=$(cd tools/servers && cat "${pins[@]}" | sha256sum | cut -d' ' -f1)
if [ ! -x "$program" ] || [ "$(cat ".tools/$name.stamp" 2>/dev/null)" != "$stamp" ]; then
	mkdir -p .tools
	echo "server.sh: getting $name into .tools (some minutes, once)" >&2
	if [ -n "$package" ]; then
		(cd tools/servers && go mod download) || exit 69
		(cd tools/servers && go build -o "../../$program.new.$$" "$package")
		mv -T "$program.new.$$" "$program" # another run may have been faster
	else
		command -v npm >/dev/null || {
			echo "server.sh: no npm: install it (Debian and Ubuntu: apt-get install npm)" >&2
			exit 69
		}
		rm -rf .tools/azurite
		mkdir -p .tools/azurite
		cp tools/servers/package.json tools/servers/package-lock.json .tools/azurite
		(cd .tools/azurite && npm ci --silent --ignore-scripts --no-audit --no-fund >&2) || exit 69
	fi
	echo "$stamp" >".tools/$name.stamp"
fi
echo "$PWD/$program"
