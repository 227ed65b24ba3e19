#!/usr/bin/env bash
# Loads two tunneld with all that they can carry, for long, and says whether they stood it. Needs root; see netlab.sh for the picture.
# Traffic runs between vm1 and vm2 themselves, as in bench.sh.
set -euo pipefail
# shellcheck source=netlab.sh
source "$(dirname "${BASH_SOURCE[0]}")/netlab.sh"

usage() {
  cat <<'END'
usage: sudo scripts/soak.sh [OPTION]...

Two hosts (network namespaces) with a tunneld each. First TCP alone, four flows each way; then for N minutes everything at once: four TCP flows
each way over IPv4 and four over IPv6, a flood of 64-byte datagrams, pings. A line of progress every 10 seconds, and at the end one for
each check. Exit status 1 where one has failed.

  --minutes N        how long the full load takes; may be a fraction, for a first look. From 2 up, 60 seconds of it are free of
                     garbage collections or the check fails; below 2, half of it                                              [10]
  --wire             the underlay is like real NICs, not a bare veth, which carries super-packets unsplit
  --encapsulation gre|gre-udp|both                                                                                            [gre]
  --datapath YAML    settings for the daemons' datapath, as in: --datapath 'workers: 2'
  --report FILE      write what is shown to FILE as well
  --help             this text

The checks:

  tcp          TCP alone, at saturation: nothing is sent again, and nothing arrives out of order
  memory       resident memory in the last third of the load is not above that of the first third
  collections  no garbage collection under load, and no allocation that grows with the packets
  counters     by peer: sent = received + dropped for a reason + dropped by the underlay's devices
  load         what makes the load ran to the end, and pings came through
END
}

minutes=10 wire='' encapsulations=(gre) datapath='' report=''
while (($#)); do
  case $1 in
    --wire) wire=1; shift; continue ;;
    -h | --help) usage; exit 0 ;;
    --minutes | --encapsulation | --datapath | --report) (($# > 1)) || usage_error "$1 needs a value" ;;
    *) usage_error "unknown option: $1" ;;
  esac
  case $1 in
    --minutes)
      [[ $2 =~ ^[0-9]+(\.[0-9]+)?$ ]] || usage_error "--minutes takes a number, not $2"
      awk -v n="$2" 'BEGIN { exit !(n >= 0.2 && n <= 10080) }' || usage_error "--minutes takes 0.2 to 10080, not $2"
      minutes=$2 ;;
    --encapsulation)
      case $2 in
        both) encapsulations=(gre gre-udp) ;;
        gre | gre-udp) encapsulations=("$2") ;;
        *) usage_error "not an encapsulation: $2" ;;
      esac ;;
    --datapath) datapath=$2 ;;
    --report) report=$2 ;;
  esac
  shift 2
done

# In seconds. Start-up is over when the just-in-time compiler has done its work.
load_seconds=$(awk -v n="$minutes" 'BEGIN { printf "%d", 60 * n }')
interval=10 quiet=60 warm_up=10 tcp_seconds=15
if ((load_seconds < 120)); then quiet=$((load_seconds / 2)) warm_up=5 tcp_seconds=5; fi
((load_seconds >= 60)) || interval=2

# What memory may grow by, in KiB. Pages are touched when used, so that a burst larger than any before takes some more. A leak of one
# byte a packet is beyond it within a minute.
memory_margin=4096
# What may be allocated for each packet, in bytes. The runtime tells of allocations by the 100 KiB, and housekeeping allocates some.
allocation_margin=0.1
# Nothing that counts as one drop in the kernel is more than 64 KiB, which is so many inner packets at most.
most_segments=64

[[ ! $report ]] || { : >"$report" && report=$(realpath "$report"); } || die "can't write $report"
[[ ! $report ]] || exec > >(tee -a "$report")

# TUNNEL_LAB: another name for the lab. TUNNEL_DIST: programs that are built already.
netlab_begin "${TUNNEL_LAB:-tunnel-soak}"
install_missing jq:jq iperf3:iperf3 ping:iputils-ping nstat:iproute2 curl:curl awk:mawk /usr/bin/python3:python3
if [[ ! ${TUNNEL_DIST-} ]]; then
  "$repo/scripts/build.sh"
  TUNNEL_DIST=$dist
fi
PATH=$TUNNEL_DIST:$PATH
cd "$netlab_dir"

overlay4() { echo "10.0.201.$1"; }
overlay6() { echo "fd10:201::$1"; }

# The time of this moment, as watch-runtime.py writes it.
now() { date +%s.%6N; }

failures=0
# check NAME WHAT-WENT-WRONG WHAT-HOLDS: one line of the verdict. Nothing went wrong where that is empty.
check() {
  if [[ $2 ]]; then
    failures=$((failures + 1))
    printf '%-12s FAILED: %s\n' "$1" "$2"
  else
    printf '%-12s ok      %s\n' "$1" "$3"
  fi
}

# api HOST PATH CURL-OPTION...   what its daemon answers.
api() { curl -sf --max-time 10 --unix-socket "$netlab_dir/vm$1/run/tun0.sock" "http://tunnel/v1/$2" "${@:3}"; }

# What a daemon does now and then, done often: after some 30 times the compiler compiles it anew, which takes some megabytes, once. It is not to happen
# in the middle of the load, where it would look like growth.
exercise() {
  local path
  for _ in {1..60}; do
    for path in network peers drops routes; do api "$1" "$path" >/dev/null; done
    api "$1" reload -X POST >/dev/null
  done
}

# start_daemons ENCAPSULATION: sets daemon[HOST], the process ids, and watcher[HOST].
start_daemons() {
  local n other directory
  for n in 1 2; do
    other=$((3 - n)) directory=$netlab_dir/vm$n
    rm -rf "$directory"
    mkdir "$directory"
    {
      echo "interface: {addresses: [$(overlay4 "$n")/24, '$(overlay6 "$n")/64']}"
      echo "underlay: {local: 192.168.40.1$n, encapsulation: $1}"
      [[ ! $datapath ]] || echo "datapath: {$datapath}"
      echo "peers: {vm$other: {endpoint: 192.168.40.1$other, subnets: [$(overlay4 "$other")/32, '$(overlay6 "$other")/128']}}"
    } >"$directory/tun0.yaml"
    # The runtime has its diagnostic socket in TMPDIR.
    TMPDIR=$directory netlab_start "vm$n" "$directory/log" tunneld --config "$directory/tun0.yaml" --run-dir "$directory/run"
    daemon[n]=$(netlab_identify "$netlab_pid") || die "tunneld does not start: $(tail -n 1 "$directory/log")"
  done
  for n in 1 2; do
    netlab_await 15 api "$n" network || die "tunneld does not start: $(tail -n 1 "$netlab_dir/vm$n/log")"
    netlab_start "vm$n" "$netlab_dir/vm$n/runtime" /usr/bin/python3 "$repo/scripts/soak/watch-runtime.py" "${daemon[n]% *}" "$netlab_dir/vm$n"
    watcher[n]=$(netlab_identify "$netlab_pid") || watcher[n]=''
    netlab_await 10 grep -q watching "$netlab_dir/vm$n/runtime" || die "can't watch the runtime: $(tail -n 1 "$netlab_dir/vm$n/runtime")"
  done
  for n in 1 2; do
    netlab_await 15 netlab_in "vm$n" ping -n -c 1 -W 1 "$(overlay4 $((3 - n)))" || die "vm$((3 - n)) does not answer through the tunnel"
    netlab_await 15 netlab_in "vm$n" ping -n -c 1 -W 1 "$(overlay6 $((3 - n)))" || die "vm$((3 - n)) does not answer through the tunnel over IPv6"
  done
  for n in 1 2; do exercise "$n" || die "vm$n's daemon does not answer"; done
}

# Where a load goes: a server listens there before its client starts.
listening() { [[ $(netlab_in vm2 ss -Hltn "sport = :$1") ]]; }

# load NAME PORT SECONDS IPERF3-OPTION...   an iperf3 from vm1 to vm2 in the background; adds to servers and clients.
load() {
  local name=$1 port=$2 seconds=$3
  shift 3
  netlab_start vm2 "$netlab_dir/server.log" iperf3 -s -1 -p "$port"
  servers+=("$(netlab_identify "$netlab_pid" || true)")
  netlab_await 5 listening "$port" || die "iperf3's server does not start: $(tail -n 1 "$netlab_dir/server.log")"
  netlab_start vm1 "$netlab_dir/$name.log" iperf3 -p "$port" -t "$seconds" -i 0 --connect-timeout 5000 "$@"
  clients[$name]=$(netlab_identify "$netlab_pid" || true)
}
# load_tcp SECONDS FLOWS: so many each way over IPv4, and as many over IPv6.
load_tcp() {
  load tcp4 5201 "$1" -c "$(overlay4 2)" -P "$2" --bidir -C cubic
  load tcp6 5202 "$1" -c "$(overlay6 2)" -P "$2" --bidir -C cubic
}
unload() {
  netlab_stop "${clients[@]}" "${servers[@]}"
  clients=() servers=()
}
# The loads that have ended, each with what it said last.
ended_loads() {
  local name
  for name in "${!clients[@]}"; do
    netlab_alive "${clients[$name]}" || printf '%s (%s) ' "$name" "$(grep . "$netlab_dir/$name.log" | tail -n 1)"
  done
}

# statistic HOST DEVICE NAME
statistic() { ip -n "$netlab_name-vm$1" -j -s link show "$2" | jq ".[0].stats64.$3"; }

# device_drops HOST DEVICE rx|tx: since the daemons were started; before, a veth drops what IPv6 sends while its other end is down.
device_drops() { echo $(($(statistic "$1" "$2" "$3.dropped") - ${drops_before[$1 $2 $3]:-0})); }

memory() { awk '$1 == "VmRSS:" { print $2 }' "/proc/${daemon[$1]% *}/status" 2>/dev/null || echo 0; }

# The drops of both hosts with their names: those of the daemons where the argument is not empty, and those of the devices.
drops() {
  local n device way
  {
    for n in 1 2; do
      if [[ $1 ]]; then
        api "$n" drops | jq -r --arg host "vm$n" '.network, .peers[] | to_entries[] | select(.value > 0) | "\($host) \(.key) \(.value)"'
      fi
      for device in tun0 eth1; do
        for way in rx tx; do
          printf 'vm%d %s-%s %d\n' "$n" "$device" "$way" "$(device_drops "$n" "$device" "$way")"
        done
      done
    done
  } | awk '$3 > 0 { printf "%s%s %s %d", found++ ? ", " : "", $1, $2, $3 } END { print found ? "" : "none" }'
}

# What TCP counts of both hosts when a segment is lost or overtaken: sent again, reported missing, received twice, out of order.
readonly tcp_counters=(TcpRetransSegs TcpExtTCPLostRetransmit TcpExtTCPFastRetrans TcpExtTCPTimeouts TcpExtTCPSackRecovery
  TcpExtTCPDSACKRecv TcpExtTCPDSACKOfoRecv TcpExtTCPSACKReorder TcpExtTCPTSReorder TcpExtTCPOFOQueue)
# What the hosts' TCP drops itself, behind the tunnel: told where something was sent again, because that may be why.
readonly tcp_drops=(TcpExtTCPBacklogDrop TcpExtTCPRcvQDrop TcpExtTCPZeroWindowDrop TcpExtPruneCalled TcpExtRcvPruned TcpExtTCPOFODrop
  TcpExtListenOverflows TcpExtListenDrops)
# count_tcp COUNTER...
count_tcp() {
  local n
  for n in 1 2; do
    netlab_in "vm$n" nstat -asz "$@" | awk -v host="vm$n" '$1 !~ /^#/ { print host, $1, $2 }'
  done
}
# grown BEFORE AFTER: the counters that have, each by how much.
grown() { paste -d ' ' <(echo "$1") <(echo "$2") | awk '$3 != $6 { printf "%s%s %s %d", found++ ? ", " : "", $1, $2, $6 - $3 }'; }

# TCP alone. Both cores are busy, and the link loses nothing. Four flows each way: a flow has up to 6 MB under way (tcp_rmem, tcp_wmem), and
# the TUN device's queue holds 500 super-packets, 32 MB. With more flows it is the queue that TCP fills until it overflows.
check_tcp() {
  local before behind changed bytes dropped
  before=$(count_tcp "${tcp_counters[@]}") behind=$(count_tcp "${tcp_drops[@]}") bytes=$(($(statistic 1 tun0 rx.bytes) + $(statistic 2 tun0 rx.bytes)))
  load_tcp "$tcp_seconds" 2
  sleep "$tcp_seconds"
  netlab_await 15 loads_ended || true
  bytes=$(($(statistic 1 tun0 rx.bytes) + $(statistic 2 tun0 rx.bytes) - bytes))
  unload
  changed=$(grown "$before" "$(count_tcp "${tcp_counters[@]}")")
  dropped=$(drops 1)
  behind=$(grown "$behind" "$(count_tcp "${tcp_drops[@]}")")
  [[ ! $changed ]] || changed+=" (dropped: $dropped; by TCP itself: ${behind:-none})"
  ((bytes > tcp_seconds * 10000000)) || changed+="${changed:+, }only $bytes bytes in $tcp_seconds s"
  verdicts+=("tcp" "$changed" "$(awk -v b="$bytes" -v s="$tcp_seconds" 'BEGIN { printf "%.2f Gbit/s both ways together, 8 flows: nothing sent again, nothing out of order", b * 8 / s / 1e9 }')")
}
loads_ended() { local process; for process in "${clients[@]}"; do netlab_ended "$process" || return 1; done; }

# One line of progress; adds to the samples of memory. progress WITH-REASONS
progress() {
  local n bytes packets line='' time
  time=$(now)
  for n in 1 2; do
    memory[n]=$(memory "$n")
    samples[n]+="${memory[n]} "
    bytes=$(statistic "$n" tun0 rx.bytes)
    line+=$(awk -v b=$((bytes - delivered[n])) -v from="$last" -v to="$time" -v n="$n" 'BEGIN { printf "to vm%d %.2f Gbit/s, ", n, b * 8 / (to - from) / 1e9 }')
    delivered[n]=$bytes
  done
  last=$time
  printf '%5d s  %smemory %d and %d KiB; dropped: %s\n' $((SECONDS - began)) "$line" "${memory[1]}" "${memory[2]}" "$(drops "$1")"
}

# packets HOST: how many its daemon has sent and received.
packets() { api "$1" peers | jq '[.[].traffic | .sent.packets, .received.packets] | add'; }

# Everything at once. The control API is left alone at first, because its answers allocate, and asked once a minute later: some 30 KB for each, which
# stay until there is a collection, and would look like a leak of the packets' way.
run_load() {
  local delivered=(0 0 0) memory=(0 0 0) last began n reasons asked=0
  load_tcp $((load_seconds + 60)) 4
  load udp 5203 $((load_seconds + 60)) -c "$(overlay4 2)" -u -l 64 -b 0
  netlab_start vm1 "$netlab_dir/ping.log" ping -n -i 0.2 -w $((load_seconds + 60)) "$(overlay4 2)"
  clients[ping]=$(netlab_identify "$netlab_pid" || true)
  sleep "$warm_up"

  for n in 1 2; do delivered[n]=$(statistic "$n" tun0 rx.bytes) quiet_packets[n]=$(packets "$n"); done
  sleep 1
  began=$SECONDS last=$(now)
  begin_quiet=$last
  while ((SECONDS - began < load_seconds)); do
    sleep "$interval"
    reasons=''
    if ((SECONDS - began >= quiet && (asked == 0 || (SECONDS - began) / 60 > asked))); then
      reasons=1 asked=$(((SECONDS - began) / 60))
      if [[ ! $end_quiet ]]; then
        end_quiet=$(now)
        for n in 1 2; do quiet_packets[n]=$(($(packets "$n") - quiet_packets[n])); done
      fi
    fi
    progress "$reasons"
  done
  ended=$(ended_loads)
  unload
}

# Memory: the most of the last third against the most of the first.
check_memory() {
  local n grown trouble='' shown=''
  for n in 1 2; do
    grown=$(awk '{ third = int(NF / 3); for (i = 1; i <= third; i++) { if ($i > first) first = $i; if ($(NF + 1 - i) > last) last = $(NF + 1 - i) } print last - first }' <<<"${samples[n]}")
    shown+="${shown:+, }vm$n $(awk '{ print $1 " to " $NF }' <<<"${samples[n]}") KiB"
    ((grown <= memory_margin)) || trouble+="${trouble:+, }vm$n has $grown KiB more in the last third than in the first"
  done
  verdicts+=("memory" "${trouble:+$trouble ($shown)}" "$shown")
}

# watched HOST FROM TO: what the runtime said between two moments, collections and bytes allocated. The first of these is about what
# was before as well.
watched() {
  awk -v from="$2" -v to="$3" '$1 >= from && $1 <= to { if ($2 == "collection") c++; if ($2 == "allocated" && told++) b += $3 }
    END { printf "%d %.0f\n", c, b }' "$netlab_dir/vm$1/runtime"
}

check_collections() {
  local n collections allocated packets trouble='' shown='' _
  for n in 1 2; do
    # Proves that the runtime would have told: answers allocate.
    for _ in {1..100}; do api "$n" peers >/dev/null || true; done
  done
  for n in 1 2; do
    netlab_await 5 grep -q allocated "$netlab_dir/vm$n/runtime" || trouble+="${trouble:+, }the runtime of vm$n tells nothing"
    netlab_alive "${watcher[n]}" || trouble+="${trouble:+, }vm$n was not watched to the end: $(tail -n 1 "$netlab_dir/vm$n/runtime")"
    read -r collections allocated <<<"$(watched "$n" "$begin_quiet" "$end_quiet")"
    packets=${quiet_packets[n]}
    ((collections == 0)) || trouble+="${trouble:+, }vm$n: $collections collections in $quiet s"
    awk -v b="$allocated" -v p="$packets" -v m="$allocation_margin" 'BEGIN { exit !(p > 0 && b / p <= m) }' ||
      trouble+="${trouble:+, }vm$n: $allocated bytes allocated, $packets packets"
    shown+="${shown:+; }vm$n none in $quiet s, $allocated bytes allocated, $packets packets"
  done
  verdicts+=("collections" "$trouble" "$shown")
}

# The last packets are under way for a moment: counters are compared when they stand still.
still() {
  local before
  before=$(traffic)
  sleep 0.5
  [[ $before && $(traffic) == "$before" ]]
}
traffic() { { api 1 peers && api 2 peers; } | jq -c '.[].traffic'; }

# Everything that the daemons and devices count, by direction. Drops of the way out have not been counted as sent. Again where a packet came between
# the questions: ends of TCP connections that were cut off repeat themselves, each time after twice the time.
check_counters() {
  local trouble='' shown='' before
  for _ in {1..10}; do
    netlab_await 20 still || { trouble="the counters do not come to rest"; break; }
    before=$(traffic) trouble='' shown=''
    compare_counters
    [[ $(traffic) != "$before" ]] || break
  done
  verdicts+=("counters" "$trouble" "$shown")
}

# Adds to what is shown, and to the trouble if there is any.
compare_counters() {
  local from to sent received sent_bytes received_bytes reasons queue devices missing kernel blind
  for from in 1 2; do
    to=$((3 - from))
    read -r sent sent_bytes <<<"$(api "$from" "peers/vm$to" | jq -r '.traffic.sent | "\(.packets) \(.bytes)"')"
    read -r received received_bytes <<<"$(api "$to" "peers/vm$from" | jq -r '.traffic.received | "\(.packets) \(.bytes)"')"
    read -r reasons queue <<<"$(api "$to" drops | jq -r '
      ["OuterMalformed", "GreTruncated", "GreVersionUnsupported", "GreReservedBits", "UnknownPeer", "KeyMismatch", "ChecksumAbsent", "ChecksumUnexpected",
       "ChecksumMismatch", "SequenceAbsent", "SequenceUnexpected", "SequenceOld", "GreProtocolUnknown", "ControlMessageUnknown", "CoalescedUdp", "SourceNotInPeerSubnets", "InnerDestinationIsEndpoint", "EcnCongestionLost",
       "TunWriteFailed"] as $inbound
      | "\([.network, .peers[]] | map(.[$inbound[]]) | add) \(.network.ReceiveQueueFull)"')"
    # A veth counts at the sender what its ring had no room for, and at the receiver what the queue behind it had none for.
    devices=$(($(device_drops "$from" eth1 tx) + $(device_drops "$to" eth1 rx)))
    missing=$((sent - received - reasons)) kernel=$((queue + devices))
    # Where a raw socket gets what the kernel has coalesced, or a UDP socket what crossed the link uncut, it counts as one: each other packet lacks
    # its headers.
    blind=$(api "$to" network | jq -r --arg wire "$wire" '
      select(if .underlay.encapsulation == "gre" then .datapath.receive == "raw" and $wire != ""
             else $wire == "" and (.datapath.offloads | index("gre-udp-segment")) != null end) | 1')
    shown+="${shown:+; }vm$from to vm$to: $sent sent = $received received + $reasons dropped by the daemon + $((missing)) by the kernel (its receive queue $queue, the devices $devices)"
    if [[ $blind ]]; then
      shown+=", counted before they were coalesced"
      ((missing >= 0 && sent_bytes - received_bytes >= missing * 20)) || trouble+="${trouble:+; }vm$from to vm$to: $missing packets are missing, $((sent_bytes - received_bytes)) bytes"
    elif ((missing < kernel || missing > kernel * most_segments)); then
      trouble+="${trouble:+; }vm$from to vm$to: $sent sent, $received received, $reasons dropped by the daemon, $queue by its receive queue, $devices by devices: $((missing - kernel)) not accounted for"
    fi
  done
}

check_load() {
  local answered
  answered=$(grep -c 'bytes from' "$netlab_dir/ping.log" || true)
  [[ $answered != 0 ]] || ended+="no ping was answered"
  verdicts+=("load" "$ended" "$answered pings answered, the slowest in $(sed -n 's/.* time=\([0-9.]*\) ms.*/\1/p' "$netlab_dir/ping.log" | sort -n | tail -n 1) ms")
}

# Everything with one encapsulation.
soak() {
  local daemon=('' '' '') watcher=('' '' '') servers=() samples=('' '' '') verdicts=() quiet_packets=('' '' '') begin_quiet='' end_quiet='' ended='' i
  local -A clients=() drops_before=()
  rm -f ./*.log
  say "$1, $profile profile${datapath:+, datapath: $datapath}: $tcp_seconds s of TCP alone, $load_seconds s of everything"
  for i in 1 2; do drops_before["$i eth1 rx"]=$(statistic "$i" eth1 rx.dropped) drops_before["$i eth1 tx"]=$(statistic "$i" eth1 tx.dropped); done
  start_daemons "$1"
  check_tcp
  run_load
  check_memory
  check_counters
  check_collections
  check_load
  printf 'dropped: %s\n' "$(drops 1)"
  for ((i = 0; i < ${#verdicts[@]}; i += 3)); do check "${verdicts[@]:i:3}"; done
  netlab_stop "${watcher[@]:1}" "${daemon[@]:1}"
}

profile=default
netlab_hosts 2
if [[ $wire ]]; then
  netlab_wire
  profile=wire
fi
for n in 1 2; do
  # A probe (TLP) or a time-out after a late acknowledgement says that the processors are busy, not that a packet was lost. What was
  # lost is still found by the acknowledgements behind it. The time-out can be changed since Linux 6.11.
  netlab_in "vm$n" sh -c 'cd /proc/sys/net/ipv4; echo 1 >tcp_no_metrics_save; echo 0 >tcp_early_retrans; [ ! -e tcp_rto_min_us ] || echo 1000000 >tcp_rto_min_us'
done
for encapsulation in "${encapsulations[@]}"; do soak "$encapsulation"; done
if ((failures)); then
  say "$failures check(s) FAILED"
  exit 1
fi
say "all checks passed"
