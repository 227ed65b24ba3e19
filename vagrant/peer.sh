#!/usr/bin/env bash
# Tells this host of another one. May be run again.
#
#   peer.sh NAME ENDPOINT OVERLAY SUBNET      peer.sh vm2 192.168.40.12 10.0.201.2 172.17.52.0/24
set -euo pipefail
name=$1 endpoint=$2 overlay=$3 subnet=$4

command=add-peer
tunnelctl show "$name" >/dev/null 2>&1 && command=set-peer
tunnelctl "$command" "$name" --endpoint "$endpoint" --subnet "$subnet" --subnet "$overlay/32"
