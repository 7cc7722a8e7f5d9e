#!/usr/bin/env bash
# The programs that the tests drive, from Debian, where they are missing; and those that are named as PROGRAM:PACKAGE.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

missing=()
# program:package
for pair in redis-server:redis-server chromium:chromium chromedriver:chromium-driver ssh:openssh-client \
  strace:strace ip:iproute2 curl:curl node:nodejs npm:npm nginx:nginx-light "$@"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
