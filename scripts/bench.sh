#!/usr/bin/env bash
# Compares tunneld with other tunnels, end to end, on this machine. Needs root; see netlab.sh for the picture. Traffic runs from
# vm1 to vm2 themselves, between the tunnel devices' overlay addresses; the containers have no part in it.
#
#        10.0.201.1│ tunnel                  tunnel │10.0.201.2
#    ┌─────────────┴────┐                    ┌──────┴───────────┐
#    │ vm1   iperf3 -c  │eth1            eth1│ vm2   iperf3 -s  │
#    │       ping       ├────────────────────┤                  │
#    └──────────────────┘.11   MTU 1500   .12└──────────────────┘
set -euo pipefail
# shellcheck source=netlab.sh
source "$(dirname "${BASH_SOURCE[0]}")/netlab.sh"
# shellcheck source=bench/variants.sh
source "$repo/scripts/bench/variants.sh"

usage() {
  cat <<'END'
usage: sudo scripts/bench.sh [OPTION]...

Compares tunneld with no tunnel, kernel VXLAN, Open vSwitch (userspace GRE), wireguard-go and fastd (null cipher), which it
installs from Debian. Two hosts are network namespaces. Progress goes to standard error, the table in Markdown to standard
output. The whole run takes 20 to 25 minutes.

  --profile default|wire|both   default: a veth, which carries super-packets unsplit; wire: like real NICs      [both]
  --rounds N       how often each variant is measured, in turn with all others; at least 3                       [3]
  --seconds N      how long each measurement takes                                                               [5]
  --quick          one round, measurements of 2 seconds, for a first look: about 5 minutes
  --only A,B,...   only these: none vxlan ovs wireguard-go fastd tunnel-gre tunnel-udp, those of --peer-command,
                   and tunnel-raw (plain GRE through raw sockets), which is not measured otherwise
  --datapath YAML  settings for tunneld's datapath, as in: --datapath 'workers: 2, busy-poll: 50us'
  --peer-command SCRIPT   a tunnel of your own, called after the file; may be given more than once
  --out DIR        also write bench.md, and bench.json with the same table and the figures of every round
  --report FILE    measure nothing: print the table of a bench.json
  --help           this text

A SCRIPT of --peer-command runs as root in each host's namespace, for vm1 and vm2 one after the other, as

  SCRIPT up|down HOST LOCAL REMOTE LOCAL-OVERLAY/PREFIX REMOTE-OVERLAY
  SCRIPT up      1    192.168.40.11 192.168.40.12 10.0.201.1/24 10.0.201.2

"up" gives some device LOCAL-OVERLAY/PREFIX, through which REMOTE-OVERLAY is reached once both hosts are up. It returns; what it
leaves in the background belongs to the tunnel: its memory is counted, and it is ended after "down". "down" removes the rest,
and also comes after an "up" that failed. The underlay device is eth1. An example, the kernel's own GRE:

  #!/bin/sh -e
  case $1 in
    up)   ip link add gre1 type gre local "$3" remote "$4"; ip addr add "$5" dev gre1; ip link set gre1 up ;;
    down) ip link del gre1 ;;
  esac
END
}

profiles=(default wire) rounds=3 seconds='' quick='' only='' datapath='' out='' report=''
variants=(none vxlan ovs wireguard-go fastd tunnel-gre tunnel-udp)
while (($#)); do
  case $1 in
    --quick) quick=1; shift; continue ;;
    -h | --help) usage; exit 0 ;;
    --profile | --rounds | --seconds | --only | --datapath | --peer-command | --out | --report)
      (($# > 1)) || usage_error "$1 needs a value" ;;
    *) usage_error "unknown option: $1" ;;
  esac
  case $1 in
    --profile)
      case $2 in
        both) profiles=(default wire) ;;
        default | wire) profiles=("$2") ;;
        *) usage_error "not a profile: $2" ;;
      esac ;;
    --rounds) [[ $2 =~ ^([3-9]|[1-9][0-9]+)$ ]] || usage_error "--rounds takes a number from 3 up, not $2 (--quick takes one round)"; rounds=$2 ;;
    --seconds) [[ $2 =~ ^[1-9][0-9]*$ ]] || usage_error "--seconds takes a number from 1 up, not $2"; seconds=$2 ;;
    --only) only=$2 ;;
    --datapath) datapath=$2 ;;
    --peer-command) add_peer_command "$2" ;;
    --out) out=$2 ;;
    --report) report=$2 ;;
  esac
  shift 2
done
# Of each measurement set; it is also when a just-in-time compiler does its work.
warm_up=2
[[ ! $quick ]] || rounds=1 seconds=${seconds:-2} warm_up=1
seconds=${seconds:-5}
if [[ $only ]]; then
  IFS=, read -ra variants <<<"$only"
  for variant in "${variants[@]}"; do [[ ${title[$variant]-} ]] || usage_error "not a variant: $variant"; done
fi

# The table of a bench.json on standard input, as markdown or json.
tables() { jq -r --arg form "$1" -f "$repo/scripts/bench/report.jq"; }

if [[ $report ]]; then
  [[ -r $report ]] || die "can't read $report"
  command -v jq >/dev/null || die "missing: jq"
  tables markdown <"$report"
  exit
fi

# Standard output is the table's alone.
exec 3>&1 1>&2

# TUNNEL_LAB: another name for the lab. TUNNEL_DIST: programs that are built already.
netlab_begin "${TUNNEL_LAB:-tunnel-bench}"
install_missing jq:jq iperf3:iperf3 ping:iputils-ping tcpdump:tcpdump ss:iproute2 awk:mawk
[[ ! $out ]] || { mkdir -p "$out" && out=$(realpath "$out"); }

# Sets reason to why the variant can't be measured here; empty where it can.
install_peer() {
  local pair missing=() package unit status policy=/usr/sbin/policy-rc.d
  reason=''
  for pair in ${packages[$1]-}; do command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}"); done
  ((${#missing[@]})) || return 0

  # A package of Debian starts its service when it is installed unless policy-rc.d forbids it.
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    # shellcheck disable=SC2064
    trap "rm -f $policy; netlab_remove" EXIT
  elif status=0; "$policy" "${missing[0]}" start >/dev/null 2>&1 || status=$?; ((status != 101)); then
    reason="${missing[*]} is not installed, and $policy would let it start a service; install it yourself"
    return
  fi
  if ! (install_packages "${missing[@]}"); then reason="${missing[*]} could not be installed"; fi
  if [[ $(trap -p EXIT) == *"$policy"* ]]; then
    rm -f "$policy"
    trap netlab_remove EXIT
  fi
  [[ ! $reason ]] || return 0

  # Nor at the next boot.
  command -v systemctl >/dev/null || return 0
  for package in "${missing[@]}"; do
    while read -r unit; do
      unit=$(basename "$unit")
      [[ $(systemctl is-enabled "$unit" 2>/dev/null) == enabled ]] || continue
      systemctl --quiet disable "$unit" 2>/dev/null && say "disabled the service $unit of the package $package"
    done < <(dpkg -L "$package" | grep -E '^(/usr)?/lib/systemd/system/[^@/]+\.service$')
  done
  return 0
}

# Why a variant could not be measured at all; of these, those that could not be installed; those that were measured.
declare -A unavailable missing_peer measured
for variant in "${variants[@]}"; do
  install_peer "$variant"
  [[ ! $reason ]] || missing_peer[$variant]=1 unavailable[$variant]=$reason
done
if [[ ! ${TUNNEL_DIST-} && " ${variants[*]}" == *" tunnel-"* ]]; then
  "$repo/scripts/build.sh"
  TUNNEL_DIST=$dist
fi
PATH=${TUNNEL_DIST:+$TUNNEL_DIST:}$PATH
cd "$netlab_dir"

# counter HOST DEVICE NAME...: the sum of a device's statistics, 0 where the device is gone.
counter() {
  local host=$1 device=$2
  shift 2
  # shellcheck disable=SC2016
  netlab_in "$host" awk '{ sum += $1 } END { printf "%.0f\n", sum }' "${@/#//sys/class/net/$device/statistics/}" 2>/dev/null || echo 0
}

# What the underlay's and the tunnel's devices of both hosts have dropped.
drops() {
  local n sum=0 device
  for n in 1 2; do
    for device in eth1 ${tunnel_device[n]}; do
      sum=$((sum + $(counter "vm$n" "$device" rx_dropped tx_dropped rx_errors tx_errors)))
    done
  done
  echo "$sum"
}

# The whole machine's busy time, in clock ticks: user, nice, system, irq, softirq of proc_stat(5). What a guest runs is in user.
busy() { awk '$1 == "cpu" { printf "%.0f\n", $2 + $3 + $4 + $7 + $8 }' /proc/stat; }
ticks_per_second=$(getconf CLK_TCK)

# The processes in both hosts.
processes() { { ip netns pids "$netlab_name-vm1"; ip netns pids "$netlab_name-vm2"; } | sort; }

# The server of a measurement serves once, so that no measurement suffers from what an earlier one left.
listening() { [[ $(netlab_in vm2 ss -Hltn "sport = :5201") ]]; }
# iperf SECONDS OPTION...   leaves the client's JSON in the file iperf.json
iperf() {
  local duration=$1 server status=0
  shift
  netlab_start vm2 "$netlab_dir/iperf3.log" iperf3 -s -1
  server=$(netlab_identify "$netlab_pid") || server=
  netlab_await 5 listening || { problem "iperf3's server does not start"; return 1; }
  netlab_in vm1 timeout -k 5 $((duration + 15)) iperf3 -c "$target" -t "$duration" -i 0 --connect-timeout 5000 -J "$@" >iperf.json 2>/dev/null </dev/null || status=$?
  netlab_stop "$server"
  if ((status)); then
    problem "iperf3 $*: $(jq -r '.error // "it was stopped after \(.start.test_start.duration + 15) s"' iperf.json 2>/dev/null || echo "it was stopped")"
    return 1
  fi
}

# What goes wrong with a variant is shown and recorded, and the run goes on.
problem() {
  problems+=("$1")
  printf '[%s] ' "$1"
}

# figure NAME JSON-VALUE: one of the round's figures.
figure() { figures+=("$1" "$2"); }

# tcp NAME IPERF3-OPTION...   Gbit/s received, and retransmits; for tcp1 also CPU time per 10^9 bytes and the wire packets' size.
tcp() {
  local name=$1 sender=vm1 cpu bytes packets received
  shift
  [[ " $* " != *" -R "* ]] || sender=vm2
  cpu=$(busy) bytes=$(counter "$sender" eth1 tx_bytes) packets=$(counter "$sender" eth1 tx_packets)
  iperf "$seconds" -C cubic "$@" || return 0
  cpu=$(($(busy) - cpu)) bytes=$(($(counter "$sender" eth1 tx_bytes) - bytes)) packets=$(($(counter "$sender" eth1 tx_packets) - packets))
  received=$(jq .end.sum_received.bytes iperf.json)
  [[ $(jq -r .end.sender_tcp_congestion iperf.json) == cubic ]] || problem "$name: the sender did not use cubic"
  if ((bytes < received)); then
    problem "$name: the underlay carried less than arrived, so it was bypassed"
    return 0
  fi
  figure "$name" "$(jq '.end.sum_received.bits_per_second / 1e9' iperf.json)"
  figure "${name}_retransmits" "$(jq '.end.sum_sent.retransmits' iperf.json)"
  printf '%s %s Gbit/s, ' "$name" "$(jq '.end.sum_received.bits_per_second / 1e7 | round / 100' iperf.json)"
  [[ $name == tcp1 ]] || return 0
  figure cpu "$(awk -v t="$cpu" -v hz="$ticks_per_second" -v b="$received" 'BEGIN { print t / hz / (b / 1e9) }')"
  figure wire_packet "$(awk -v b="$bytes" -v p="$packets" 'BEGIN { print b / p }')"
}

udp() {
  local rate
  iperf "$seconds" -u -l 64 -b 0 || return 0
  rate=$(jq '.end.sum_received | (.packets - .lost_packets) / .seconds / 1e3' iperf.json)
  figure udp64 "$rate"
  printf 'udp64 %.0f kpps, ' "$rate"
}

latency() {
  local median
  median=$(netlab_in vm1 timeout 30 ping -n -c 200 -i 0.005 "$target" | sed -n 's/.* time=\([0-9.]*\) ms.*/\1/p' | sort -n | awk '{ t[NR] = $1 } END { print t[int((NR + 1) / 2)] }')
  [[ $median ]] || { problem "ping has no answer"; return 0; }
  figure ping "$median"
  printf 'ping %s ms, ' "$median"
}

# The larger of the hosts' sums of their tunnel processes' peak resident memory (VmHWM, KiB), in 10^6 bytes.
memory() {
  local n process sum most=0
  for n in 1 2; do
    sum=0
    while read -r process; do
      [[ " ${tunnel_processes[*]/% */} " == *" $process "* ]] || continue
      sum=$((sum + $(awk '$1 == "VmHWM:" { print $2 }' "/proc/$process/status" 2>/dev/null || echo 0)))
    done < <(ip netns pids "$netlab_name-vm$n")
    ((sum <= most)) || most=$sum
  done
  if ((most == 0)); then
    [[ ${kind[$variant]} == kernel || ${kind[$variant]} == yours ]] || problem "its processes are gone"
    return 0
  fi
  figure memory "$(awk -v k="$most" 'BEGIN { print k * 1024 / 1e6 }')"
  printf '%.0f MB' "$(awk -v k="$most" 'BEGIN { print k * 1024 / 1e6 }')"
}

# Captures a few pings on the underlay: each must be there in the variant's own wire format, and none as it left the sender.
goes_through() {
  local tcpdump
  netlab_start vm2 "$netlab_dir/tcpdump.log" tcpdump -i eth1 -s 128 --immediate-mode -U -Z root -w "$netlab_dir/check.pcap"
  tcpdump=$(netlab_identify "$netlab_pid")
  netlab_await 5 grep -q listening "$netlab_dir/tcpdump.log" || { reason="tcpdump does not start"; netlab_stop "$tcpdump"; return 1; }
  netlab_in vm1 ping -n -q -c 10 -i 0.02 -s 1000 "$target" >/dev/null || true
  sleep 0.3
  netlab_stop "$tcpdump"
  rm "$netlab_dir/tcpdump.log"
  if (($(captured "src host $(underlay 1) and greater 1000 and ${wire[$variant]}") < 10)); then
    reason="its traffic is not on the wire as ${wire[$variant]}"
  elif (($(captured "host $(overlay 2)") > 0)); then
    reason="its traffic is on the wire without a tunnel"
  else
    return 0
  fi
  return 1
}
captured() { tcpdump -n -r "$netlab_dir/check.pcap" "$1" 2>/dev/null | wc -l; }

# devices HOST: their names, on one line.
devices() { netlab_in "vm$1" ls /sys/class/net | tr '\n' ' '; }

# Sets target, tunnel_device and tunnel_processes, or reason.
bring_up() {
  local said status before=() process n
  reason=''
  mapfile -t before < <(processes)
  set +e
  said=$(set -e; "up_$variant" 2>&1)
  status=$?
  set -e
  # From now on they are ended with the lab as well, however the tunnel started them.
  tunnel_processes=()
  while read -r process; do
    process=$(netlab_identify "$process") || continue
    tunnel_processes+=("$process")
    echo "$process" >>"$netlab_dir/processes"
  done < <(comm -13 <(printf '%s\n' "${before[@]}") <(processes))
  if ((status)); then
    reason=$(grep . <<<"$said" | tail -n 1 | sed "s|$netlab_dir/||g") || true
    reason=${reason:-it did not start}
    return
  fi

  target=$(overlay 2)
  [[ $variant != none ]] || target=$(underlay 2)
  for n in 1 2; do
    tunnel_device[n]=''
    [[ $variant == none ]] || tunnel_device[n]=$(ip -n "$netlab_name-vm$n" -o addr show to "$(overlay "$n")" | awk 'NR == 1 { print $2 }')
    [[ $variant == none || ${tunnel_device[n]} ]] || { reason="no device has $(overlay "$n")"; return; }
  done
  if ! netlab_await 15 netlab_in vm1 ping -n -c 1 -W 1 "$target"; then
    reason="the other host does not answer through it"
    return
  fi
  goes_through || true
}

# Ends the variant's processes and deletes every device that was not there before.
take_down() {
  local n device
  if declare -F "down_$variant" >/dev/null && [[ ${kind[$variant]} == yours ]]; then "down_$variant" || true; fi
  netlab_stop "${tunnel_processes[@]}"
  for n in 1 2; do
    for device in $(devices "$n"); do
      [[ " ${devices_before[n]} " == *" $device "* ]] || ip -n "$netlab_name-vm$n" link del "$device" 2>/dev/null || true
    done
  done
  if declare -F "down_$variant" >/dev/null && [[ ${kind[$variant]} != yours ]]; then "down_$variant"; fi
}

# busy_share SECONDS: how busy the machine is, in percent.
busy_share() {
  local before
  before=$(busy)
  sleep "$1"
  awk -v t=$(($(busy) - before)) -v hz="$ticks_per_second" -v n="$(nproc)" -v s="$1" 'BEGIN { share = 100 * t / hz / n / s; printf "%.0f\n", share > 100 ? 100 : share }'
}

# Others' work on this machine would count as the tunnel's. It is waited for, not for long, and what remains is recorded.
settle() {
  local deadline=$((SECONDS + 20))
  while busy_before=$(busy_share 0.4); ((busy_before >= 10 && SECONDS < deadline)); do :; done
  ((busy_before < 10)) || problem "$busy_before % of the machine was busy with other things before it began"
}

# One variant in one round.
measure() {
  local figures=() problems=() before busy_before show=null
  printf '%s, round %d of %d, %s: ' "$profile" "$round" "$rounds" "$variant"
  settle
  bring_up
  if [[ $reason ]]; then
    printf 'not available: %s\n' "$reason"
    problems+=("not available: $reason")
    take_down
    record
    # It is tried again in the next round.
    [[ ${measured[$variant]-} ]] || unavailable[$variant]=$reason
    return
  fi
  measured[$variant]=1
  unset "unavailable[$variant]"

  iperf "$warm_up" -C cubic || true
  before=$(drops)
  tcp tcp1
  tcp tcp4 -P 4
  tcp reverse -R
  figure busy_before "$busy_before"
  figure drops $(($(drops) - before))
  latency
  before=$(drops)
  udp
  figure udp64_drops $(($(drops) - before))
  memory
  [[ ${kind[$variant]} != own ]] || show=$(show_tunneld "$variant" 1 2>/dev/null | jq -c . 2>/dev/null) || show=null
  take_down
  printf '\n'
  record
}

# Adds what measure has found to the file rounds.
record() {
  jq -nc --arg profile "$profile" --argjson round "$round" --arg variant "$variant" --argjson show "${show:-null}" '
    $ARGS.positional as $all
    | ($all | index("problems:")) as $cut
    | $all[:$cut] as $figures | $all[$cut + 1:] as $problems
    | {$profile, $round, $variant, problems: $problems}
      + ([range(0; $figures | length; 2) | {($figures[.]): ($figures[. + 1] | tonumber? // null)}] | add // {})
      + (if $show then {$show} else {} end)' --args "${figures[@]}" problems: "${problems[@]}" >>"$netlab_dir/rounds"
}

# The machine and the settings of the run.
machine() {
  local versions=() pair package version
  for variant in "${variants[@]}"; do
    for pair in ${packages[$variant]-}; do
      package=${pair#*:}
      # shellcheck disable=SC2016
      version=$(dpkg-query -W -f '${db:Status-Status} ${Version}' "$package" 2>/dev/null) || version=
      [[ $version != "installed "* ]] || versions+=("$package" "${version#installed }")
    done
  done
  [[ ! ${TUNNEL_DIST-} ]] || versions+=(tunneld "$(tunneld --version | sed 's/^tunneld //') ($(git -C "$repo" describe --always --dirty 2>/dev/null || echo "no git"))")
  versions+=(iperf3 "$(iperf3 --version | awk 'NR == 1 { print $2 }')")
  jq -n --arg cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" --argjson cores "$(nproc)" --arg kernel "$(uname -r)" \
    --arg date "$(date -u +%Y-%m-%dT%H:%M:%SZ)" --argjson seconds "$seconds" --argjson warm_up "$warm_up" --argjson rounds "$rounds" \
    --argjson quick "${quick:-0}" --arg datapath "$datapath" --arg arch "$(uname -m)" '
    ($ARGS.positional) as $v
    | {machine: {cpu: (if $cpu == "" then $arch else $cpu end), $cores, $kernel}, $date,
       settings: {$seconds, $warm_up, $rounds, quick: ($quick == 1), $datapath, congestion_control: "cubic", mtu: 1500},
       versions: ([range(0; $v | length; 2) | {($v[.]): $v[. + 1]}] | add)}' --args "${versions[@]}"
}

# {"NAME": {title, kind, unavailable}}, in the table's order.
described() {
  local variant
  for variant in "${variants[@]}"; do
    jq -n --arg name "$variant" --arg title "${title[$variant]}" --arg kind "${kind[$variant]}" --arg unavailable "${unavailable[$variant]-}" \
      '{$name, $title, $kind} + if $unavailable == "" then {} else {$unavailable} end'
  done | jq -s .
}

netlab_hosts 2
for n in 1 2; do
  # What TCP learnt about a path would go from one tunnel to the next, because they have the same addresses.
  netlab_in "vm$n" sh -c 'echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save'
  netlab_ip "vm$n" <<<"link set eth1 mtu 1500"
done

say "${#variants[@]} variants, profiles: ${profiles[*]}, $rounds round(s): about $((${#variants[@]} * ${#profiles[@]} * rounds * (4 * seconds + warm_up + 8) / 60 + 1)) minutes"

tunnel_device=() tunnel_processes=() devices_before=('' "$(devices 1)" "$(devices 2)")
: >rounds
for profile in "${profiles[@]}"; do
  [[ $profile != wire ]] || netlab_wire
  for ((round = 1; round <= rounds; round++)); do
    for variant in "${variants[@]}"; do
      [[ ${missing_peer[$variant]-} ]] || measure
    done
  done
done

jq -s --argjson run "$(machine)" --argjson variants "$(described)" '$run + {$variants, rounds: .}' rounds >measured
jq -s add measured <(tables json <measured) >bench.json
tables markdown <bench.json >bench.md
[[ ! $out ]] || { cp bench.json bench.md "$out/"; say "written: $out/bench.md and bench.json"; }
cat bench.md >&3
