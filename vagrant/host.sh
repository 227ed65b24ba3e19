#!/usr/bin/env bash
# Makes this virtual machine a host of the network tun0: the package, its configuration, the service, Docker.
# What is installed already is used as it is. May be run again.
#
#   host.sh UNDERLAY OVERLAY SUBNET      host.sh 192.168.40.11 10.0.201.1 172.17.51.0/24
set -euo pipefail
underlay=$1 overlay=$2 subnet=$3
export DEBIAN_FRONTEND=noninteractive

say() { printf '%s: %s\n' "$(hostname)" "$*"; }
installed() { [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }
get() { apt-get -qq update && apt-get -qq -y --no-install-recommends install "$@"; }

# Forwarding is on before Docker starts: a Docker that has to switch it on sets the policy of FORWARD to DROP.
echo 'net.ipv4.ip_forward = 1' >/etc/sysctl.d/90-tunnel.conf
sysctl --quiet --load /etc/sysctl.d/90-tunnel.conf

# Without a server where everything that the package depends on is there.
say "installing $(dpkg-deb --field /tmp/tunnel.deb Package Version | tr '\n' ' ')"
dpkg --install /tmp/tunnel.deb >/tmp/dpkg.log 2>&1 || get /tmp/tunnel.deb

# The underlay is named: the first network of a machine of Vagrant's is its own NAT, with 10.0.2.15 on every one of them.
cat >/etc/tunnel/tun0.yaml <<YAML
interface:
  addresses: [$overlay/24]
underlay:
  local: $underlay
subnets: [$subnet]
# Docker lets nothing of another device to its containers unless this is said.
nat: {forward: true}
YAML
systemctl enable tunneld@tun0
systemctl restart tunneld@tun0

# Docker's bridge gets this host's subnet, and the tunnel's MTU. An emulated machine's first answer may take longer than tunnelctl waits.
mkdir -p /etc/docker
for _ in 1 2 3 4 5; do
  settings=$(tunnelctl docker-config) && break
done
printf '%s\n' "${settings:?tunneld does not answer}" >/etc/docker/daemon.json
installed docker.io || get docker.io
# Where the kernel has AppArmor Docker wants its programs, which Debian only recommends; vagrant/redis.sh does without where they can't be had.
installed apparmor || get apparmor >/dev/null 2>&1 || say "no package apparmor: the containers run without a profile"
systemctl restart docker
say "containers are in $subnet"
