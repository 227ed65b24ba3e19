#!/usr/bin/env bash
# Builds dist/tunneld and dist/tunnelctl: Release, for the .NET runtime of this machine.
#
#   dist/tunneld    -> lib/tunneld/tunneld        symbolic links: the process is called what it is, and finds its
#   dist/tunnelctl  -> lib/tunnelctl/tunnelctl    assemblies beside the file that the link names
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1-} in
  '') ;;
  -h | --help) echo "usage: scripts/build.sh    builds dist/tunneld and dist/tunnelctl"; exit 0 ;;
  *) usage_error "unknown argument: $1" ;;
esac

# What the SDK itself loads; without OpenSSL and the certificates it can't restore packages.
needs=()
compgen -G '/usr/lib*/*/libssl.so*' >/dev/null || compgen -G '/usr/lib*/libssl.so*' >/dev/null || needs+=(libssl3)
compgen -G '/usr/lib*/*/libstdc++.so.6' >/dev/null || compgen -G '/usr/lib*/libstdc++.so.6' >/dev/null || needs+=(libstdc++6)
[[ -e /etc/ssl/certs/ca-certificates.crt || -e /etc/pki/tls/certs/ca-bundle.crt ]] || needs+=(ca-certificates)
((${#needs[@]} == 0)) || install_packages "${needs[@]}"
find_dotnet

log=$(mktemp)
trap 'rm -f "$log"' EXIT
rid=$("$dotnet" --info | sed -n 's/^ *RID: *//p' | head -n 1)

# A program finds a runtime that stands in the system's place by itself. Any other (~/.dotnet, say) must be found under sudo too,
# where no DOTNET_ROOT is set: then dist/lib/dotnet leads there.
find_runtime=()
system_runtime=$(cat /etc/dotnet/install_location 2>/dev/null || true)
if [[ ! $DOTNET_ROOT -ef ${system_runtime:-/usr/share/dotnet} && ! $DOTNET_ROOT -ef ${system_runtime:-/usr/lib/dotnet} ]]; then
  find_runtime=(-p:AppHostRelativeDotNet=../dotnet)
fi

# publish PROJECT NAME PROPERTY...   into dist/lib/NAME. Its intermediate files have a place of their own under dist, because
# a restore for one RID would otherwise undo the solution's restore and the other way round.
publish() {
  local project=$1 name=$2
  shift 2
  run_dotnet publish "$project" -c Release --self-contained false --artifacts-path "$dist/.build" -o "$dist/lib/$name" \
    -p:PublishDocumentationFiles=false -v quiet --nologo "${find_runtime[@]}" "$@" >"$log" 2>&1
}

publish_both() {
  publish src/Tunnel tunneld "$@" && publish src/Tunnel.Ctl tunnelctl "$@"
}

how="ReadyToRun for $rid"
if ! publish_both -r "$rid" -p:PublishReadyToRun=true; then
  # NU1101, NU1102: the crossgen or runtime package isn't in the registry. NETSDK1094: none exists for this machine.
  if grep -qE 'NU110[12]|NU1301|NETSDK1094' "$log"; then
    how="without ReadyToRun, because its compiler did not restore: programs start slower"
    publish_both || { cat "$log" >&2; die "the build failed"; }
  else
    cat "$log" >&2
    die "the build failed"
  fi
fi

rm -f "$dist/lib/dotnet"
((${#find_runtime[@]} == 0)) || ln -s "$DOTNET_ROOT" "$dist/lib/dotnet"
for name in tunneld tunnelctl; do ln -sfn "lib/$name/$name" "$dist/$name"; done
say "dist/tunneld and dist/tunnelctl are ready ($how)"
