#!/usr/bin/env bash
# The Linux kernel's own GRE against tunneld: boots small virtual machines with Debian's kernel, in software (no /dev/kvm), and runs the tests
# of tests/Tunnel.NetworkTests/Interop there. docs/interop-kernel.md says what is tested and what came out.
#
#              192.168.40.0/24, fd40::/64: a bridge in a network namespace
#        veth │ .11                  tap │ .12                     tap │ .13
#   ┌─────────┴──────────┐   ┌───────────┴────────────┐   ┌────────────┴───────────┐
#   │ namespace: tunneld │   │ VM: the kernel's GRE   │   │ VM: tunneld,           │
#   │ of this machine    │   │                        │   │ and the kernel's ESP   │
#   └────────────────────┘   └────────────────────────┘   └────────────────────────┘
#
# The image has no disk: busybox, iproute2 and a few more programs of this machine, the kernel's modules, and with "full" tunneld and .NET.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

help() {
  cat <<'HELP'
usage: sudo scripts/kernel-vm.sh [test]            makes the images, boots the virtual machines and runs the interop tests
       sudo scripts/kernel-vm.sh record            the same, and keeps what was on the wire as golden data
       sudo scripts/kernel-vm.sh image [TUNNELD]   makes the images, with the program TUNNELD (dist/tunneld) in "full"
       sudo scripts/kernel-vm.sh run IMAGE SOCKET TAP MAC [QEMU-OPTION...]
                                                   boots one: IMAGE is base or full, SOCKET takes requests (scripts/kernel-vm/init), TAP is its
                                                   network device. The console is standard output
HELP
}

vm=$dist/kernel-vm
# seqiv draws its first number from drbg, which needs sha512.
modules="virtio_pci virtio_net virtio_console tun dummy ip_gre ip6_gre fou fou6 xfrm_user esp4 gcm ctr ghash-generic seqiv drbg sha512_generic nf_tables"

# What can't be had here is no failure of what is tested.
unavailable() { printf '%s: %s\n' "$me" "$*" >&2; exit 69; }

# The newest kernel of Debian's package for virtual machines, unpacked into $vm/kernel. What is there already is kept.
get_kernel() {
  local package directory
  [[ ! -e $vm/kernel/vmlinuz ]] || return 0
  package=$(kernel_package)
  if [[ ! $package ]]; then
    apt-get -qq update >/dev/null 2>&1 || true
    package=$(kernel_package)
  fi
  [[ $package ]] || unavailable "apt-get knows no package linux-image-cloud-amd64; Debian has it"
  say "downloading $package"
  directory=$(mktemp -d "$vm/download.XXXXXX")
  chmod 755 "$directory"
  (cd "$directory" && { apt-get -qq download "$package" || { apt-get -qq update && apt-get -qq download "$package"; }; }) >"$directory/log" 2>&1 \
    || unavailable "$package can't be downloaded: $(tail -n 1 "$directory/log")"
  dpkg-deb -x "$directory"/*.deb "$directory/files"
  mv "$directory"/files/boot/vmlinuz-* "$directory/files/vmlinuz"
  rm -rf "$vm/kernel"
  mv "$directory/files" "$vm/kernel"
  rm -rf "$directory"
}
kernel_package() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1; }

# add_files ROOT FILE...   copies files of this machine to the same places below ROOT.
add_files() {
  local root=$1 file
  shift
  for file in "$@"; do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
  done
}

# libraries FILE...   the shared libraries that they need, as paths.
libraries() { ldd "$@" 2>/dev/null | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^\t\(\/[^ ]*\) .*/\1/p' | sort -u; }

# add_programs ROOT COMMAND...   into /programs, with their libraries.
add_programs() {
  local root=$1 command path
  shift
  mkdir -p "$root/programs"
  for command in "$@"; do
    path=$(command -v "$command")
    cp -L "$path" "$root/programs/${command##*/}"
    mapfile -t needs < <(libraries "$path")
    add_files "$root" "${needs[@]}"
  done
}

add_modules() {
  local root=$1 version from module file needs
  version=$(basename "$vm"/kernel/lib/modules/*)
  from=$vm/kernel/lib/modules/$version
  # The package leaves the list of dependences to its installation.
  [[ -s $from/modules.dep ]] || (cd "$vm/kernel" && busybox depmod -b "$vm/kernel" "$version")
  mkdir -p "$root/lib/modules/$version"
  for module in $modules; do
    # Some are built in, in this kernel or another.
    needs=$(grep "/$module\.ko[^:]*:" "$from/modules.dep" | tr -d : || true)
    for file in $needs; do
      mkdir -p "$root/lib/modules/$version/$(dirname "$file")"
      cp "$from/$file" "$root/lib/modules/$version/$file"
    done
  done
  busybox depmod -b "$root" "$version"
}

# pack ROOT FILE: what the kernel unpacks as its first file system, uncompressed, because decompressing takes longer in software than reading.
pack() { (cd "$1" && find . | busybox cpio -o -H newc >"$2" 2>/dev/null); }

make_base() {
  local root=$work/base
  mkdir -p "$root/bin"
  cp -L "$(command -v busybox)" "$root/bin/busybox"
  mapfile -t needs < <(libraries "$root/bin/busybox")
  add_files "$root" "${needs[@]}"
  cp "$repo/scripts/kernel-vm/init" "$root/init"
  add_programs "$root" sh ip ping nc nft ethtool flock timeout
  add_modules "$root"
  pack "$root" "$work/base.cpio"
}

# The second archive follows the first in one file.
make_full() {
  local root=$work/full program=$1 directory file framework
  directory=$(dirname "$(readlink -f "$program")")
  mkdir -p "$root/tunneld" "$root/dotnet/shared"

  # What the package installs has its runtime beside it.
  if [[ -e $directory/libcoreclr.so ]]; then
    cp "$directory"/* "$root/tunneld/"
    mapfile -t needs < <(libraries "$directory/tunneld" "$directory"/*.so | grep -v lttng)
  else
    for file in "$directory"/*.dll "$directory"/tunneld.*.json "$directory/tunneld"; do cp "$file" "$root/tunneld/"; done
    cp -R "$DOTNET_ROOT/host" "$root/dotnet/"
    for framework in Microsoft.NETCore.App Microsoft.AspNetCore.App; do
      file=$("$dotnet" --list-runtimes | sed -n "s/^$framework \(10\.[^ ]*\) .*/\1/p" | sort -V | tail -n 1)
      mkdir -p "$root/dotnet/shared/$framework"
      cp -R "$DOTNET_ROOT/shared/$framework/$file" "$root/dotnet/shared/$framework/$file"
    done
    mapfile -t needs < <(libraries "$directory/tunneld" "$root"/dotnet/shared/*/*/*.so | grep -v lttng)
  fi
  add_files "$root" "${needs[@]}"
  pack "$root" "$work/full.cpio"
  cat "$work/base.cpio" "$work/full.cpio" >"$work/both.cpio"
}

make_images() {
  local program=${1-}
  [[ $(uname -m) == x86_64 ]] || unavailable "only x86-64 is known here, not $(uname -m)"
  command -v apt-get >/dev/null || unavailable "needs apt-get"
  is_root || die "needs root"
  install_missing qemu-system-x86_64:qemu-system-x86 busybox:busybox-static ip:iproute2 ping:iputils-ping nc:netcat-openbsd nft:nftables ethtool:ethtool
  find_dotnet
  if [[ ! $program ]]; then
    program=$dist/tunneld
    [[ -e $program ]] || "$repo/scripts/build.sh"
  fi
  mkdir -p "$vm"
  get_kernel
  work=$(mktemp -d "$vm/work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  make_base
  make_full "$program"
  mv "$work/base.cpio" "$vm/base.cpio"
  mv "$work/both.cpio" "$vm/full.cpio"
}

run_vm() {
  (($# >= 4)) || usage_error "run needs IMAGE SOCKET TAP MAC"
  local image=$1 socket=$2 tap=$3 mac=$4
  shift 4
  exec qemu-system-x86_64 -accel tcg -machine q35 -cpu max -m 640 -nodefaults -nographic -no-reboot -serial stdio \
    -kernel "$vm/kernel/vmlinuz" -initrd "$vm/$image.cpio" -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr" \
    -netdev "tap,id=net,ifname=$tap,script=no,downscript=no" -device "virtio-net-pci,netdev=net,mac=$mac,romfile=" \
    -device virtio-serial-pci -chardev "socket,id=control,path=$socket,server=on,wait=on" -device virtserialport,chardev=control,name=control "$@"
}

case ${1-test} in
  test)
    (($# <= 1)) || usage_error "unknown argument: $2"
    make_images
    TUNNEL_DIST=$dist run_dotnet test tests/Tunnel.NetworkTests -c Release --nologo --filter FullyQualifiedName~KernelVm --logger "console;verbosity=normal"
    ;;
  record) TUNNEL_RECORD=$repo/tests/golden/kernel-gre.json exec "$0" test ;;
  image) make_images "${2-}" ;;
  run) shift; run_vm "$@" ;;
  -h | --help) help ;;
  *) usage_error "unknown argument: $1" ;;
esac
