#!/usr/bin/env bash
# Measures tunneld at rest, as the package has it, and compares it with what is promised: memory, CPU, start-up, how fast `tunnelctl
# show` answers, and the size on disk. Figures of a moment on this machine: run it where nothing else does. Needs root.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1-} in
  '') ;;
  -h | --help) echo "usage: sudo scripts/footprint.sh    prints each figure, its bound, and whether it holds"; exit 0 ;;
  *) usage_error "unknown argument: $1" ;;
esac
is_root || die "needs root: sudo scripts/footprint.sh"
install_missing ip:iproute2 /usr/bin/python3:python3 dpkg-deb:dpkg
"$repo/scripts/package.sh" >&2

ns=tunnel-footprint
work=$(mktemp -d)
# shellcheck disable=SC2012  # names of our own
dpkg-deb --extract "$(ls -t "$dist"/tunnel_*.deb | head -n 1)" "$work/root"
tunneld=$work/root/usr/bin/tunneld
tunnelctl=$work/root/usr/bin/tunnelctl
# No .NET of this machine is found.
unset DOTNET_ROOT
daemon=
# shellcheck disable=SC2317  # called by the trap
cleanup() {
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  [[ -z $daemon ]] || wait "$daemon" 2>/dev/null || true
  ip netns del "$ns" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
ip netns del "$ns" 2>/dev/null || true

# One host, one underlay link, two peers:   tunnel-footprint [ eth0 192.168.40.11 ] -- [ peer ]
ip netns add "$ns"
ip -n "$ns" link set lo up
ip -n "$ns" link add eth0 type veth peer name peer
ip -n "$ns" addr add 192.168.40.11/24 dev eth0
ip -n "$ns" link set eth0 up
ip -n "$ns" link set peer up
cat >"$work/tun0.yaml" <<'YAML'
interface:
  addresses: [10.0.201.1/24]
underlay:
  local: 192.168.40.11
peers:
  vm2: {endpoint: 192.168.40.12, subnets: [172.17.52.0/24]}
  vm3: {endpoint: 192.168.40.13, subnets: [172.17.53.0/24]}
YAML

failed=0
# figure NAME VALUE UNIT BOUND
figure() {
  local verdict=ok
  if ! awk -v value="$2" -v bound="$4" 'BEGIN { exit !(value <= bound) }'; then
    verdict=TOO\ MUCH
    failed=1
  fi
  printf '%-34s %9s %-3s  at most %6s %-3s  %s\n' "$1" "$2" "$3" "$4" "$3" "$verdict"
}

# ready_ms: starts the daemon as a service manager would and prints how long READY took, in milliseconds.
cat >"$work/start.py" <<'PYTHON'
import os, socket, subprocess, sys, time
path = sys.argv[1]
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind(path)
server.settimeout(20)
began = time.monotonic()
process = subprocess.Popen(sys.argv[3:], env={**os.environ, "NOTIFY_SOCKET": path}, start_new_session=True)
while b"READY=1" not in server.recv(4096):
    pass
open(sys.argv[2], "w").write(f"{process.pid} {(time.monotonic() - began) * 1000:.0f}\n")
PYTHON

starts=()
for round in 1 2 3; do
  [[ -z $daemon ]] || { kill "$daemon"; while kill -0 "$daemon" 2>/dev/null; do sleep 0.05; done; }
  ip netns exec "$ns" /usr/bin/python3 "$work/start.py" "$work/notify$round" "$work/started" \
    "$tunneld" --config "$work/tun0.yaml" --run-dir "$work/run" >"$work/log" 2>&1
  read -r daemon ready <"$work/started"
  starts+=("$ready")
done
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }
figure "start to READY (median of 3)" "$(median "${starts[@]}")" ms 1000

shows=()
for _ in 1 2 3 4 5 6 7; do
  began=$(date +%s%N)
  "$tunnelctl" --run-dir "$work/run" show >/dev/null
  shows+=($((($(date +%s%N) - began) / 1000000)))
done
figure "tunnelctl show (median of 7)" "$(median "${shows[@]}")" ms 150

# user and system time of the process, in clock ticks (proc_pid_stat(5)); the name in parentheses has no blank here.
ticks() { awk '{ print $14 + $15 }' "/proc/$daemon/stat"; }
# By then .NET has compiled anew what is used again and again.
sleep 90
before=$(ticks)
sleep 20
after=$(ticks)
figure "CPU at rest, of one core, over 20 s" "$(awk -v t=$((after - before)) -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", 100 * t / hz / 20 }')" % 0.5
# /proc has KiB.
memory() { awk -v key="$1:" '$1 == key { printf "%.1f", $2 * 1024 / 1e6 }' "/proc/$daemon/status"; }
figure "resident memory (VmRSS)" "$(memory VmRSS)" MB 72
figure "of which anonymous (RssAnon)" "$(memory RssAnon)" MB 40
figure "installed size" "$(du --apparent-size --summarize --bytes "$work/root" | awk '{ printf "%.1f", $1 / 1e6 }')" MB 60
exit $failed
