# Shared by the scripts beside it: short messages, logged commands, Debian packages.

say() { printf '%s\n' "-- $*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# Runs a command quietly; shows the end of what it said, without addresses, only when it fails.
quietly() {
  local what=$1 log
  shift
  log=$(mktemp)
  say "$what"
  if ! "$@" >"$log" 2>&1; then
    tail -n 60 "$log" | sed -E 's#[a-z+]+://[^ ]+#<address>#g' >&2
    rm -f "$log"
    fail "failed: $what"
  fi
  rm -f "$log"
}

# How this user may install Debian packages: prints the prefix of the command, fails where there is no way.
privilege() {
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" = 0 ]; then
    echo env
  elif sudo -n true 2>/dev/null; then
    echo "sudo -n env"
  else
    return 1
  fi
}

# install_packages PACKAGE...: one line and failure where we may not.
install_packages() {
  local prefix
  prefix=$(privilege) || fail "missing Debian packages: $* (install them, or let this run as root or with passwordless sudo)"
  # shellcheck disable=SC2086  the prefix is several words
  quietly "updating the list of Debian packages" $prefix DEBIAN_FRONTEND=noninteractive apt-get update -q
  # shellcheck disable=SC2086
  quietly "installing $*" $prefix DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}
