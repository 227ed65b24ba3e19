#!/usr/bin/env bash
# Does what the documents say: every command of README.md and docs/operations.md, on hosts made for it. Needs root. Three hosts
# (netlab.sh has the picture); each is a network namespace in which a systemd of its own runs, by systemd-nspawn, on this
# machine's file system with a layer above it that takes the changes. So a page may install, start and purge as it likes.
#
# What is executed, in the order of the page, each page on new hosts:
#
#   ```sh      whose first line is "# on HOST...": there, as root, in the checkout's directory; HOST is vm1 to vm3, cont1 to cont3,
#              joined by "," and "and". Without that line: where one builds, which is this machine. With ", from a checkout" or
#              ", with the package" only in that case. The block fails with its first command that fails; "! COMMAND" must fail.
#   ```yaml    whose first line is "# FILE on HOST": written there
#
# Every other kind of block is left alone: ```console and ```text are shown, not executed.
set -euo pipefail
# shellcheck source=netlab.sh
source "$(dirname "${BASH_SOURCE[0]}")/netlab.sh"

usage() {
  cat <<'END'
usage: sudo scripts/try-docs.sh [--installed PACKAGE] [DOCUMENT...]
       scripts/try-docs.sh --list [--installed PACKAGE] [DOCUMENT...]

Executes the commands of the documents on three hosts made for it, and says which failed. Without DOCUMENT: README.md and
docs/operations.md.

  --installed PACKAGE   with this .deb; without it, what is executed is a clean copy of the checkout
  --list                only say what would be executed
END
}

package='' list=''
documents=()
while (($# > 0)); do
  case $1 in
    --installed)
      [[ ${2-} == *.deb && -f $2 ]] || usage_error "--installed needs a package, a file that ends in .deb"
      package=$(realpath "$2")
      shift
      ;;
    --list) list=1 ;;
    -h | --help) usage; exit 0 ;;
    -*) usage_error "unknown option: $1" ;;
    *) [[ -f $1 ]] || usage_error "no such document: $1"; documents+=("$(realpath "$1")") ;;
  esac
  shift
done
# README.md is for those who have a checkout.
((${#documents[@]} > 0)) || documents=(${package:+"$repo/docs/operations.md"})
((${#documents[@]} > 0)) || documents=("$repo/README.md" "$repo/docs/operations.md")

# blocks DOCUMENT   takes its fenced blocks apart: kinds, lines (where each begins), texts (without the indent that its fence has).
blocks() {
  local line number=0 fence='' indent='' text=''
  kinds=() lines=() texts=()
  while IFS= read -r line || [[ $line ]]; do
    number=$((number + 1))
    if [[ ! $fence && $line =~ ^(\ *)'```'([a-z]*)$ ]]; then
      indent=${BASH_REMATCH[1]} fence=1 text=''
      kinds+=("${BASH_REMATCH[2]}") lines+=("$number")
    elif [[ $fence && $line == "$indent"'```' ]]; then
      fence='' texts+=("$text")
    elif [[ $fence ]]; then
      text+=${line#"$indent"}$'\n'
    fi
  done <"$1"
  [[ ! $fence ]] || die "$1: the block of line ${lines[-1]} does not end"
}

# place BLOCK   sets hosts, where (checkout, package or nothing) and, of a file, file. False: not to be executed at all.
place() {
  local first=${texts[$1]%%$'\n'*} host
  hosts=() where='' file=''
  case ${kinds[$1]} in
    sh)
      [[ $first == '# on '* ]] || { hosts=(build) where=checkout; return; }
      first=${first#'# on '}
      case $first in
        *', from a checkout') where=checkout first=${first%', from a checkout'} ;;
        *', with the package') where=package first=${first%', with the package'} ;;
      esac
      ;;
    yaml)
      [[ $first =~ ^'# '(/[^ ]+)' on '(.*)$ ]] || return
      file=${BASH_REMATCH[1]} first=${BASH_REMATCH[2]}
      ;;
    *) return 1 ;;
  esac
  first=${first//,/ }
  for host in $first; do
    case $host in
      vm[123] | cont[123]) hosts+=("$host") ;;
      and) ;;
      *) die "$document:${lines[$1]}: no host is called $host (vm1 to vm3, cont1 to cont3)" ;;
    esac
  done
  ((${#hosts[@]} > 0)) || die "$document:${lines[$1]}: no host is named"
}

# Whether it is the turn of this block: it stands in hosts, where, file after that.
to_execute() {
  place "$1" || return 1
  case $where in
    checkout) [[ ! $package ]] ;;
    package) [[ $package ]] ;;
  esac
}

if [[ $list ]]; then
  for document in "${documents[@]}"; do
    blocks "$document"
    for ((i = 0; i < ${#kinds[@]}; i++)); do
      to_execute "$i" || continue
      printf '%s:%s: %s\n%s\n' "${document#"$repo/"}" "${lines[i]}" "${hosts[*]}${file:+ writes $file}" "${texts[i]}"
    done
  done
  exit
fi

# TUNNEL_LAB: another name for the lab.
netlab_begin "${TUNNEL_LAB:-tunnel-docs}"
install_missing ping:iputils-ping curl:curl systemd-nspawn:systemd-container /usr/lib/systemd/systemd:systemd dbus-daemon:dbus \
  nsenter:util-linux sysctl:procps

# A clean clone, and with what is not committed yet.
checkout=$netlab_dir/checkout
mkdir "$checkout"
(cd "$repo" && git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read 2>/dev/null) | tar --extract -C "$checkout"
[[ ! $package ]] || cp "$package" "$checkout/"
# The documents say sudo where a person would; here everything is root's already.
mkdir "$netlab_dir/bin"
printf '#!/bin/sh\nexec "$@"\n' >"$netlab_dir/bin/sudo"
chmod +x "$netlab_dir/bin/sudo"
find_dotnet

# The layers lie in a tmpfs: an overlay can't be the upper layer of another.
begin_hosts() {
  local host
  netlab_hosts 3
  mkdir "$netlab_dir/layers"
  mount -t tmpfs -o mode=755 layers "$netlab_dir/layers"
  for host in vm1 vm2 vm3; do
    begin_host "$host" "$netlab_dir/layers/$host"
  done
  for host in vm1 vm2 vm3; do
    netlab_await 60 booted "$host" || { cat "$netlab_dir/$host.log" >&2; die "$host does not boot"; }
  done
}

begin_host() {
  local host=$1 layer=$2 unit
  mkdir -p "$layer"/{changes/etc/systemd/system,work,root}
  # Nothing of this machine's own services and of its own Tunnel.
  ln -s /usr/lib/systemd/system/basic.target "$layer/changes/etc/systemd/system/default.target"
  for unit in systemd-networkd.service systemd-resolved.service; do ln -s /dev/null "$layer/changes/etc/systemd/system/$unit"; done
  : >"$layer/changes/etc/machine-id"
  echo "$host" >"$layer/changes/etc/hostname"
  mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/changes,workdir=$layer/work" "$layer/root"
  rm -rf "$layer/root/etc/tunnel"
  mkdir -p "$layer/root/etc/tunnel"
  SYSTEMD_NSPAWN_API_VFS_WRITABLE=network systemd-nspawn --directory="$layer/root" --machine="$netlab_name-$host" --hostname="$host" \
    --register=no --keep-unit --quiet --boot --network-namespace-path="/run/netns/$netlab_name-$host" --capability=all \
    --system-call-filter=bpf --bind=/dev/net/tun --bind="$checkout:/srv/tunnel" --console=pipe >"$netlab_dir/$host.log" 2>&1 </dev/null &
  netlab_identify $! >>"$netlab_dir/processes"
  echo $! >"$netlab_dir/$host.pid"
  disown
}

# The host's init is nspawn's child.
init_of() { cat "/proc/$(cat "$netlab_dir/$1.pid")/task/$(cat "$netlab_dir/$1.pid")/children"; }

inside() {
  local host=$1 init
  shift
  init=$(init_of "$host")
  nsenter --target "${init%% *}" --all --wd=/srv/tunnel env -i HOME=/root LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"
}

booted() { [[ $(inside "$1" systemctl is-system-running 2>/dev/null) =~ ^(running|degraded)$ ]]; }

end_hosts() {
  local host
  local -a processes=()
  if [[ -e $netlab_dir/processes ]]; then
    mapfile -t processes <"$netlab_dir/processes"
    netlab_stop "${processes[@]}"
    rm "$netlab_dir/processes"
  fi
  for host in vm1 vm2 vm3; do
    ! mountpoint -q "$netlab_dir/layers/$host/root" || umount -l "$netlab_dir/layers/$host/root"
  done
  if mountpoint -q "$netlab_dir/layers"; then umount -l "$netlab_dir/layers"; fi
  [[ ! -e $netlab_dir/layers ]] || rmdir "$netlab_dir/layers"
  if [[ -e $netlab_dir/namespaces ]]; then
    while read -r host; do
      [[ ! -e /run/netns/$host ]] || ip netns del "$host"
    done <"$netlab_dir/namespaces"
    rm "$netlab_dir/namespaces"
  fi
}
trap "end_hosts; netlab_remove" EXIT

# execute HOST TEXT
execute() {
  local host=$1
  # "! COMMAND" does not end a shell that has -e; here it must.
  local text
  # shellcheck disable=SC2001
  text=$(sed 's/^! \(.*\)$/if \1; then echo "this should have failed" >\&2; exit 1; fi/' <<<"$2")
  case $host in
    build)
      (cd "$checkout" && PATH=$netlab_dir/bin:$PATH TUNNEL_LAB=$netlab_name-demo timeout 600 bash -euo pipefail -c "$text" </dev/null)
      ;;
    cont*) netlab_in "$host" timeout 120 bash -euo pipefail -c "$text" </dev/null ;;
    vm*) inside "$host" timeout 300 bash -euo pipefail -c "$text" </dev/null ;;
  esac
}

# A daemon that a page starts with "&" needs a moment.
answers() { inside "$1" sh -c 'ls /run/tunnel/*.sock' && inside "$1" dist/tunnelctl; }

netlab_hosts 1; mkdir "$netlab_dir/layers"; mount -t tmpfs -o mode=755 layers "$netlab_dir/layers"; begin_host vm1 "$netlab_dir/layers/vm1"; sleep 8; cat "$netlab_dir/vm1.log"; cat "$netlab_dir/vm1.pid"; ps -ef --forest | grep -A12 "[n]spawn"; init_of vm1; inside vm1 systemctl is-system-running; inside vm1 systemctl --failed --no-pager; inside vm1 systemctl list-jobs --no-pager
