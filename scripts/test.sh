#!/usr/bin/env bash
# Runs every test: the test projects, the scripts' own checks, the service unit, the demo. The last line is
#
#   N passed, N failed            and ", N skipped" where something needs root or a tool that can't be installed
#
# Exits 0 when nothing failed. What needs root is skipped without it.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1-} in
  '') ;;
  -h | --help) echo "usage: [sudo] scripts/test.sh    runs every test; without root those that need it are skipped"; exit 0 ;;
  *) usage_error "unknown argument: $1" ;;
esac

passed=0 failed=0 skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$repo"

pass() { passed=$((passed + 1)); say "$1: passed"; }
fail() { failed=$((failed + 1)); say "$1: FAILED"; }
skip() { skipped=$((skipped + 1)); say "$1: skipped, $2"; }

# check NAME COMMAND...   one test. Its output is shown where it fails.
check() {
  local name=$1
  shift
  if "$@" >"$work/log" 2>&1 </dev/null; then
    pass "$name"
  else
    cat "$work/log"
    fail "$name"
  fi
}

if is_root; then
  install_missing ip:iproute2 ping:iputils-ping ethtool:ethtool tcpdump:tcpdump nc:netcat-openbsd iperf3:iperf3 \
    redis-cli:redis-tools setpriv:util-linux gcc:gcc /usr/include/stdio.h:libc6-dev /usr/include/linux/if_tun.h:linux-libc-dev \
    /usr/bin/python3:python3 /usr/lib/python3/dist-packages/scapy:python3-scapy systemd-analyze:systemd shellcheck:shellcheck jq:jq \
    curl:curl sysctl:procps dbus-daemon:dbus tshark:tshark nft:nftables iptables-nft-restore:iptables dnsmasq:dnsmasq-base
  # The package's tests, which are skipped where a tool of theirs can't be had.
  (install_missing debootstrap:debootstrap systemd-nspawn:systemd-container lintian:lintian) || say "the package's tests are skipped in part"
  (install_missing vagrant:vagrant) || say "Vagrant can't be installed; the Vagrantfile is not checked"
  # The virtual machines of the interop tests. Where they can't be had those tests are skipped.
  [[ $(uname -m) != x86_64 ]] || install_missing qemu-system-x86_64:qemu-system-x86 busybox:busybox-static
  # A subshell: where it can't be had those tests are skipped, too.
  (install_missing dockerd:docker.io docker:docker.io busybox:busybox-static) || say "Docker can't be installed; its tests are skipped"
  (install_missing firewalld:firewalld) || say "firewalld can't be installed; its test is skipped"
  (install_missing ovs-vswitchd:openvswitch-switch) || say "Open vSwitch can't be installed; its tests are skipped"
else
  say "not root: tests that need network namespaces are skipped (sudo $0 runs them)"
fi
find_dotnet
# Each of the six fuzzers for so long: half a minute and more of mutations. scripts/fuzz.sh runs them for as long as wanted.
export TUNNEL_FUZZ_SECONDS=6

say "building"
if ! run_dotnet build Tunnel.sln -c Release -v quiet --nologo >"$work/log" 2>&1; then
  cat "$work/log"
  say "the build failed"
  echo "0 passed, 1 failed"
  exit 1
fi
# The programs are made while the tests run that need none.
make_programs=build.sh
if command -v dpkg-deb >/dev/null; then
  make_programs=package.sh
fi
"$repo/scripts/$make_programs" >"$work/programs" 2>&1 &
making=$!

find_programs() {
  if ! wait "$making"; then
    cat "$work/programs"
    echo "$passed passed, $((failed + 1)) failed"
    exit 1
  fi
  tail -n 1 "$work/programs"
  export TUNNEL_DIST=$dist
  [[ $make_programs == package.sh ]] || return 0
  # shellcheck disable=SC2012  # names of our own
  TUNNEL_PACKAGE=$(ls -t "$dist"/tunnel_*.deb | head -n 1)
  export TUNNEL_PACKAGE
  # The tests run the very files of the package: what trimming might have taken away would be missed here.
  TUNNEL_DIST=$dist/.package/tree/usr/bin
}

# beside NAME COMMAND...   one test that runs while others do, in a lab of its own; collect says how they ended, in the order in which they began.
beside_names=() beside_pids=()
beside() {
  local name=$1 number=${#beside_pids[@]}
  shift
  TUNNEL_LAB=tunnel-test$number "$@" >"$work/beside$number" 2>&1 </dev/null &
  beside_names+=("$name") beside_pids+=("$!")
}

collect() {
  local number
  for number in "${!beside_pids[@]}"; do
    if wait "${beside_pids[number]}"; then
      pass "${beside_names[number]}"
    else
      cat "$work/beside$number"
      fail "${beside_names[number]}"
    fi
  done
}

# The values of one attribute of a test result file's counters.
counter() { sed -n "s/.*<Counters .*\b$2=\"\([0-9]*\)\".*/\1/p" "$1"; }

# Why tests were skipped, each reason with its count.
skip_reasons() {
  tr '\n' ' ' <"$1" | sed 's/<UnitTestResult /\n&/g' | grep 'outcome="NotExecuted"' \
    | sed -n 's/.*<\(Message\|StdOut\)>\([^<]*\)<.*/\2/p' | sort | uniq -c | sed 's/^ */    /' || true
}

# The test projects of the solution. The programs under test are dist's.
test_project() {
  local project=$1 name trx total executed good bad status=0
  name=$(basename "$project" .csproj)
  trx=$work/$name.trx
  timeout --kill-after=30 840 "$dotnet" test "$project" -c Release --no-build --nologo \
    --logger "trx;LogFileName=$trx" --logger "console;verbosity=minimal" >"$work/log" 2>&1 </dev/null || status=$?
  total=0 executed=0 good=0 bad=0
  if [[ -s $trx ]]; then
    total=$(counter "$trx" total) executed=$(counter "$trx" executed) good=$(counter "$trx" passed) bad=$(counter "$trx" failed)
  fi
  # A test host that crashed or hung reports no failed test, but it is one.
  ((status == 0 || bad > 0)) || bad=1
  ((total > 0 || bad > 0)) || say "$name: no tests"
  ((bad == 0)) || cat "$work/log"
  say "$name: $good passed, $bad failed, $((total - executed)) skipped"
  ((total == executed)) || skip_reasons "$trx"
  passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + total - executed))
}

mapfile -t projects < <(sed -n 's/.*"\(tests[^"]*\.csproj\)".*/\1/p' Tunnel.sln)
for project in "${projects[@]//\\//}"; do
  [[ $project != *NetworkTests* ]] || find_programs
  grep -q Microsoft.NET.Test.Sdk "$project" && test_project "$project"
done

for script in scripts/*.sh scripts/bench/*.sh scripts/kernel-vm/init vagrant/*.sh packaging/deb/p* packaging/completion/*.bash .ci/run; do
  check "$script parses" bash -n "$script"
done
check "scripts/soak.sh --help" scripts/soak.sh --help
if command -v python3 >/dev/null; then
  check "scripts/soak/watch-runtime.py parses" python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' scripts/soak/watch-runtime.py
fi
if command -v shellcheck >/dev/null; then
  check "shellcheck" shellcheck -x -a -P SCRIPTDIR scripts/*.sh vagrant/*.sh packaging/deb/p* .ci/run
else
  skip "shellcheck" "it is not installed"
fi

# The unit names the programs where a package puts them; here they stand in dist.
verify_unit() {
  sed -e "s|/usr/bin/tunneld|$TUNNEL_DIST/tunneld|" -e "s|/usr/bin/tunnelctl|$TUNNEL_DIST/tunnelctl|" packaging/tunneld@.service \
    >"$work/tunneld@tun0.service"
  # A mere warning makes no exit code, only output.
  local said status=0
  said=$(systemd-analyze verify --man=no "$work/tunneld@tun0.service" 2>&1) || status=$?
  echo "$said"
  [[ $status == 0 && ! $said ]]
}
if command -v systemd-analyze >/dev/null; then
  check "packaging/tunneld@.service" verify_unit
else
  skip "packaging/tunneld@.service" "systemd-analyze is not installed"
fi

if command -v vagrant >/dev/null; then
  # No provider need be there for that.
  check "vagrant validate" env VAGRANT_HOME="$work/vagrant" vagrant validate --ignore-provider
else
  skip "vagrant validate" "vagrant is not installed"
fi

# Without arguments it is what README.md shows, and tried below.
for arguments in "--wire" "--docker"; do
  name="scripts/demo.sh $arguments"
  if [[ $arguments == --docker ]] && ! command -v dockerd >/dev/null; then
    skip "$name" "Docker is not installed"
  elif is_root; then
    # shellcheck disable=SC2086
    beside "$name" timeout --kill-after=30 180 scripts/demo.sh $arguments
  else
    skip "$name" "needs root"
  fi
done

# What the documents say is done; and what can't be done is noticed.
finds_what_is_wrong() {
  local said
  # shellcheck disable=SC2016
  printf '# A page\n\n```sh\n# on vm1\ntrue\n! true\n```\n' >"$work/wrong.md"
  said=$(scripts/try-docs.sh "$work/wrong.md" 2>&1) && return 1
  echo "$said"
  [[ $said == *"wrong.md:3, on vm1"*"0 blocks passed, 1 failed" ]]
}
if is_root; then
  # What is tried with the package need not be tried from the checkout as well; scripts/try-docs.sh without arguments does that.
  beside "scripts/try-docs.sh README.md" timeout --kill-after=30 900 scripts/try-docs.sh README.md
  beside "scripts/try-docs.sh docs/operations.md" timeout --kill-after=30 900 \
    scripts/try-docs.sh ${TUNNEL_PACKAGE:+--installed "$TUNNEL_PACKAGE"} docs/operations.md
  beside "scripts/try-docs.sh finds what is wrong" finds_what_is_wrong
  collect
else
  skip "scripts/try-docs.sh" "needs root"
fi

echo "$passed passed, $failed failed$( ((skipped == 0)) || echo ", $skipped skipped")"
((failed == 0))
