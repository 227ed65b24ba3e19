#!/usr/bin/env bash
# The main job on one machine: containers on two hosts reach one another by their own addresses. Needs root; see netlab.sh for
# the picture.
set -euo pipefail
# shellcheck source=netlab.sh
source "$(dirname "${BASH_SOURCE[0]}")/netlab.sh"

usage() {
  cat <<'END'
usage: sudo scripts/demo.sh [--docker] [--wire] [--keep]

Builds tunneld and tunnelctl, makes two hosts with a container each out of network namespaces, connects them with the two
programs, and uses the connection: ping, nc, redis, iperf3. Prints each command, what it answered, and whether that is right.

  --docker the containers are real ones: each host has a Docker engine (Debian's docker.io, which is installed where it is missing)
  --wire   make the underlay behave like real NICs: packets cross it at MTU size, and the receiver coalesces them
  --keep   leave everything standing at the end, and say how to enter it
  --help   this text
END
}

keep='' wire='' docker=''
for argument in "$@"; do
  case $argument in
    --keep) keep=1 ;;
    --wire) wire=1 ;;
    --docker) docker=1 ;;
    -h | --help) usage; exit 0 ;;
    *) usage_error "unknown option: $argument" ;;
  esac
done

# TUNNEL_LAB: another name for the lab, so that the tests leave a demo alone that somebody keeps.
# TUNNEL_DIST: programs that are built already.
netlab_begin "${TUNNEL_LAB:-tunnel-demo}"
# redis-tools has the server program too, under another name and without the service that the package redis-server would start.
install_missing ping:iputils-ping nc:netcat-openbsd redis-cli:redis-tools iperf3:iperf3 ss:iproute2
[[ ! $docker ]] || install_missing dockerd:docker.io docker:docker.io busybox:busybox-static nft:nftables iptables:iptables setpriv:util-linux
if [[ ! ${TUNNEL_DIST-} ]]; then
  "$repo/scripts/build.sh"
  TUNNEL_DIST=$dist
fi
mkdir "$netlab_dir/bin"
command -v redis-server >/dev/null || ln -s "$(command -v redis-check-rdb)" "$netlab_dir/bin/redis-server"
PATH=$TUNNEL_DIST:$netlab_dir/bin:$PATH
cd "$netlab_dir"

passed=0 failed=0

title() { printf '\n%d. %s\n' $((passed + failed + 1)) "$1"; }

prompt() {
  local host=$1
  shift
  printf '%s$ %s\n' "$host" "$*"
}

pass() { passed=$((passed + 1)); echo ok; }

fail() {
  failed=$((failed + 1))
  echo "FAILED${1:+: $1}"
}

# step TITLE EXPECTED HOST COMMAND...   runs the command in the host's namespace. It is right when it succeeds and its output
# matches EXPECTED, a regular expression.
step() {
  local expected=$2 host=$3 output status=0
  title "$1"
  shift 3
  prompt "$host" "$(quoted "$@")"
  output=$(netlab_in "$host" timeout 30 "$@" </dev/null 2>&1) || status=$?
  [[ ! $output ]] || printf '%s\n' "$output"
  if ((status != 0)); then
    fail "exit code $status"
  elif [[ ! $output =~ $expected ]]; then
    fail "expected: $expected"
  else
    pass
  fi
}

# server HOST LOG CONDITION COMMAND...   starts something in the background that later steps use, and waits until it is there.
server() {
  local host=$1 log=$2 condition=$3
  shift 3
  prompt "$host" "$(quoted "$@")${netlab_stdin:+ <$netlab_stdin} &"
  netlab_start "$host" "$log" "$@"
  # shellcheck disable=SC2086
  netlab_await 10 $condition
}

# The words as one would type them.
quoted() {
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:,=@%+-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  printf '%s' "${line% }"
}

# Conditions for server to wait for.
# shellcheck disable=SC2317
listening() { [[ $(netlab_in "$1" ss -Hltn "sport = :$2") ]]; }

# shellcheck disable=SC2317
answering() { netlab_in "$1" tunnelctl --socket "$netlab_dir/$1/run/tun0.sock" show; }

# knows HOST PEER: the peer's daemon answers.
# shellcheck disable=SC2317
knows() { [[ $(netlab_in "$1" tunnelctl --socket "$netlab_dir/$1/run/tun0.sock" --json show "$2") =~ \"state\":\ *\"up\" ]]; }

start_daemon() {
  local host=$1
  title "$host: start tunneld (systemd would: systemctl start tunneld@tun0)"
  if server "$host" "$host/tunneld.log" "answering $host" \
    tunneld --config "$netlab_dir/$host/tun0.yaml" --run-dir "$netlab_dir/$host/run"; then
    pass
  else
    fail "it does not answer on its control socket"
    finish
  fi
}

# Ends the demo: the daemons' logs where something failed, how to go on where it is kept, and the count.
finish() {
  local host engine
  if ((failed)); then
    for host in vm1 vm2; do
      printf '\n%s: the log of tunneld\n' "$host"
      cat "$host/tunneld.log" 2>/dev/null || true
    done
  fi

  if [[ $keep ]]; then
    netlab_keep
    engine=${docker:+$'\n  docker --host unix://'$netlab_dir/vm1/docker/docker.sock ps}
    cat <<END

It is left standing in $netlab_dir. To enter it, as root:
  ip netns exec $netlab_name-vm1 bash        (and -vm2, -cont1, -cont2)
  $TUNNEL_DIST/tunnelctl --socket $netlab_dir/vm1/run/tun0.sock show$engine
To remove it: $repo/scripts/netlab.sh remove $netlab_name      (the next demo does so too)
END
  fi

  printf '\n%d steps passed, %d failed\n' "$passed" "$failed"
  exit $((failed > 0))
}

# Docker's containers, instead of namespaces for them.

# docker_step TITLE EXPECTED HOST WORDS...   like step, for docker with the host's engine.
docker_step() {
  local DOCKER_HOST=unix://$netlab_dir/$3/docker/docker.sock
  export DOCKER_HOST
  step "$1" "$2" "$3" docker "${@:4}"
}

# shellcheck disable=SC2317
engine_answers() { DOCKER_HOST=unix://$netlab_dir/$1/docker/docker.sock docker version; }

container_address() {
  DOCKER_HOST=unix://$netlab_dir/$1/docker/docker.sock docker inspect --format '{{.NetworkSettings.IPAddress}}' "$2"
}

start_engine() {
  local host=$1
  mkdir "$host/docker"
  title "$host: start Docker with these settings (systemd would: systemctl start docker)"
  prompt "$host" "tunnelctl docker-config | tee /etc/docker/daemon.json"
  netlab_in "$host" tunnelctl --socket "$netlab_dir/$host/run/tun0.sock" docker-config | tee "$host/docker/daemon.json"
  # `ip netns exec` would hide the cgroups from it.
  "$repo/scripts/docker-engine.sh" run "$netlab_name-$host" "$netlab_dir/$host/docker" >"$host/docker.log" 2>&1 </dev/null &
  netlab_identify $! >>"$netlab_dir/processes"
  disown
  if netlab_await 30 engine_answers "$host"; then
    pass
  else
    tail -n 5 "$host/docker.log"
    fail "it does not answer"
    finish
  fi
  for image in nc redis; do
    DOCKER_HOST=unix://$netlab_dir/$host/docker/docker.sock docker import "$netlab_dir/$image.tar" "$image" >/dev/null
  done
}

docker_demo() {
  local host server redis
  "$repo/scripts/docker-engine.sh" images "$netlab_dir"
  for host in vm1 vm2; do start_engine "$host"; done

  echo
  echo "A TCP service in a container on vm1, without any port mapping. It answers with the address that it sees:"
  docker_step "vm1: start it" "" vm1 run --detach --name server nc nc -ll -p 3333 -e caller
  server=$(container_address vm1 server)
  docker_step "A container on vm2 asks, and is seen by its own address" "^172\.17\.52\." vm2 run --rm nc sh -c "sleep 0.5 | nc $server 3333"

  echo
  echo "Redis: the server in a container on vm1, the clients on vm2:"
  docker_step "vm1: start it" "" vm1 run --detach --name redis redis redis-server --protected-mode no --save ''
  redis=$(container_address vm1 redis)
  docker_step "A container asks" "PONG" vm2 run --rm redis redis-cli -h "$redis" ping
  docker_step "The server saw its own address" "addr=172\.17\.52\." vm2 run --rm redis redis-cli -h "$redis" client list
  docker_step "One with --net=host has its host's overlay address" "addr=10\.0\.201\.2:" vm2 run --rm --net=host redis redis-cli -h "$redis" client list

  echo
  echo "Published ports go on working:"
  docker_step "vm1: publish one" "" vm1 run --detach --publish 8080:3333 --name published nc nc -ll -p 3333 -e caller
  step "vm2, by the underlay" "^192\.168\.40\.12" vm2 sh -c "sleep 0.5 | busybox nc 192.168.40.11 8080"
  docker_step "A container on vm2, by vm1's overlay address" "^172\.17\.52\." vm2 run --rm nc sh -c "sleep 0.5 | nc 10.0.201.1 8080"

  step "What tunneld has in vm1's firewall: a table of its own" "172\.17\.52\.0/24" vm1 nft list table inet tunnel_tun0
  step "... and one rule in Docker's chain for such rules" "tunnel_tun0" vm1 iptables -S DOCKER-USER
}

namespace_demo() {
  step "The containers reach one another" " 0% packet loss" cont1 ping -c 3 -i 0.2 172.17.52.2
  step "... in both directions" " 0% packet loss" cont2 ping -c 3 -i 0.2 172.17.51.2

  echo
  echo "A TCP service in cont1, without any port mapping:"
  echo "hello from cont1" >greeting
  netlab_stdin=greeting server cont1 nc.log "listening cont1 3333" nc -n -v -N -l 3333 || true
  step "cont2 gets cont1's answer" "hello from cont1" cont2 nc 172.17.51.2 3333
  step "cont1 saw cont2's own address" "172\.17\.52\.2" cont1 cat nc.log

  echo
  echo "Redis: the server in cont1, the client in cont2:"
  server cont1 redis.log "listening cont1 6379" redis-server --bind 172.17.51.2 --protected-mode no --save '' --daemonize no || true
  step "cont2 asks" "PONG" cont2 redis-cli -h 172.17.51.2 ping
  step "The server saw cont2's own address" "addr=172\.17\.52\.2:" cont2 redis-cli -h 172.17.51.2 client list

  echo
  echo "Throughput, with both hosts on this machine's processors:"
  server cont1 iperf3.log "listening cont1 5201" iperf3 -s -1 || true
  step "One TCP connection, two seconds" "receiver" cont2 iperf3 -c 172.17.51.2 -t 2 -i 0
}

configuration() {
  local host=$1 address=$2 underlay=$3 subnet=$4
  mkdir "$host"
  cat >"$host/tun0.yaml" <<END
# $host: the network tun0, without peers so far
interface:
  addresses: [$address]
underlay:
  local: $underlay
END
  [[ ! $docker ]] || cat >>"$host/tun0.yaml" <<END
# Its containers, and that Docker's firewall is to let the overlay through to them.
subnets: [$subnet]
nat:
  forward: true
END
}

netlab_hosts 2
[[ ! $wire ]] || netlab_wire
if [[ $docker ]]; then
  # Docker makes a bridge of its own, and the containers.
  for host in vm1 vm2; do ip -n "$netlab_name-$host" link del br0; done
  ip -n "$netlab_name-vm1" link del cont1
  ip -n "$netlab_name-vm2" link del cont2
fi

if [[ $docker ]]; then
  echo "
Two hosts, vm1 (192.168.40.11) and vm2 (192.168.40.12), each with a Docker engine: 172.17.51.0/24 is for the containers on vm1, 172.17.52.0/24
for those on vm2. The hosts are network namespaces. 'vm1\$' means: on vm1; that is 'ip netns exec $netlab_name-vm1'."
else
  echo "
Two hosts, vm1 (192.168.40.11) and vm2 (192.168.40.12), each with a container: cont1 (172.17.51.2) on vm1, cont2 (172.17.52.2)
on vm2. They are network namespaces. 'vm1\$' means: on vm1; that is 'ip netns exec $netlab_name-vm1'."
fi

configuration vm1 10.0.201.1/24 192.168.40.11 172.17.51.0/24
configuration vm2 10.0.201.2/24 192.168.40.12 172.17.52.0/24

echo
prompt vm1 cat "$netlab_dir/vm1/tun0.yaml"
cat vm1/tun0.yaml
step "Check vm1's configuration; vm2 has the like with its own addresses" "" vm1 tunneld --config "$netlab_dir/vm1/tun0.yaml" --check
start_daemon vm1
start_daemon vm2
step "vm1: vm2 is a peer, and these subnets are behind it" "" \
  vm1 tunnelctl --socket "$netlab_dir/vm1/run/tun0.sock" add-peer vm2 --endpoint 192.168.40.12 --subnet 172.17.52.0/24 --subnet 10.0.201.2/32
step "vm2: the other way round" "" \
  vm2 tunnelctl --socket "$netlab_dir/vm2/run/tun0.sock" add-peer vm1 --endpoint 192.168.40.11 --subnet 172.17.51.0/24 --subnet 10.0.201.1/32
# While packet sockets take over from the raw ones that a daemon begins with, a packet may be lost.
netlab_await 10 knows vm1 vm2 || true
netlab_await 10 knows vm2 vm1 || true
if [[ $docker ]]; then docker_demo; else namespace_demo; fi

step "vm1's view: the network, its peer, the traffic" "vm2" vm1 tunnelctl --socket "$netlab_dir/vm1/run/tun0.sock" show
step "The overlay's routes" "172\.17\.52\.0/24" vm1 tunnelctl --socket "$netlab_dir/vm1/run/tun0.sock" routes
step "What was dropped, and why" "" vm1 tunnelctl --socket "$netlab_dir/vm1/run/tun0.sock" drops

finish
