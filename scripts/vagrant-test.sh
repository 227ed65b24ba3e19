#!/usr/bin/env bash
# Brings up the two machines of the Vagrantfile for real, asks what they say, and destroys them. Needs Vagrant, a provider (libvirt or
# VirtualBox) and a box: Vagrant fetches Debian's, unless TUNNEL_BOX names one that is there.
#
#   VAGRANT   the command, where it is not vagrant: a wrapper, perhaps
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

keep=
case ${1-} in
  '') ;;
  --keep) keep=yes ;;
  -h | --help) echo "usage: scripts/vagrant-test.sh [--keep]    brings up the two machines and tests them; --keep leaves them standing"; exit 0 ;;
  *) usage_error "unknown argument: $1" ;;
esac
read -ra vagrant <<<"${VAGRANT:-vagrant}"
command -v "${vagrant[0]}" >/dev/null || die "Vagrant is not installed (Debian's packages: vagrant, and vagrant-libvirt)"
compgen -G "$dist/tunnel_*_amd64.deb" >/dev/null || "$repo/scripts/package.sh"

cd "$repo"
cleanup() { [[ $keep ]] || "${vagrant[@]}" destroy --force; }
trap cleanup EXIT

# Provisioning ends with the exchange between containers; whatever fails in it, fails here.
"${vagrant[@]}" up

on() { "${vagrant[@]}" ssh "$1" --command "$2" 2>/dev/null | tr -d '\r'; }
# expect MACHINE COMMAND PATTERN   until it is so: emulated machines take their time
expect() {
  local said='' deadline=$((SECONDS + 180))
  until [[ $said =~ $3 ]]; do
    ((SECONDS < deadline)) || die "on $1, $2 said:"$'\n'"$said"
    said=$(on "$1" "$2") || true
  done
  say "$1: $2: as expected"
}
# As vagrant/redis.sh runs them.
# shellcheck disable=SC2016 # Expanded there.
read_greeting='sudo docker run --rm $(test -e /usr/sbin/apparmor_parser || echo --security-opt apparmor=unconfined) tunnel-redis redis-cli -h 172.17.51.2 get greeting'
expect vm1 "sudo tunnelctl show vm2" "state: up"
expect vm2 "sudo tunnelctl show vm1" "state: up"
# The right underlay, not Vagrant's own network.
expect vm1 "sudo tunnelctl show" "underlay: gre from 192.168.40.11"
expect vm2 "sudo tunnelctl explain 172.17.52.2 172.17.51.2" "sent to peer vm1"
expect vm2 "$read_greeting" "written by a container of vm2"
# The package's service survives a restart, and the peers with it.
on vm1 "sudo systemctl restart tunneld@tun0" || die "vm1: the service did not start again"
expect vm1 "sudo tunnelctl routes" "172.17.52.0/24 +vm2 +[0-9]+ +yes"
expect vm2 "$read_greeting" "written by a container of vm2"
say "passed"
