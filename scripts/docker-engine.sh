#!/usr/bin/env bash
# A Docker engine inside a network namespace, for the demo and the tests. It has a process and a mount namespace of its own: when it is
# killed, all of its containers and mounts go with it. `ip netns exec` would hide the cgroups, so it is entered with nsenter.
#
#   docker-engine.sh images DIRECTORY       writes nc.tar and redis.tar, images for `docker import`, from this system's own programs
#   docker-engine.sh run NETNS DIRECTORY    runs an engine with DIRECTORY/daemon.json; its socket is DIRECTORY/docker.sock. It starts
#                                           again where it ends, as with systemd
#   docker-engine.sh restart DIRECTORY      ends it, so that it starts again
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# image FILE: packs the directory $root.
image() { tar -C "$root" -cf "$1" .; }

# add PROGRAM NAME: a program and the libraries that it needs.
add() {
  local library
  install -D "$1" "$root/bin/$2"
  while read -r library; do
    install -D "$library" "$root$library"
  done < <(ldd "$1" 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*')
}

images() {
  local applet
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  mkdir -p "$root/bin" "$root/tmp"
  cp /bin/busybox "$root/bin/busybox"
  for applet in sh nc ping ip sleep cat echo; do ln -s busybox "$root/bin/$applet"; done
  # Says whose connection to port 3333 (0D05) it is: proc_net_tcp(5), which has an IPv4 address in the last 8 digits.
  cat >"$root/bin/caller" <<'END'
#!/bin/sh
cat /proc/net/tcp /proc/net/tcp6 | while read -r _ local remote state _; do
  case "$local $state" in *":0D05 01")
    address=${remote%:*} address=${address#"${address%????????}"}
    printf '%d.%d.%d.%d\n' "0x${address:6:2}" "0x${address:4:2}" "0x${address:2:2}" "0x${address:0:2}" ;;
  esac
done
END
  chmod +x "$root/bin/caller"
  image "$1/nc.tar"
  # Debian's redis-server, redis-check-rdb and redis-check-aof are one program under three names.
  add "$(command -v redis-server || command -v redis-check-rdb)" redis-server
  add "$(command -v redis-cli)" redis-cli
  image "$1/redis.tar"
}

run() {
  local netns=$1 directory=$2
  # What unshare waits for is ended with it, and it with this script; it takes no notice of SIGTERM itself.
  # shellcheck disable=SC2016
  setpriv --pdeathsig KILL nsenter --net="/run/netns/$netns" unshare --mount --propagation slave --pid --fork --kill-child --mount-proc \
    sh -c 'while :; do rm -f "$0/docker.pid"; dockerd --config-file "$0/daemon.json" --data-root "$0/data" --exec-root "$0/exec" \
      --pidfile "$0/docker.pid" --host "unix://$0/docker.sock" || sleep 1; done' "$directory" &
  trap 'kill -KILL %1; wait' EXIT
  trap 'exit 143' TERM
  wait
}

# The number in the file is that of the engine's own process namespace; outside, it is the process that has the socket.
restart() {
  local process
  for process in $(pidof dockerd); do
    if tr '\0' ' ' <"/proc/$process/cmdline" | grep -qF -- "--host unix://$1/docker.sock "; then
      kill "$process"
      return
    fi
  done
  die "no engine runs with $1"
}

case ${1-} in
  images | run | restart) "$@" ;;
  *) usage_error "usage: docker-engine.sh images DIRECTORY | run NETNS DIRECTORY | restart DIRECTORY" ;;
esac
