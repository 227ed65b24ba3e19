# shellcheck shell=bash disable=SC2317  # the functions are called by name
# Sourced by bench.sh: the tunnels it compares. Each variant NAME has
#
#   title[NAME]     what the table calls it
#   kind[NAME]      kernel, user (a tunnel in user space, other than this project's), own (this project's), yours (--peer-command)
#   wire[NAME]      a pcap filter for its packets on the underlay, by which bench.sh makes sure that traffic goes through it
#   packages[NAME]  what it needs: COMMAND:PACKAGE ..., as install_missing takes it
#   up_NAME         makes it on both hosts; what it prints last says why it failed
#   down_NAME       optional; what ending its processes and deleting its devices doesn't undo
#
# A tunnel's device is the one that has the host's overlay address. Its processes are those that up_NAME left in the hosts'
# namespaces. Each up_NAME runs in a subshell with set -e.

declare -A title kind wire packages

underlay() { echo "192.168.40.1$1"; }
overlay() { echo "10.0.201.$1"; }
overlay_prefix=24

# files NAME HOST: its directory for the variant, empty at first.
files() {
  local directory=$netlab_dir/$1-$2
  rm -rf "$directory"
  mkdir "$directory"
  echo "$directory"
}

# device HOST NAME MTU: gives a device the overlay address and takes it up.
device() {
  netlab_ip "vm$1" <<<"addr add $(overlay "$1")/$overlay_prefix dev $2
    link set $2 mtu $3 up"
}

title[none]="no tunnel"
kind[none]=kernel
wire[none]=icmp
up_none() { :; }

title[vxlan]="kernel VXLAN"
kind[vxlan]=kernel
wire[vxlan]="udp dst port 4789"
up_vxlan() {
  local n
  for n in 1 2; do
    netlab_ip "vm$n" <<<"link add vxlan0 type vxlan id 42 local $(underlay "$n") remote $(underlay $((3 - n))) dstport 4789 dev eth1"
    device "$n" vxlan0 1450
  done
}

# The netdev datapath encapsulates by itself and sends through a bridge that has the underlay's device as a port. That bridge's
# own device takes over the host's address. GRE carries Ethernet frames here: 1500 - 20 - 4 - 14 bytes remain.
title[ovs]="Open vSwitch, userspace GRE"
kind[ovs]=user
wire[ovs]="ip proto 47"
packages[ovs]="ovs-vswitchd:openvswitch-switch"
up_ovs() {
  local n directory
  for n in 1 2; do
    directory=$(files ovs "$n")
    export OVS_RUNDIR=$directory OVS_LOGDIR=$directory OVS_DBDIR=$directory
    ovsdb-tool create "$directory/conf.db" /usr/share/openvswitch/vswitch.ovsschema
    netlab_start "vm$n" "$directory/ovsdb.log" ovsdb-server "$directory/conf.db" --remote="punix:$directory/db.sock" --unixctl="$directory/ovsdb.ctl"
    netlab_await 5 test -S "$directory/db.sock"
    ovs_vsctl "$n" --no-wait init
    netlab_start "vm$n" "$directory/vswitchd.log" ovs-vswitchd "unix:$directory/db.sock" --unixctl="$directory/vswitchd.ctl"
    # What the kernel has coalesced it drops as too long: it would carry next to nothing. And the kernel gets every packet as
    # well, and would answer it with ICMP; the check of its source stops that.
    [[ $profile != wire ]] || netlab_in "vm$n" ethtool -K eth1 gro off
    netlab_in "vm$n" sh -c 'echo 1 >/proc/sys/net/ipv4/conf/eth1/rp_filter'
    ovs_vsctl "$n" add-br phy -- set bridge phy datapath_type=netdev \
      "other_config:hwaddr=$(netlab_in "vm$n" cat /sys/class/net/eth1/address)" -- add-port phy eth1
    netlab_ip "vm$n" <<<"addr flush dev eth1
      addr add $(underlay "$n")/24 dev phy
      link set phy up"
    ovs_vsctl "$n" add-br int -- set bridge int datapath_type=netdev -- set interface int mtu_request=1462 \
      -- add-port int gre0 -- set interface gre0 type=gre "options:remote_ip=$(underlay $((3 - n)))"
    device "$n" int 1462
  done
}
# Its devices outlive it, and so must be gone before their address comes back.
down_ovs() {
  local n
  for n in 1 2; do
    netlab_ip "vm$n" <<<"addr flush dev eth1
      addr add $(underlay "$n")/24 dev eth1
      addr add fd40::1$n/64 dev eth1 nodad"
    netlab_in "vm$n" sh -c 'cat /proc/sys/net/ipv4/conf/default/rp_filter >/proc/sys/net/ipv4/conf/eth1/rp_filter'
    [[ $profile != wire ]] || netlab_wire_device "vm$n" eth1 on
  done
}
ovs_vsctl() {
  local n=$1
  shift
  netlab_in "vm$n" ovs-vsctl --timeout=10 "--db=unix:$netlab_dir/ovs-$n/db.sock" "$@"
}

# Its control socket stands in /run/wireguard under the device's name, which therefore differs from host to host.
title[wireguard-go]="wireguard-go (encrypts)"
kind[wireguard-go]=user
wire[wireguard-go]="udp dst port 51820"
packages[wireguard-go]="wireguard-go:wireguard-go wg:wireguard-tools"
up_wireguard-go() {
  local n directory
  [[ -e /run/wireguard ]] || touch "$netlab_dir/made-run-wireguard"
  for n in 1 2; do
    directory=$(files wireguard-go "$n")
    (umask 077; wg genkey >"$directory/key")
    wg pubkey <"$directory/key" >"$directory/public"
    LOG_LEVEL=error netlab_start "vm$n" "$directory/log" wireguard-go --foreground "benchwg$n"
  done
  for n in 1 2; do
    netlab_await 5 test -S "/run/wireguard/benchwg$n.sock"
    netlab_in "vm$n" wg set "benchwg$n" listen-port 51820 private-key "$netlab_dir/wireguard-go-$n/key" \
      peer "$(cat "$netlab_dir/wireguard-go-$((3 - n))/public")" endpoint "$(underlay $((3 - n))):51820" allowed-ips "$(overlay $((3 - n)))/32"
    device "$n" "benchwg$n" 1420
  done
}

down_wireguard-go() { [[ ! -e $netlab_dir/made-run-wireguard ]] || rmdir --ignore-fail-on-non-empty /run/wireguard; }

# Neither encrypts nor authenticates: a byte of its own, UDP and IPv4 go off the MTU.
title[fastd]="fastd, null cipher"
kind[fastd]=user
wire[fastd]="udp dst port 10000"
packages[fastd]="fastd:fastd"
up_fastd() {
  local n directory secret
  local -a public
  for n in 1 2; do
    directory=$(files fastd "$n")
    secret=$(fastd --generate-key 2>/dev/null | sed -n 's/^Secret: //p')
    printf 'secret "%s";\n' "$secret" >"$directory/conf"
    public[n]=$(fastd --config "$directory/conf" --show-key 2>/dev/null | sed -n 's/^Public: //p')
  done
  for n in 1 2; do
    directory=$netlab_dir/fastd-$n
    cat >>"$directory/conf" <<END
mode tun;
interface "fastd0";
method "null";
mtu 1471;
bind $(underlay "$n"):10000;
peer "other" {
  key "${public[3 - n]}";
  remote $(underlay $((3 - n))):10000;
}
END
    netlab_start "vm$n" "$directory/log" fastd --config "$directory/conf"
    netlab_await 5 netlab_in "vm$n" test -e /sys/class/net/fastd0
    device "$n" fastd0 1471
  done
}

title[tunnel-gre]="**tunneld, GRE**"
kind[tunnel-gre]=own
wire[tunnel-gre]="ip proto 47"
up_tunnel-gre() { up_tunneld tunnel-gre gre ""; }

title[tunnel-udp]="**tunneld, GRE-in-UDP**"
kind[tunnel-udp]=own
wire[tunnel-udp]="udp dst port 4754"
up_tunnel-udp() { up_tunneld tunnel-udp gre-udp ""; }

title[tunnel-raw]="**tunneld, GRE, raw socket**"
kind[tunnel-raw]=own
wire[tunnel-raw]="ip proto 47"
up_tunnel-raw() { up_tunneld tunnel-raw gre "receive: raw, send: raw"; }

# up_tunneld NAME ENCAPSULATION DATAPATH   DATAPATH: what stands in the map `datapath`, in front of the option's.
up_tunneld() {
  local name=$1 encapsulation=$2 settings=$3 n directory
  [[ ! $datapath ]] || settings+="${settings:+, }$datapath"
  for n in 1 2; do
    directory=$(files "$name" "$n")
    {
      echo "interface: {addresses: [$(overlay "$n")/$overlay_prefix]}"
      echo "underlay: {local: $(underlay "$n"), encapsulation: $encapsulation}"
      [[ ! $settings ]] || echo "datapath: {$settings}"
      echo "peers: {vm$((3 - n)): {endpoint: $(underlay $((3 - n))), subnets: [$(overlay $((3 - n)))/32]}}"
    } >"$directory/tun0.yaml"
    netlab_in "vm$n" tunneld --config "$directory/tun0.yaml" --check >"$directory/check" 2>&1 || {
      sed -n 's/^.*tun0\.yaml:[0-9:]* *//p;tlast;b;:last;q' "$directory/check"
      [[ $(<"$directory/check") == *tun0.yaml:* ]] || head -n 1 "$directory/check"
      return 1
    }
    netlab_start "vm$n" "$directory/log" tunneld --config "$directory/tun0.yaml" --run-dir "$directory/run"
  done
  for n in 1 2; do
    netlab_await 10 show_tunneld "$name" "$n" || { tail -n 1 "$netlab_dir/$name-$n/log"; return 1; }
  done
}
# show_tunneld NAME HOST: its own view, in JSON.
show_tunneld() { netlab_in "vm$2" tunnelctl --socket "$netlab_dir/$1-$2/run/tun0.sock" --json show; }

# A user's own tunnel: add_peer_command SCRIPT adds it to the variants.
add_peer_command() {
  local script=$1 name
  name=$(basename "$script")
  name=${name%.*}
  [[ -x $script && -f $script ]] || usage_error "--peer-command: $script is not a program"
  [[ $name =~ ^[A-Za-z0-9_-]+$ && ! ${title[$name]-} ]] || usage_error "--peer-command: name the file otherwise, the variant is called after it: $name"
  title[$name]=$name
  kind[$name]=yours
  variants+=("$name")
  # Anything but the overlay's own packets; bench.sh looks for those as well.
  wire[$name]="host $(underlay 1) and host $(underlay 2)"
  peer_command[$name]=$(realpath "$script")
  eval "up_$name() { run_peer_command $name up; }
    down_$name() { run_peer_command $name down; }"
}
declare -A peer_command
# An "up" ends with the first host that fails, a "down" goes on.
run_peer_command() {
  local name=$1 action=$2 n log
  for n in 1 2; do
    log=$netlab_dir/$name-$n.log
    # What it leaves in the background must not hold our output open.
    netlab_in "vm$n" "${peer_command[$name]}" "$action" "$n" "$(underlay "$n")" "$(underlay $((3 - n)))" \
      "$(overlay "$n")/$overlay_prefix" "$(overlay $((3 - n)))" >"$log" 2>&1 </dev/null || {
      tail -n 1 "$log"
      [[ $action == down ]] || return 1
    }
  done
}
