#!/bin/sh
# Makes NAME.json from NAME.nft and NAME.iptables: what `nft -j list ruleset` prints once the rules are in the kernel. Needs root, nft, iptables-nft.
#
#   [ network namespace of its own, no devices ] <- rules      -> nft -j -> NAME.json, one object a line
set -eu
cd "$(dirname "$0")"
space="rulesets-$$"
trap 'ip netns del "$space" 2>/dev/null || true' EXIT
for rules in *.nft *.iptables; do
    ip netns add "$space"
    case $rules in
        *.nft) ip netns exec "$space" nft -f "$rules" ;;
        *) ip netns exec "$space" iptables-nft-restore <"$rules" ;;
    esac
    ip netns exec "$space" nft -j list ruleset | jq -c '.nftables[]' | sed '1s/^/{"nftables": [/; $!s/$/,/; $s/$/]}/' >"${rules%.*}.json"
    ip netns del "$space"
done
