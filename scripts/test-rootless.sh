#!/usr/bin/env bash
# The integration tests as an unprivileged account with a rootless engine (scripts/rootless.sh). Run as root, which
# prepares the account; the tests, the nodes and the engine have no privilege. Arguments go to the test program
# (-test.run NAME).
set -euo pipefail
cd "$(dirname "$0")/.."

engine=$(scripts/rootless.sh start)
engine=${engine#DOCKER_HOST=}
DOCKER_HOST=$engine go run ./integration/images/load
make --no-print-directory build

# The account may not be able to read this checkout.
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
install -m 755 bin/meshswarm "$dir/meshswarm"
go test -c -o "$dir/integration.test" ./integration
cd "$dir"
"$OLDPWD/scripts/rootless.sh" run env MESHSWARM_TEST_ENGINE="$engine" MESHSWARM_TEST_BINARY="$dir/meshswarm" \
  ./integration.test -test.timeout 25m -test.skip House "$@"
