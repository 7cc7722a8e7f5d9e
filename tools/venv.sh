#!/usr/bin/env bash
# venv.sh run|dev: the virtual environment .venv with the project (and what its tests need) installed, editable.
# PYTHON chooses the interpreter. Quick when nothing has changed.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

kind=${1:-run}
dev=".[dev]"
case $kind in
  dev) what=$dev ;;
  # With both clients: what README.md shows after the start needs no further step.
  *) what=".[client,publisher]" ;;
esac
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

find_python() {
  local name
  for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if command -v "$name" >/dev/null && "$name" -c "$new_enough" 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  fail "no Python 3.11 or newer among: ${PYTHON:-python3 python3.13 python3.12 python3.11} (set PYTHON)"
}

if [ -n "${PYTHON:-}" ] || ! [ -x .venv/bin/python ]; then
  python=$(find_python)
else
  python=.venv/bin/python
fi
version=$("$python" -c 'import sys; print(sys.version)')
wanted=$(printf '%s\n' "$what" "$PWD" "$version" | cat - setup.cfg pyproject.toml pushserver/__init__.py | sha256sum | cut -d' ' -f1)

for stamp in ".venv/.$kind-installed" .venv/.dev-installed; do
  # What the tests need holds what a run needs.
  other=$(printf '%s\n' "$dev" "$PWD" "$version" | cat - setup.cfg pyproject.toml pushserver/__init__.py | sha256sum | cut -d' ' -f1)
  if [ -f "$stamp" ] && grep -qx -e "$wanted" -e "$other" "$stamp" && .venv/bin/python -c 'import pushserver' 2>/dev/null; then
    exit 0
  fi
done

if ! [ -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1 ||
  [ "$(.venv/bin/python -c 'import sys; print(sys.version)')" != "$version" ] || ! grep -qsx "$PWD" .venv/.place; then
  python=$(find_python)
  if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    case $("$python" -c 'import sys; print(sys.base_prefix)') in
      /usr) install_packages "$("$python" -c 'import sys; print("python{}.{}-venv".format(*sys.version_info))')" ;;
      *) fail "$python has no venv module: install it, or set PYTHON" ;;
    esac
  fi
  rm -rf .venv
  quietly "making .venv with $("$python" --version)" "$python" -m venv .venv
  pwd >.venv/.place
fi

quietly "pip installs $what into .venv, which takes a minute or two" \
  .venv/bin/python -m pip install --disable-pip-version-check --no-input --editable "$what"
# Written now, as the user who owns the environment: twistd's list of plugins.
.venv/bin/twistd --help >/dev/null
echo "$wanted" >".venv/.$kind-installed"
