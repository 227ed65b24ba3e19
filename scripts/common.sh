# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts: where the checkout is, how to say things, how to find dotnet, how to install what is missing.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dist=$repo/dist
me=${0##*/}

say() { printf '%s: %s\n' "$me" "$*"; }
die() { printf '%s: %s\n' "$me" "$*" >&2; exit 1; }

# usage_error MESSAGE: what every script does with an option it doesn't know.
usage_error() { printf '%s: %s; see %s --help\n' "$me" "$1" "$me" >&2; exit 2; }

is_root() { ((EUID == 0)); }

# install_missing COMMAND:PACKAGE...   installs the package of each command that is missing, after saying so.
# A COMMAND that begins with / is a file.
install_missing() {
  local pair missing=()
  for pair in "$@"; do
    case $pair in
      /*) [[ -e ${pair%%:*} ]] ;;
      *) command -v "${pair%%:*}" >/dev/null ;;
    esac || missing+=("${pair#*:}")
  done
  ((${#missing[@]} == 0)) && return
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  install_packages "${missing[@]}"
}

# install_packages PACKAGE...   with apt-get, after saying so; ends the script where it can't.
install_packages() {
  local log
  command -v apt-get >/dev/null || die "missing: $* (Debian's package names). This system has no apt-get: install them with its own package manager"
  is_root || die "missing: $*. Install them with: sudo apt-get install $*"
  say "installing with apt-get: $*"
  log=$(mktemp)
  # Package lists may be absent (a fresh container) or old; only then is an update worth its time.
  if ! apt_install "$@" >"$log" 2>&1; then
    { apt-get -qq update && apt_install "$@"; } >"$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; die "apt-get could not install $*"; }
  fi
  rm -f "$log"
  hash -r
}

apt_install() { DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@"; }

# Sets $dotnet to an SDK that global.json accepts. Under sudo PATH is often the system's own, so the usual places are tried too.
find_dotnet() {
  local candidate caller_home=
  [[ ${SUDO_USER:-} ]] && caller_home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
  # No server is left behind by a build, and nothing is sent anywhere. Environment variables are MSBuild properties as well.
  export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_GENERATE_ASPNET_CERTIFICATE=false
  export DOTNET_CLI_USE_MSBUILD_SERVER=0 MSBUILDDISABLENODEREUSE=1 UseSharedCompilation=false
  # The SDK stops without libicu, which nothing here needs.
  [[ ${DOTNET_SYSTEM_GLOBALIZATION_INVARIANT:-} ]] || compgen -G '/usr/lib*/*/libicuuc.so*' >/dev/null \
    || compgen -G '/usr/lib*/libicuuc.so*' >/dev/null || export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1
  export HOME=${HOME:-$(getent passwd "$EUID" | cut -d: -f6)}

  for candidate in "$(command -v dotnet)" ${DOTNET_ROOT:+"$DOTNET_ROOT/dotnet"} /usr/share/dotnet/dotnet /usr/lib/dotnet/dotnet \
    /usr/local/share/dotnet/dotnet /opt/dotnet/dotnet ${caller_home:+"$caller_home/.dotnet/dotnet"} "$HOME/.dotnet/dotnet"; do
    [[ -x $candidate ]] || continue
    if (cd "$repo" && "$candidate" --version) >/dev/null 2>&1; then
      dotnet=$candidate
      # The programs look for the runtime here when they start.
      DOTNET_ROOT=$("$dotnet" --list-sdks | sed -n 's/.* \[\(.*\)\/sdk\]$/\1/p' | tail -n 1)
      export DOTNET_ROOT
      return
    fi
  done
  die "the .NET SDK 10 is missing. Install the package dotnet-sdk-10.0 where your distribution has it, else follow https://learn.microsoft.com/dotnet/core/install/linux"
}

# Under sudo, what a build writes stays the caller's, so that the next build needs no sudo.
run_dotnet() {
  if is_root && [[ ${SUDO_USER:-root} != root && $(stat -c %U "$repo") == "$SUDO_USER" ]]; then
    (cd "$repo" && runuser -u "$SUDO_USER" -- env HOME="$(getent passwd "$SUDO_USER" | cut -d: -f6)" "$dotnet" "$@")
  else
    (cd "$repo" && "$dotnet" "$@")
  fi
}
