#!/usr/bin/env bash
# A redis server in a container of one host, asked from a container of the other.
#
#   redis.sh serve          start the server, in the first container of this host
#   redis.sh ask ADDRESS    write a value to the server at ADDRESS and read it back
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

# The image is made of this machine's own redis, so that no image has to be fetched: the two programs and the libraries they load.
image=tunnel-redis
run=(docker run)
command -v apparmor_parser >/dev/null || run+=(--security-opt apparmor=unconfined)
make_image() {
  docker image inspect "$image" >/dev/null 2>&1 && return
  command -v redis-server redis-cli >/dev/null || {
    apt-get -qq update
    apt-get -qq -y --no-install-recommends install redis-server redis-tools
    systemctl disable --now redis-server
  }
  local programs
  programs=("$(command -v redis-server)" "$(command -v redis-cli)")
  { printf '%s\n' "${programs[@]}"; ldd "${programs[@]}" | grep -o '/[^ :]* (' | tr -d ' ('; } | sort -u \
    | tar --create --dereference --files-from=- --absolute-names | docker import - "$image" >/dev/null
}

case ${1-} in
  serve)
    make_image
    docker rm --force redis >/dev/null 2>&1 || true
    "${run[@]}" --detach --restart unless-stopped --name redis "$image" redis-server --protected-mode no >/dev/null
    echo "redis serves at $(docker inspect --format '{{.NetworkSettings.IPAddress}}' redis)"
    ;;
  ask)
    make_image
    server=$2
    ask() { "${run[@]}" --rm "$image" redis-cli -h "$server" "$@"; }
    deadline=$((SECONDS + 120))
    until [[ $(ask ping 2>&1) == PONG ]]; do
      ((SECONDS < deadline)) || { echo "no redis answers at $server" >&2; tunnelctl show; tunnelctl drops; exit 1; }
      sleep 1
    done
    value="written by a container of $(hostname)"
    ask set greeting "$value"
    answer=$(ask get greeting)
    echo "$server answers: $answer"
    [[ $answer == "$value" ]]
    ;;
  *) echo "usage: redis.sh serve | ask ADDRESS" >&2; exit 2 ;;
esac
