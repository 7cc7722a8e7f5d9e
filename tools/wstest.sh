#!/usr/bin/env bash
# The Autobahn testsuite, in build/wstest. It wants Python 2.7; exit status 77 where that is neither here nor to be had.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

version=25.10.1
if [ -f "build/wstest/.$version" ]; then
  exit 0
fi
python=
for candidate in $(type -ap python2.7) "$HOME"/.pyenv/versions/2.7.*/bin/python2.7; do
  # The path may hold a name that pyenv does not let run.
  if "$candidate" -m pip --version >/dev/null 2>&1; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "left out: conformance: the Autobahn testsuite wants Python 2.7 with pip, which Debian no longer has"
  exit 77
fi
rm -rf build/wstest
PYTHONUSERBASE=$PWD/build/wstest quietly "installing the Autobahn testsuite" \
  "$python" -m pip install --user --disable-pip-version-check --no-input "autobahntestsuite==$version"
touch "build/wstest/.$version"
