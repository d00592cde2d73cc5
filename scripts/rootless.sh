#!/usr/bin/env bash
# An unprivileged account with a Docker engine of its own, for trying and testing meshswarm without root.
#
#   scripts/rootless.sh start        make the account, install what is missing, start its engine, wait for it
#   scripts/rootless.sh run CMD…     run a command as that account, with DOCKER_HOST and XDG_RUNTIME_DIR set
#   scripts/rootless.sh stop         stop the engine
#   scripts/rootless.sh remove       stop it and delete the account with all its files
#
# Run as root; only this script needs it. The account is $MESHSWARM_ROOTLESS_USER (default meshswarm-rootless).
# No systemd is needed: the engine is a background process with a log and a pid file.
set -euo pipefail

user=${MESHSWARM_ROOTLESS_USER:-meshswarm-rootless}

die() { echo "rootless.sh: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "run it as root (it makes an account); meshswarm itself needs no root"

install_packages() {
  local missing=()
  command -v dockerd >/dev/null || missing+=(docker.io)
  command -v newuidmap >/dev/null || missing+=(uidmap)
  command -v rootlesskit >/dev/null || missing+=(rootlesskit)
  command -v slirp4netns >/dev/null || missing+=(slirp4netns)
  command -v curl >/dev/null || missing+=(curl)
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || die "install ${missing[*]} first"
  echo "installing ${missing[*]}" >&2
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

make_user() {
  id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
  # useradd gives subordinate IDs only where login.defs says so.
  local file
  for file in /etc/subuid /etc/subgid; do
    grep -q "^$user:" "$file" 2>/dev/null && continue
    local next
    next=$(awk -F: 'BEGIN { n = 100000 } $2 + $3 > n { n = $2 + $3 } END { print n }' "$file" 2>/dev/null || echo 100000)
    echo "$user:${next:-100000}:65536" >>"$file"
  done
}

# paths sets the variables that the other functions share.
paths() {
  uid=$(id -u "$user" 2>/dev/null) || die "no account $user: scripts/rootless.sh start"
  home=$(getent passwd "$user" | cut -d: -f6)
  runtime=/run/user/$uid
  socket=$runtime/docker.sock
  state=$home/.local/state/meshswarm-rootless
  pidfile=$state/pid
  log=$state/log
}

as_user() {
  runuser -u "$user" -- env -i HOME="$home" USER="$user" LOGNAME="$user" SHELL=/bin/bash LANG=C.UTF-8 \
    PATH="${MESHSWARM_ROOTLESS_PATH:-$PATH}" XDG_RUNTIME_DIR="$runtime" DOCKER_HOST="unix://$socket" ${CI:+CI="$CI"} "$@"
}

reachable() { as_user curl -fsS --max-time 2 --unix-socket "$socket" http://docker/_ping >/dev/null 2>&1; }

# group is the engine's process group, empty when it does not run.
group() {
  local pid
  pid=$(cat "$pidfile" 2>/dev/null) || return 0
  if [ -r "/proc/$pid/status" ] && [ "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")" = "$uid" ]; then echo "$pid"; fi
}

start() {
  install_packages
  make_user
  paths
  if reachable; then echo "DOCKER_HOST=unix://$socket"; return; fi
  [ -z "$(group)" ] || stop
  install -d -m 700 -o "$user" -g "$(id -g "$user")" "$runtime" "$home/.local" "$home/.local/state" "$state"

  local script=/usr/share/docker.io/contrib/dockerd-rootless.sh
  [ -x "$script" ] || script=$(command -v dockerd-rootless.sh) || die "no dockerd-rootless.sh: install the docker.io package"
  # slirp4netns needs /dev/net/tun. Where that is closed the engine shares the host's network namespace, has no bridge
  # of its own, and still runs what meshswarm needs: containers without network, and with another container's.
  local net=slirp4netns port=builtin flags=()
  if ! as_user sh -c ': <>/dev/net/tun' 2>/dev/null; then
    net=host port=none flags=(--bridge=none --iptables=false --ip6tables=false)
  fi
  : >"$log"
  chown "$user:" "$log"
  as_user setsid env DOCKERD_ROOTLESS_ROOTLESSKIT_NET="$net" DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER="$port" \
    sh -c 'echo $$ >"$1"; shift; exec "$@"' engine "$pidfile" "$script" "${flags[@]}" >>"$log" 2>&1 </dev/null &
  local i
  for i in $(seq 300); do
    if reachable; then
      echo "rootless engine of $user runs (network $net), log $log" >&2
      echo "DOCKER_HOST=unix://$socket"
      return
    fi
    if [ "$i" -gt 20 ] && [ -z "$(group)" ]; then break; fi
    sleep 0.1
  done
  tail -n 20 "$log" >&2
  die "the rootless engine did not start; its log is $log"
}

stop() {
  paths
  local pid
  pid=$(group)
  [ -n "$pid" ] || { echo "no rootless engine of $user runs" >&2; return; }
  kill -TERM -- "-$pid"
  for _ in $(seq 150); do
    if ! kill -0 -- "-$pid" 2>/dev/null; then rm -f "$pidfile"; return; fi
    sleep 0.1
  done
  kill -KILL -- "-$pid" 2>/dev/null || true
  rm -f "$pidfile"
}

remove() {
  stop
  userdel --remove "$user" 2>/dev/null || rootful_remove
}

# rootful_remove also takes the engine's files, which belong to subordinate IDs.
rootful_remove() {
  rm -rf "$home/.local/share/docker"
  userdel --remove "$user"
}

case "${1:-}" in
start) start ;;
stop) stop ;;
remove) remove ;;
run)
  shift
  [ $# -gt 0 ] || die "run what?"
  paths
  reachable || die "no rootless engine of $user answers: scripts/rootless.sh start"
  as_user "$@"
  ;;
*) die "usage: rootless.sh start|run CMD…|stop|remove" ;;
esac
