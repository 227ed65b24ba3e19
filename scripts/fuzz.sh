#!/usr/bin/env bash
# Runs all fuzz tests for as long as wanted; scripts/test.sh runs each for some seconds.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: scripts/fuzz.sh --minutes N [OPTION]...

Gives mutated packets, ICMP errors, configuration files and requests to the code, all at the same time: every parser, both ways of a packet, the relay of
errors, the control API. What makes one throw, or break a rule, is saved below tests/golden/fuzz, where the ordinary tests replay it from then on; that
fuzzer ends there. Exit status 1 where that happened, and what was found is shown. It keeps all processors busy.

  --minutes N   how long, without the build; each fuzzer finishes the round that it is in, half a minute at most on a quiet machine
  --seed S      where to begin: 0 to 99999999.  The same seed gives the same input.                    [the time, in minutes]
  --only NAME   only the fuzzers with NAME in their names, as in Parser, Config, Icmp, ControlApi, Dataplane
  --help        this text
END
}

minutes='' seed=$(($(date +%s) / 60)) only=''
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --minutes | --seed | --only) (($# > 1)) || usage_error "$1 needs a value" ;;
    *) usage_error "unknown option: $1" ;;
  esac
  case $1 in
    --minutes)
      [[ $2 =~ ^0*[1-9][0-9]{0,4}$ ]] || usage_error "--minutes takes a whole number from 1 to 99999, not $2"
      minutes=$((10#$2)) ;;
    --seed)
      [[ $2 =~ ^[0-9]{1,8}$ ]] || usage_error "--seed takes 0 to 99999999, not $2"
      seed=$((10#$2)) ;;
    --only)
      [[ $2 =~ ^[A-Za-z]+$ ]] || usage_error "--only takes a word, not $2"
      only=$2 ;;
  esac
  shift 2
done
[[ $minutes ]] || usage_error "--minutes is missing"

find_dotnet
cd "$repo"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
say "building"
run_dotnet build tests/Tunnel.Tests -c Release -v quiet --nologo >"$log" 2>&1 || { cat "$log"; die "the build failed"; }

before=$(ls tests/golden/fuzz)
say "$minutes min from seed $seed"
export TUNNEL_FUZZ_SECONDS=$((minutes * 60)) TUNNEL_FUZZ_SEED=$seed
status=0
run_dotnet test tests/Tunnel.Tests -c Release --no-build --nologo --filter "Category=Fuzz${only:+&FullyQualifiedName~$only}" \
  --logger "console;verbosity=normal" -- xUnit.MaxParallelThreads=-1 >"$log" 2>&1 </dev/null || status=$?
# Of what failed also why: the lines of the message, which end where the stack trace begins.
awk '/^ +(Passed|Failed) /; /^ +Stack Trace:/ { why = 0 } why; /^ +Error Message:/ { why = 1 }' "$log" | cut -c 1-400
found=$(comm -13 <(echo "$before") <(ls tests/golden/fuzz))
if [[ $found ]]; then
  say "saved below tests/golden/fuzz: ${found//$'\n'/, }"
fi
if ((status != 0)); then
  grep -q ' Failed ' "$log" || cat "$log"
  die "something was found (seed $seed)"
fi
say "nothing was found"
