#!/usr/bin/env bash
# The npm packages that the tests drive (tests/node, React 18 beside the newest, SDKs that visit) and that make dist needs (tools/node),
# exactly as locked. Quick when nothing has changed.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

for folder in tests/node tests/node/react-18 tests/sdks/node tools/node; do
  wanted=$(cat "$folder/package.json" "$folder/package-lock.json" | sha256sum)
  installed=$folder/node_modules/.installed
  if ! [ -f "$installed" ] || [ "$(cat "$installed")" != "$wanted" ]; then
    quietly "installing the npm packages of $folder" \
      npm ci --prefix "$folder" --no-audit --no-fund --ignore-scripts
    echo "$wanted" >"$installed"
  fi
done
