#!/usr/bin/env bash
# install.sh PEER...: what the peers need, from npm and Debian, built into build/. Quick when nothing has changed.
set -eu
cd "$(dirname "$0")"
. ../../tools/lib.sh
mkdir -p build

compile() {
  [ "build/$1" -nt "$1.c" ] || quietly "compiling $1.c" cc -O2 -Wall -o "build/$1" "$1.c"
}

for peer in "$@"; do
  case $peer in
  load | floor)
    command -v cc >/dev/null || install_packages gcc libc6-dev
    compile "$peer"
    ;;
  node)
    command -v npm >/dev/null || install_packages nodejs npm
    wanted=$(cat package.json package-lock.json | sha256sum)
    if ! [ -f node_modules/.installed ] || [ "$(cat node_modules/.installed)" != "$wanted" ]; then
      quietly "installing the npm packages of the peers" npm ci --no-audit --no-fund --ignore-scripts
      echo "$wanted" >node_modules/.installed
    fi
    ;;
  centrifuge)
    packages=()
    # The library's package does not name all that it needs.
    for package in golang-go golang-github-centrifugal-{centrifuge,protocol}-dev golang-github-fzambia-eagle-dev \
      golang-github-igm-sockjs-go-dev golang-github-mna-redisc-dev; do
      dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" || packages+=("$package")
    done
    [ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"
    [ build/centrifuge -nt centrifuge.go ] ||
      quietly "building the peer in Go (a minute)" \
        env GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$PWD/build/.go" go build -o build/centrifuge centrifuge.go
    ;;
  nchan)
    [ -f /usr/lib/nginx/modules/ngx_nchan_module.so ] || install_packages nginx libnginx-mod-nchan
    ;;
  redis)
    command -v redis-server >/dev/null || install_packages redis-server
    ;;
  *) fail "unknown peer: $peer" ;;
  esac
done
