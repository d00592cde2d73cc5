#!/usr/bin/env bash
# Makes sure that a Docker engine is reachable: the one of DOCKER_HOST, or the machine's, or one that it installs from
# the distribution's packages and starts. Where it may not do that it says in one line what to do.
set -euo pipefail

log=/var/log/meshswarm-dockerd.log

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

host=${DOCKER_HOST:-}
if [ -z "$host" ]; then
  host=unix:///var/run/docker.sock
  own=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/docker.sock
  if [ "$(id -u)" != 0 ] && [ -S "$own" ]; then host=unix://$own; fi
fi

reachable() {
  if command -v curl >/dev/null && [[ $host == unix://* ]]; then
    "$@" curl -fsS --max-time 5 --unix-socket "${host#unix://}" http://docker/_ping >/dev/null 2>&1
  elif command -v docker >/dev/null; then
    "$@" docker -H "$host" version >/dev/null 2>&1
  else
    return 1
  fi
}

if reachable; then exit 0; fi
if [ -n "${DOCKER_HOST:-}" ]; then die "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST: start it, or unset DOCKER_HOST"; fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null ||
    die "no Docker engine answers at $host and this account may not start one: start a rootless engine (dockerd-rootless-setuptool.sh install) or set DOCKER_HOST"
  as_root=(sudo -n)
fi

if ! command -v dockerd >/dev/null; then
  command -v apt-get >/dev/null || die "no Docker engine is installed: install one with this distribution's package manager"
  say "installing the distribution's Docker engine"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker.io iptables curl ca-certificates
fi

if ! reachable "${as_root[@]}"; then
  if [ -d /run/systemd/system ]; then
    "${as_root[@]}" systemctl start docker
  else
    say "starting dockerd in the background, log $log"
    "${as_root[@]}" sh -c "setsid dockerd >$log 2>&1 </dev/null & echo \$! >/run/meshswarm-dockerd.pid"
  fi
fi
for _ in $(seq 300); do
  if reachable; then exit 0; fi
  sleep 0.1
done
if reachable "${as_root[@]}"; then die "the Docker engine runs but this account may not use it: sudo usermod -aG docker $(id -un), then log in again"; fi
die "the Docker engine does not answer at $host: see $log, or journalctl -u docker"
