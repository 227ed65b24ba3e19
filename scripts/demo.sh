#!/usr/bin/env bash
# The main job on one machine: containers on two hosts reach one another by their own addresses. Needs root; see netlab.sh for
# the picture.
set -euo pipefail
# shellcheck source=netlab.sh
source "$(dirname "${BASH_SOURCE[0]}")/netlab.sh"

usage() {
  cat <<'END'
usage: sudo scripts/demo.sh [--wire] [--keep]

Builds tunneld and tunnelctl, makes two hosts with a container each out of network namespaces, connects them with the two
programs, and uses the connection: ping, nc, redis, iperf3. Prints each command, what it answered, and whether that is right.

  --wire   make the underlay behave like real NICs: packets cross it at MTU size, and the receiver coalesces them
  --keep   leave everything standing at the end, and say how to enter it
  --help   this text
END
}

keep='' wire=''
for argument in "$@"; do
  case $argument in
    --keep) keep=1 ;;
    --wire) wire=1 ;;
    -h | --help) usage; exit 0 ;;
    *) usage_error "unknown option: $argument" ;;
  esac
done

# TUNNEL_LAB: another name for the lab, so that the tests leave a demo alone that somebody keeps.
# TUNNEL_DIST: programs that are built already.
netlab_begin "${TUNNEL_LAB:-tunnel-demo}"
# redis-tools has the server program too, under another name and without the service that the package redis-server would start.
install_missing ping:iputils-ping nc:netcat-openbsd redis-cli:redis-tools iperf3:iperf3 ss:iproute2
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
  local host
  if ((failed)); then
    for host in vm1 vm2; do
      printf '\n%s: the log of tunneld\n' "$host"
      cat "$host/tunneld.log" 2>/dev/null || true
    done
  fi

  if [[ $keep ]]; then
    netlab_keep
    cat <<END

It is left standing in $netlab_dir. To enter it, as root:
  ip netns exec $netlab_name-vm1 bash        (and -vm2, -cont1, -cont2)
  $TUNNEL_DIST/tunnelctl --socket $netlab_dir/vm1/run/tun0.sock show
To remove it: $repo/scripts/netlab.sh remove $netlab_name      (the next demo does so too)
END
  fi

  printf '\n%d steps passed, %d failed\n' "$passed" "$failed"
  exit $((failed > 0))
}

configuration() {
  local host=$1 address=$2 underlay=$3
  mkdir "$host"
  cat >"$host/tun0.yaml" <<END
# $host: the network tun0, without peers so far
interface:
  addresses: [$address]
underlay:
  local: $underlay
END
}

netlab_hosts 2
[[ ! $wire ]] || netlab_wire

echo "
Two hosts, vm1 (192.168.40.11) and vm2 (192.168.40.12), each with a container: cont1 (172.17.51.2) on vm1, cont2 (172.17.52.2)
on vm2. They are network namespaces. 'vm1\$' means: on vm1; that is 'ip netns exec $netlab_name-vm1'."

configuration vm1 10.0.201.1/24 192.168.40.11
configuration vm2 10.0.201.2/24 192.168.40.12

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

step "vm1's view: the network, its peer, the traffic" "vm2" vm1 tunnelctl --socket "$netlab_dir/vm1/run/tun0.sock" show
step "The overlay's routes" "172\.17\.52\.0/24" vm1 tunnelctl --socket "$netlab_dir/vm1/run/tun0.sock" routes
step "What was dropped, and why" "" vm1 tunnelctl --socket "$netlab_dir/vm1/run/tun0.sock" drops

finish
