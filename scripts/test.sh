#!/usr/bin/env bash
# All tests, with the race detector where a C compiler is there (Go needs one for it). Without a Docker engine the tests
# that need one are left out, or fail in CI.
set -euo pipefail
cd "$(dirname "$0")/.."

if scripts/setup.sh; then
  go run ./integration/images/load
elif [ "${CI:-}" = true ]; then
  echo "test: CI without a Docker engine is a failure" >&2
  exit 1
else
  echo "test: no Docker engine: the tests that need one are left out" >&2
fi

race=-race
if ! command -v "${CC:-gcc}" >/dev/null; then
  echo "test: no C compiler: no race detector (apt-get install gcc libc6-dev)" >&2
  race=
fi
# The clusters of the integration tests, and the simulated one, come last and alone: they share two cores among many nodes,
# whose heartbeats must not wait for the race detector. The rooms that they are made of are tested with it.
go list ./... | grep -v '/integration$' | grep -v '/integration/sim$' | xargs go test ${race:+"$race"} -p 2 -timeout 10m
go test -timeout 10m ./integration/sim -args -agents 60 -tasks 1000
MESHSWARM_TEST_BINARY=$PWD/bin/meshswarm go test ${race:+"$race"} -timeout 18m ./integration
