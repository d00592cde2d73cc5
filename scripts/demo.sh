#!/usr/bin/env bash
# The demonstration: three nodes on this machine, a web service of six replicas that counts visits in redis, reached
# through every node; then a container dies, then a node. Prepares what is missing. Leaves the nodes running for you
# (not in CI) and says how to go on.
set -euo pipefail
cd "$(dirname "$0")/.."

lab=/tmp/meshswarm-demo-$(id -u)
meshswarm=$PWD/bin/meshswarm
export MESHSWARM_HOST=unix://$lab/node1/meshswarm.sock

bold='' blue='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' blue=$'\033[36m' plain=$'\033[0m'; fi
title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
run() { printf '%s$ %s%s\n' "$blue" "${*/#$meshswarm/meshswarm}" "$plain"; "$@"; }
die() { echo "demo: $*" >&2; exit 1; }

# get ADDRESS [PATH] prints the body of one page, or fails.
get() {
  local line body=
  exec 3<>"/dev/tcp/$1/8080" || return 1
  printf 'GET %s HTTP/1.0\r\n\r\n' "${2:-/}" >&3
  while IFS= read -t 5 -r line <&3; do body=${line%$'\r'}; done
  exec 3>&-
  [ -n "$body" ] && echo "$body"
}

# visits N asks the three nodes in turn and counts who answered.
visits() {
  local i
  for i in $(seq "$1"); do get "127.0.0.$((i % ${2:-3} + 1))" /name 2>/dev/null || echo "no answer"; done | sort | uniq -c
}

replicas() { "$meshswarm" service ls --filter name=web --format '{{.Replicas}}'; }

# wait_replicas WANTED waits until service ls says so, and tells how long it took.
wait_replicas() {
  local start=${EPOCHREALTIME/./} now
  while [ "$(replicas)" != "$1" ]; do
    now=${EPOCHREALTIME/./}
    [ $((now - start)) -lt 60000000 ] || die "web has $(replicas) replicas after 60 s, not $1: meshswarm service ps web --no-trunc"
    sleep 0.1
  done
  now=${EPOCHREALTIME/./}
  printf 'web has %s replicas, after %d.%d s\n' "$1" $(((now - start) / 1000000)) $(((now - start) / 100000 % 10))
}

title "Preparing: an engine, the program, the images"
scripts/setup.sh
make --no-print-directory build images
if [ -e "$lab" ] && [ ! -O "$lab" ]; then die "$lab belongs to somebody else"; fi
if [ -e "$lab/lab.json" ]; then
  echo "taking the last demonstration down"
  "$meshswarm" lab down --force --dir "$lab"
fi

title "Three nodes on this machine, each with its own address"
run "$meshswarm" lab up --dir "$lab"
run "$meshswarm" node ls

title "A network, redis, and six replicas of a web service on a published port"
run "$meshswarm" network create --driver overlay shop
run "$meshswarm" service create --detach --no-resolve-image --name redis --network shop meshswarm-example/redis:1
run "$meshswarm" service create --no-resolve-image --name web --replicas 6 --network shop --publish 8080:8080 \
  --update-monitor 1s --restart-delay 1s meshswarm-example/web:1
run "$meshswarm" service ps web

title "Every node answers; redis is found by its name and counts"
for node in 1 2 3; do
  echo "http://127.0.0.$node:8080/ -> $(get 127.0.0.$node)"
done
echo "60 visits over the three nodes, by replica:"
visits 60

title "A container dies"
victim=$("$meshswarm" service ps web --no-trunc --filter desired-state=running --format '{{.Name}}.{{.ID}}' | head -n 1)
echo "killing container $victim"
if command -v docker >/dev/null; then
  DOCKER_HOST=$MESHSWARM_HOST docker kill "$victim" >/dev/null
else
  curl -fsS --unix-socket "${MESHSWARM_HOST#unix://}" -X POST "http://docker/containers/$victim/kill"
fi
wait_replicas 5/6
visits 12
wait_replicas 6/6

title "A node dies"
run "$meshswarm" lab kill node3 --dir "$lab"
wait_replicas 4/6
echo "12 visits over the other two nodes:"
visits 12 2
wait_replicas 6/6
run "$meshswarm" service ps web --filter desired-state=running
run "$meshswarm" lab start node3 --dir "$lab"
run "$meshswarm" node ls

title "That was it"
if [ "${CI:-}" = true ]; then
  run "$meshswarm" lab down --dir "$lab"
  exit 0
fi
cat <<END
The three nodes go on running. To play with them:

    export MESHSWARM_HOST=$MESHSWARM_HOST
    export PATH=$PWD/bin:\$PATH
    meshswarm service ps web
    meshswarm service scale web=12
    meshswarm service logs --follow web
    DOCKER_HOST=\$MESHSWARM_HOST docker service ls

And when you have seen enough: meshswarm lab down --dir $lab
END
