#!/usr/bin/env bash
# Makes dist/tunnel_VERSION-1_ARCH.deb, which needs no .NET on the host. The same commit gives the same file: times are those of
# the commit, or of SOURCE_DATE_EPOCH.
#
#   /usr/bin/tunneld, tunnelctl     links into
#   /usr/lib/tunnel/                both programs and one runtime, trimmed to what they use (packaging/Tunnel.Package.csproj)
#   /etc/tunnel/                    where the networks are configured
#   units, sysusers, tmpfiles, man pages, completion, documents: where Debian has them
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() { echo "usage: scripts/package.sh [--arch amd64|arm64|armhf] [--version N.N.N[-PRE]]    makes dist/tunnel_VERSION-1_ARCH.deb"; }
arch=amd64
version=$(sed -n 's|.*<VersionPrefix>\(.*\)</VersionPrefix>.*|\1|p' "$repo/Directory.Build.props")
while (($# > 0)); do
  case $1 in
    --arch | --version)
      (($# > 1)) || usage_error "$1 needs a value"
      case $1 in
        --arch) arch=$2 ;;
        --version) version=$2 ;;
      esac
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    *) usage_error "unknown argument: $1" ;;
  esac
done
case $arch in
  amd64) rid=linux-x64 ;;
  arm64) rid=linux-arm64 ;;
  armhf) rid=linux-arm ;;
  *) usage_error "--arch does not take '$arch'" ;;
esac
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]] || usage_error "--version does not take '$version'"

# A pre-release comes before its release: 1.0.0-rc.1 is 1.0.0~rc.1 to Debian.
deb_version=${version/-/\~}-1
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$repo" log -1 --format=%ct 2>/dev/null || stat -c %Y "$repo/Directory.Build.props")}

install_missing dpkg-deb:dpkg gzip:gzip python3:python3
find_dotnet
umask 022
tree=$dist/.package/tree
programs=$dist/.package/programs
doc=$tree/usr/share/doc/tunnel
log=$(mktemp)
trap 'rm -f "$log"' EXIT
rm -rf "$dist/.package/tree" "$dist/.package/programs"

# An artifacts path of its own, because a restore for a self-contained program would undo build.sh's and the other way round. Analyzers have said what
# they have to say when the solution was built; the trimmer's warnings are errors here.
run_dotnet publish packaging/Tunnel.Package.csproj -c Release -r "$rid" --self-contained true --artifacts-path "$dist/.package/build" -o "$programs" \
  -p:Version="$version" -p:DebugType=none -p:ContinuousIntegrationBuild=true -p:RunAnalyzers=false -p:PathMap="$repo=/tunnel" -v quiet --nologo >"$log" 2>&1 \
  || { cat "$log" >&2; die "the build failed"; }

# put MODE DIRECTORY FILE...   into the tree
put() {
  local mode=$1 directory=$tree/$2
  shift 2
  install -d -m 755 "$directory"
  install -m "$mode" "$@" "$directory"
}

# put_as MODE PATH FILE   the same under another name
put_as() { install -D -m "$1" "$3" "$tree/$2"; }

# The assemblies and libraries of a program, for its start (hostpolicy). The two share them all.
dependencies() {
  names() {
    local file separator=
    for file in "$programs"/*."$1"; do
      printf '%s"%s":{}' "$separator" "${file##*/}"
      separator=,
    done
  }
  local target=".NETCoreApp,Version=v10.0/$rid"
  printf '{"runtimeTarget":{"name":"%s"},"targets":{"%s":{"tunnel/%s":{"runtime":{%s},"native":{%s}}}},' \
    "$target" "$target" "$version" "$(names dll)" "$(names so)"
  printf '"libraries":{"tunnel/%s":{"type":"project","serviceable":false,"sha512":""}}}\n' "$version"
}

put 644 usr/lib/tunnel "$programs"/*.dll "$programs"/*.so "$programs"/*.runtimeconfig.json
install -d -m 755 "$tree/usr/bin"
for name in tunneld tunnelctl; do
  put 755 usr/lib/tunnel "$programs/$name"
  dependencies >"$tree/usr/lib/tunnel/$name.deps.json"
  ln -s "../lib/tunnel/$name" "$tree/usr/bin/$name"
done

cd "$repo/packaging"
put 644 usr/lib/systemd/system tunneld@.service
put_as 644 usr/lib/sysusers.d/tunnel.conf tunnel.sysusers
put_as 644 usr/lib/tmpfiles.d/tunnel.conf tunnel.tmpfiles
put_as 644 etc/iproute2/rt_protos.d/tunnel.conf rt_protos-tunnel.conf
install -d -m 755 "$tree/etc/tunnel"
for name in tunneld tunnelctl; do
  put_as 644 "usr/share/bash-completion/completions/$name" "completion/$name.bash"
  put_as 644 "usr/share/zsh/vendor-completions/_$name" "completion/$name.zsh"
  put_as 644 "usr/share/fish/vendor_completions.d/$name.fish" "completion/$name.fish"
done

put 644 usr/share/doc/tunnel ../docs/{api,configuration,metrics,troubleshooting,tunnelctl,tunneld,wire}.md
put 644 usr/share/doc/tunnel/examples tun0.yaml.example grafana-dashboard.json
put_as 644 usr/share/doc/tunnel/copyright deb/copyright
cat "$programs"/*.notices | gzip -9n >"$doc/runtime-notices.gz"
gzip -9nc ../CHANGELOG.md >"$doc/changelog.gz"
gzip -9nc >"$doc/changelog.Debian.gz" <<CHANGELOG
tunnel ($deb_version) unstable; urgency=medium

  * Release $version. What is new stands in changelog.gz.

 -- $(sed -n 's/^Maintainer: //p' deb/control)  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
CHANGELOG
for page in tunneld.8 tunnelctl.8 tunneld.yaml.5; do
  install -d -m 755 "$tree/usr/share/man/man${page##*.}"
  python3 man/manual.py "$page" --version "$version" --date "$SOURCE_DATE_EPOCH" | gzip -9n >"$tree/usr/share/man/man${page##*.}/$page.gz"
done
put_as 644 usr/share/lintian/overrides/tunnel deb/lintian-overrides

# The control files. Installed-Size is in KiB.
install -d -m 755 "$tree/DEBIAN"
install -m 755 deb/postinst deb/prerm deb/postrm "$tree/DEBIAN"
find "$tree/etc" -type f -printf '/etc/%P\n' >"$tree/DEBIAN/conffiles"
(cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
sed -e "s/@VERSION@/$deb_version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$(du --apparent-size -sk --exclude DEBIAN "$tree" | cut -f 1)/" \
  deb/control >"$tree/DEBIAN/control"

find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference -d "@$SOURCE_DATE_EPOCH" {} +
package=tunnel_${deb_version}_$arch.deb
dpkg-deb --root-owner-group -Zxz --build "$tree" "$dist/$package" >"$log" || { cat "$log" >&2; die "dpkg-deb failed"; }
say "dist/$package is ready: $(du -h "$dist/$package" | cut -f 1), installed $(du -sh --apparent-size "$tree" | cut -f 1)"
