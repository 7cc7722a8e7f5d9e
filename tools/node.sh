#!/usr/bin/env bash
# The npm packages that the tests drive, exactly as locked. Quick when nothing has changed.
set -eu
cd "$(dirname "$0")/../tests/node"
. ../../tools/lib.sh

wanted=$(cat package.json package-lock.json | sha256sum)
if [ -f node_modules/.installed ] && [ "$(cat node_modules/.installed)" = "$wanted" ]; then
  exit 0
fi
quietly "installing the npm packages of the tests" npm ci --no-audit --no-fund --ignore-scripts
echo "$wanted" >node_modules/.installed
