#!/usr/bin/env bash
# Hosts and containers as network namespaces of this machine. Sourced by the scripts that need a network to play with.
#
#               192.168.40.0/24  fd40::/64   the underlay: two hosts share a veth pair, three or more a switch
#
#        .11 eth1│                            │eth1 .12                         .13 ...
#    ┌───────────┴────────────┐    ┌──────────┴─────────────┐
#    │ vm1      tun0          │    │ vm2      tun0          │    vm3: 172.17.53.0/24
#    │      br0 172.17.51.1   │    │      br0 172.17.52.1   │
#    │          fd17:51::1    │    │          fd17:52::1    │
#    └───────────┬────────────┘    └──────────┬─────────────┘
#            eth0│                            │eth0
#    ┌───────────┴────────────┐    ┌──────────┴─────────────┐
#    │ cont1    172.17.51.2   │    │ cont2    172.17.52.2   │
#    │          fd17:51::2    │    │          fd17:52::2    │
#    └────────────────────────┘    └────────────────────────┘
#
# A lab has a name. Everything of it hangs on that: the namespaces NAME-vm1, NAME-cont1, ..., and the directory /run/NAME, which
# holds its files and the list of what was made (namespaces, processes). Only what stands in that list is ever removed.
#
#   netlab_begin NAME       take the name, remove what a killed run left under it, clean up when the script ends
#   netlab_hosts N          make vm1 ... vmN, their containers and the underlay
#   netlab_wire             make the underlay behave like real NICs
#   netlab_in HOST COMMAND  run in a namespace: netlab_in cont1 ping 172.17.52.2
#   netlab_start HOST LOG COMMAND   the same in the background, until the lab ends; the process is $netlab_pid, and it reads
#                           the file $netlab_stdin where that is set
#   netlab_keep             leave it standing when the script ends
#
# Run by itself: netlab.sh remove NAME   removes a lab that was left standing.

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

netlab_begin() {
  netlab_use "$1"
  is_root || die "network namespaces need root: sudo $0"
  install_missing ip:iproute2 ethtool:ethtool
  if [[ -e $netlab_dir ]]; then
    if netlab_alive "$(cat "$netlab_dir/owner" 2>/dev/null)"; then
      die "another run is using $netlab_dir (process $(cut -d' ' -f1 "$netlab_dir/owner")); wait for it to end"
    fi
    say "removing what an earlier run left under $netlab_dir"
    netlab_remove
  fi
  mkdir "$netlab_dir" || die "can't make $netlab_dir"
  netlab_identify $$ >"$netlab_dir/owner"
  trap netlab_remove EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
}

netlab_use() {
  [[ $1 =~ ^[a-z][a-z0-9-]*$ ]] || die "not a lab's name: $1"
  netlab_name=$1
  netlab_dir=/run/$1
}

netlab_keep() { trap - EXIT; }

# A process by its number and its start time, because numbers are used again.
netlab_identify() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return
  stat=${stat##*) }
  # shellcheck disable=SC2086
  set -- "$1" $stat
  # Field 22 of proc_pid_stat(5); the state, field 3, is $2 here.
  echo "$1 ${21}"
}

# netlab_alive "PID STARTTIME"
netlab_alive() { [[ $1 && $(netlab_identify "${1% *}") == "$1" ]]; }

netlab_remove() {
  local namespace
  local -a processes
  [[ -e $netlab_dir ]] || return 0
  if [[ ! -e $netlab_dir/owner ]]; then
    # A run that was killed before it wrote its name; anything else isn't ours.
    rmdir "$netlab_dir" 2>/dev/null || die "$netlab_dir is not a lab's directory; move it away"
    return
  fi
  if [[ -e $netlab_dir/processes ]]; then
    mapfile -t processes <"$netlab_dir/processes"
    netlab_stop "${processes[@]}"
  fi
  if [[ -e $netlab_dir/namespaces ]]; then
    while read -r namespace; do
      [[ -e /run/netns/$namespace ]] && ip netns del "$namespace"
    done <"$netlab_dir/namespaces"
  fi
  rm -rf "$netlab_dir"
}

netlab_in() {
  local host=$1
  shift
  ip netns exec "$netlab_name-$host" "$@"
}

netlab_start() {
  local host=$1 log=$2
  shift 2
  ip netns exec "$netlab_name-$host" "$@" >>"$log" 2>&1 <"${netlab_stdin:-/dev/null}" &
  netlab_pid=$!
  disown
  netlab_identify "$netlab_pid" >>"$netlab_dir/processes"
}

# netlab_stop "PID STARTTIME"...   ends processes and waits for them.
netlab_stop() {
  local process
  for process; do ! netlab_alive "$process" || kill "${process% *}" 2>/dev/null || true; done
  for process; do netlab_await 5 netlab_ended "$process" || kill -KILL "${process% *}" 2>/dev/null || true; done
}
netlab_ended() { ! netlab_alive "$1"; }

# Waits for a condition: netlab_await SECONDS COMMAND...
netlab_await() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

netlab_namespace() {
  local namespace=$netlab_name-$1
  [[ ! -e /run/netns/$namespace ]] || die "the network namespace $namespace exists and is not from here; remove it: ip netns del $namespace"
  echo "$namespace" >>"$netlab_dir/namespaces"
  ip netns add "$namespace"
  ip -n "$namespace" link set lo up
}

netlab_hosts() {
  local count=$1 n
  netlab_count=$count
  for ((n = 1; n <= count; n++)); do netlab_namespace "vm$n"; done
  if ((count == 2)); then
    ip -n "$netlab_name-vm1" link add eth1 type veth peer name eth1 netns "$netlab_name-vm2"
  else
    netlab_namespace switch
    netlab_ip switch <<<"link add br0 type bridge mcast_snooping 0
      link set br0 up"
    for ((n = 1; n <= count; n++)); do
      netlab_ip switch <<<"link add port$n type veth peer name eth1 netns $netlab_name-vm$n
        link set port$n master br0 up"
    done
  fi
  for ((n = 1; n <= count; n++)); do
    netlab_ip "vm$n" <<<"addr add 192.168.40.1$n/24 dev eth1
      addr add fd40::1$n/64 dev eth1 nodad
      link set eth1 up"
    netlab_container "$n"
  done
}

# The container's way out is the host's bridge, as with Docker; the host forwards.
netlab_container() {
  local n=$1
  netlab_namespace "cont$n"
  netlab_ip "vm$n" <<<"link add br0 type bridge mcast_snooping 0
    addr add 172.17.5$n.1/24 dev br0
    addr add fd17:5$n::1/64 dev br0 nodad
    link add cont$n type veth peer name eth0 netns $netlab_name-cont$n
    link set cont$n master br0 up
    link set br0 up"
  netlab_ip "cont$n" <<<"addr add 172.17.5$n.2/24 dev eth0
    addr add fd17:5$n::2/64 dev eth0 nodad
    link set eth0 up
    route add default via 172.17.5$n.1
    route add default via fd17:5$n::1"
  netlab_in "vm$n" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
}

# netlab_ip HOST: ip(8) commands on standard input, run in the host.
netlab_ip() { ip -n "$netlab_name-$1" -batch - || die "ip failed in $netlab_name-$1"; }

# By default a veth carries super-packets of 64 KiB unsplit, which no wire does. Here the sending device segments nothing in
# "hardware", so packets cross at MTU size, and the receiver coalesces them again (GRO), UDP included, as NICs and their drivers do.
netlab_wire() {
  local n
  for ((n = 1; n <= netlab_count; n++)); do
    netlab_wire_device "vm$n" eth1 on
    # A switch forwards frame by frame.
    ((netlab_count == 2)) || netlab_wire_device switch "port$n" off
  done
}

netlab_wire_device() {
  local host=$1 device=$2 gro=$3
  {
    netlab_in "$host" ethtool -K "$device" tso off gso on tx-gre-segmentation off tx-gre-csum-segmentation off \
      tx-udp-segmentation off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off gro "$gro" rx-udp-gro-forwarding "$gro" &&
      netlab_in "$host" sh -c "echo 20000 >/sys/class/net/$device/gro_flush_timeout; echo 2 >/sys/class/net/$device/napi_defer_hard_irqs"
  } >/dev/null || die "$netlab_name-$host: $device does not take the wire-like profile (Linux 5.12 or later does)"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  [[ $# == 2 && $1 == remove ]] || usage_error "usage: netlab.sh remove NAME"
  netlab_use "$2"
  is_root || die "network namespaces need root: sudo $0 $*"
  [[ -e $netlab_dir/owner ]] || die "there is no lab called $2"
  ! netlab_alive "$(cat "$netlab_dir/owner")" || die "a script is using $netlab_dir; end it instead (process $(cut -d' ' -f1 "$netlab_dir/owner"))"
  netlab_remove
fi
