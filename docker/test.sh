#!/usr/bin/env bash
# Tests the container: builds the image, runs docker/compose.yaml and talks to
# it as a client would. From anywhere:  bash docker/test.sh
#
# Skipped, with the reason, where no Docker engine answers. Where the Dockerfile's
# base images neither are there nor can be pulled, stand-ins are made from Debian's
# packages and this machine's own Rust toolchain (that needs root); they are kept
# for the next run, as are the image and its layer of compiled dependencies.
#
# The image is built with little optimisation: this tests the container,
# not how fast the proxy is. Everything is bounded in time; requests go to this
# machine's loopback only; what was started is taken down at the end.

# shellcheck disable=SC2317 # several functions are only called by `holds` and `trap`
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")

image=tollgate-test:image
stage=tollgate-test:build-stage
project=tollgate-test-$$
work=$(mktemp -d)
key=key-of-this-run-$RANDOM$RANDOM
started=false
finished=false
jobs_started=()
containers=()
passed=0
failed=0

# --- saying what happens ------------------------------------------------------

note() { printf '      %s\n' "$*"; }

ok() {
  passed=$((passed + 1))
  printf 'ok    %s\n' "$1"
}

not_ok() {
  failed=$((failed + 1))
  printf 'FAIL  %s: %s\n' "$1" "$2"
}

# expect WHAT WANTED GOT
expect() {
  if [[ $3 == "$2" ]]; then ok "$1"; else not_ok "$1" "wanted '$2', got '$3'"; fi
}

# holds WHAT COMMAND...: the command succeeds.
holds() {
  local what=$1 said
  shift
  if said=$("$@" 2>&1); then ok "$what"; else not_ok "$what" "${said:-'$*' failed}"; fi
}

# refused WHAT PATTERN COMMAND...: the command fails, and says why.
refused() {
  local what=$1 pattern=$2 said
  shift 2
  if said=$("$@" 2>&1); then
    not_ok "$what" "'$*' succeeded"
  elif grep -qiE -- "$pattern" <<<"$said"; then
    ok "$what"
  else
    not_ok "$what" "failed for another reason: $said"
  fi
}

skip() {
  finished=true
  printf 'skipped: the container test: %s\n' "$*"
  exit 0
}

die() {
  not_ok "$1" "$2"
  finish
}

finish() {
  finished=true
  if ((failed > 0)) && $started; then
    printf -- '--- what the containers said last\n'
    compose logs --no-color --tail 40 2>&1 || true
    printf -- '---\n'
  fi
  printf '%d passed, %d failed\n' "$passed" "$failed"
  ((failed == 0)) || exit 1
  exit 0
}

clean_up() {
  local code=$?
  trap - EXIT
  if ! $finished; then
    printf 'FAIL  the test itself stopped early, exit code %d\n' "$code"
    printf '%d passed, %d failed\n' "$passed" "$((failed + 1))"
    code=1
  fi
  local job
  for job in "${jobs_started[@]}"; do kill "$job" 2>/dev/null || true; done
  local container
  for container in "${containers[@]}"; do
    timeout 30 docker rm -f "$container" >/dev/null 2>&1 || true
  done
  if $started; then compose down --volumes --timeout 5 >/dev/null 2>&1 || true; fi
  rm -rf --one-file-system "$work"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- tools --------------------------------------------------------------------

dock() { timeout 60 docker "$@"; }

compose() {
  TOLLGATE_IMAGE=$image TOLLGATE_PORT=0 TOLLGATE_CERTS=$work/certs TOLLGATE_API_KEY=$key \
    timeout 120 "${compose_command[@]}" -f "$here/compose.yaml" -p "$project" "$@"
}

fetched_lists=false
# install PACKAGE...: Debian's packages, if this is root on Debian.
install() {
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then return 1; fi
  if ! $fetched_lists; then
    timeout 180 apt-get update -qq >/dev/null 2>&1 || return 1
    fetched_lists=true
  fi
  DEBIAN_FRONTEND=noninteractive timeout 300 \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

# need COMMAND PACKAGE
need() {
  command -v "$1" >/dev/null || install "$2" || skip "$1 is missing and could not be installed"
}

if ! command -v docker >/dev/null; then
  [[ -S /var/run/docker.sock || -n ${DOCKER_HOST:-} ]] || skip "there is no Docker here"
  need docker docker.io
fi
engine=$(timeout 20 docker version --format '{{.Server.Version}}' 2>/dev/null) ||
  skip "no Docker engine answers"
[[ -n $engine ]] || skip "no Docker engine answers"

if timeout 20 docker compose version >/dev/null 2>&1; then
  compose_command=(docker compose)
else
  need docker-compose docker-compose
  compose_command=(docker-compose)
fi
need curl curl
need openssl openssl
note "engine $engine, $("${compose_command[@]}" version --short 2>/dev/null || echo unknown) compose"

# --- base images --------------------------------------------------------------

have() { dock image inspect "$1" >/dev/null 2>&1; }

default_of() { sed -n "s/^ARG $1=//p" "$here/Dockerfile"; }

# The packages an image's file system is made of come from a small Debian; the
# compiler is this machine's own; so are the certificate roots that cargo trusts,
# because on some machines a registry is reached through a proxy of their own.
make_build_stand_in() {
  local toolchain
  toolchain=$(cd "$root" && rustc --print sysroot) || return 1
  if [[ ! -x $toolchain/bin/cargo || $toolchain == /usr ]]; then
    note "no Rust toolchain in a folder of its own here"
    return 1
  fi
  mkdir -p "$work/debian/usr/local"
  cp -a "$toolchain/bin" "$toolchain/lib" "$work/debian/usr/local/"
  cp -L /etc/ssl/certs/ca-certificates.crt "$work/debian/etc/ssl/certs/ca-certificates.crt"
  tar -C "$work/debian" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
    --exclude=./var/cache/apt --exclude=./var/lib/apt/lists --exclude=./usr/share/doc -c . |
    timeout 300 docker import - "$1" >/dev/null
}

# A C library, the certificate roots, a user: no shell.
make_runtime_stand_in() {
  local base=$work/runtime package
  mkdir -p "$base"/{etc/ssl/certs,home/nonroot,tmp}
  for package in libc6 libgcc-s1; do
    dpkg-deb -x "$work"/debian/var/cache/apt/archives/"$package"_*.deb "$base" || return 1
  done
  cp -L "$work/debian/etc/ssl/certs/ca-certificates.crt" "$base/etc/ssl/certs/"
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$base/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$base/etc/group"
  printf 'hosts: files dns\n' >"$base/etc/nsswitch.conf"
  chmod 1777 "$base/tmp"
  chown 65532:65532 "$base/home/nonroot"
  tar -C "$base" --exclude='./usr/share/*' --exclude='./usr/lib/*/gconv' -c . |
    timeout 300 docker import --change 'USER 65532:65532' - "$1" >/dev/null
}

build_image=$(default_of BUILD_IMAGE)
runtime_image=$(default_of RUNTIME_IMAGE)
for base in "$build_image" "$runtime_image"; do
  if ! have "$base" && ! timeout 300 docker pull -q "$base" >/dev/null 2>&1; then
    note "$base is not here and cannot be pulled: taking stand-ins"
    command -v rustc >/dev/null || die "stand-ins for the base images" "there is no rustc to put in"
    build_image=tollgate-test:build-base-rust-$(cd "$root" && rustc --version | cut -d' ' -f2)
    runtime_image=tollgate-test:runtime-base
    break
  fi
done
if ! have "$build_image" || ! have "$runtime_image"; then
  [[ $(id -u) == 0 ]] || die "stand-ins for the base images" "making them needs root"
  need debootstrap debootstrap
  SECONDS=0
  if ! timeout 600 debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates \
    bookworm "$work/debian" >"$work/debootstrap.log" 2>&1; then
    tail -n 5 "$work/debootstrap.log"
    die "stand-ins for the base images" "debootstrap failed"
  fi
  # This order: the second overwrites the first's certificate roots.
  make_runtime_stand_in "$runtime_image" || die "stand-ins for the base images" "run-time image"
  make_build_stand_in "$build_image" || die "stand-ins for the base images" "build image"
  rm -rf --one-file-system "$work/debian" "$work/runtime"
  note "stand-ins made in $SECONDS s"
fi

# --- the image ----------------------------------------------------------------

id_of() { dock image inspect --format '{{.Id}}' "$1" 2>/dev/null || true; }

# BuildKit only where its client part is installed; the older builder elsewhere.
if timeout 20 docker buildx version >/dev/null 2>&1; then buildkit=1; else buildkit=0; fi

# build LIMIT ARGUMENT...
build() {
  local limit=$1
  shift
  DOCKER_BUILDKIT=$buildkit timeout "$limit" docker build -f "$here/Dockerfile" \
    --build-arg BUILD_IMAGE="$build_image" --build-arg RUNTIME_IMAGE="$runtime_image" \
    --build-arg CARGO_BUILD_JOBS=2 --build-arg CARGO_PROFILE_RELEASE_LTO=off \
    --build-arg CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    --build-arg CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
    "$@" "$root" >"$work/build.log" 2>&1 || {
    tail -n 40 "$work/build.log"
    return 1
  }
}

# The build stage gets a name of its own, so that its compiled dependencies
# outlive a clean-up of nameless images; what the names meant before is removed.
before=("$(id_of "$image")" "$(id_of "$stage")")
SECONDS=0
build 840 --target build -t "$stage" || die "the image builds" "see above"
build 120 -t "$image" || die "the image builds" "see above"
ok "the image builds"
note "built in $SECONDS s"
now=" $(id_of "$image") $(id_of "$stage") "
for old in "${before[@]}"; do
  if [[ -n $old && $now != *" $old "* ]]; then dock image rm "$old" >/dev/null 2>&1 || true; fi
done

bytes=$(dock image inspect --format '{{.Size}}' "$image")
base_bytes=$(dock image inspect --format '{{.Size}}' "$runtime_image")
printf 'image size: %d.%d MB (%d.%d MB of it the run-time base)\n' \
  $((bytes / 1000000)) $((bytes / 100000 % 10)) \
  $((base_bytes / 1000000)) $((base_bytes / 100000 % 10))

expect "the image's user is a number that is not root's" 65532:65532 \
  "$(dock image inspect --format '{{.Config.User}}' "$image")"
expect "it stops by SIGTERM" SIGTERM \
  "$(dock image inspect --format '{{.Config.StopSignal}}' "$image")"
holds "it runs on its own: --version" \
  timeout 60 docker run --rm --network none --read-only --cap-drop ALL "$image" --version
refused "there is no shell in it" 'no such file|not found' \
  timeout 60 docker run --rm --network none --entrypoint /bin/sh "$image" -c true
code=0
timeout 60 docker run --rm --network none --read-only "$image" >"$work/bare.log" 2>&1 || code=$?
expect "without a configuration it exits 78" 78 "$code"
holds "and names the file it misses" grep -q /etc/tollgate/config.toml "$work/bare.log"

# --- running ------------------------------------------------------------------

mkdir "$work/certs"
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
  -keyout "$work/certs/key.pem" -out "$work/certs/cert.pem" 2>/dev/null
chmod 755 "$work/certs"
chmod 644 "$work/certs/key.pem"

started=true
compose up -d --no-build >"$work/up.log" 2>&1 || {
  cat "$work/up.log"
  die "compose starts it" "see above"
}
proxy=$(compose ps -q tollgate)

state_of() { dock inspect --format "$1" "$proxy"; }

# within SECONDS COMMAND...: the command succeeds before the time is up.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.3
  done
}

is_healthy() { [[ $(state_of '{{.State.Health.Status}}') == healthy ]]; }

if within 60 is_healthy; then
  ok "it becomes healthy"
else
  state_of '{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}'
  die "it becomes healthy" "it is $(state_of '{{.State.Status}}, {{.State.Health.Status}}')"
fi

origins_healthy() {
  local origin
  for origin in origin-a origin-b; do
    [[ $(dock inspect --format '{{.State.Health.Status}}' "$(compose ps -q "$origin")") == healthy ]] ||
      return 1
  done
}
holds "so do the origins" within 30 origins_healthy

expect "the process is not root's" 65532 \
  "$(dock top "$proxy" -eo uid,pid | sed -n 's/^ *\([0-9]\+\) .*/\1/p' | sort -u)"
refused "its root is read-only" 'read-only' timeout 60 docker cp "$here/Dockerfile" "$proxy:/written"
expect "it holds no capability" "[ALL] []" \
  "$(state_of '{{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}}')"
expect "it is published on loopback only" "127.0.0.1" \
  "$(state_of '{{range .NetworkSettings.Ports}}{{range .}}{{println .HostIp}}{{end}}{{end}}' | sed '/^$/d' | sort -u)"

port=$(compose port tollgate 6188)
port=${port##*:}
site=https://localhost:$port

# ask ARGUMENT...: one client, with the certificate checked.
ask() {
  curl -4 -sS --noproxy '*' --cacert "$work/certs/cert.pem" --connect-timeout 5 --max-time 20 "$@"
}

# answer ARGUMENT...: the status and the version of HTTP.
answer() { ask -o /dev/null -w '%{http_code} %{http_version}' "$@" 2>&1 || true; }

with_key=(-H "X-API-Key: $key")

expect "HTTP/1.1 without a key: 401" "401 1.1" "$(answer --http1.1 "$site/")"
expect "HTTP/1.1 with the key: 200" "200 1.1" "$(answer --http1.1 "${with_key[@]}" "$site/")"
expect "HTTP/2 without a key: 401" "401 2" "$(answer --http2 "$site/")"
expect "HTTP/2 with the key: 200" "200 2" "$(answer --http2 "${with_key[@]}" "$site/")"
expect "HTTP/2 with a wrong key: 401" "401 2" "$(answer --http2 -H 'X-API-Key: wrong' "$site/")"
expect "TLS 1.2 still works" "200 2" "$(answer --http2 --tls-max 1.2 "${with_key[@]}" "$site/")"

# many COUNT PATH ARGUMENT...: so many requests, eight at a time; bodies go to
# $work/bodies; statuses and curl's exit codes are counted: "200/0 ×180, 000/7 ×20".
many() {
  local count=$1 path=$2
  shift 2
  { curl -4 -sS --noproxy '*' --cacert "$work/certs/cert.pem" --connect-timeout 5 --max-time 60 \
    --no-progress-meter --parallel --parallel-max 8 "${with_key[@]}" "$@" \
    -w '\n%{stderr}%{http_code}/%{exitcode}\n' "$site$path?n=[1-$count]" \
    2>"$work/statuses" >"$work/bodies"; } || true
  grep -E '^[0-9]{3}/[0-9]+$' "$work/statuses" | sort | uniq -c |
    awk '{ printf "%s%s ×%d", (NR > 1 ? ", " : ""), $2, $1 }'
}

# Which origins answered the last `many`.
seen() { grep -oE 'origin-[ab]' "$work/bodies" | sort -u | paste -sd ' '; }

sees_both() {
  many 10 / --http2 >/dev/null
  [[ $(seen) == "origin-a origin-b" ]]
}

holds "both origins answer" within 15 sees_both

# --- an origin stops ------------------------------------------------------------

compose stop --timeout 5 origin-b >/dev/null 2>&1
note "origin-b is stopped; meanwhile, of 40 requests: $(many 40 / --http1.1)"
# Longer than `fall` probes take by docker/config.toml: 2 × (1 s + 10 % + 1 s).
sleep 6
expect "past the health threshold no request fails (HTTP/1.1)" "200/0 ×100" "$(many 100 / --http1.1)"
expect "and all are answered by the other origin" origin-a "$(seen)"
expect "past the health threshold no request fails (HTTP/2)" "200/0 ×100" "$(many 100 / --http2)"
holds "it stays healthy" is_healthy
compose start origin-b >/dev/null 2>&1
holds "the origin comes back by itself" within 30 sees_both

# --- stopping under load ----------------------------------------------------------

slow=6
for ((n = 1; n <= slow; n++)); do
  version=--http1.1
  if ((n % 2)); then version=--http2; fi
  ask "$version" -v -o "$work/slow-body-$n" -w '%{http_code}' "${with_key[@]}" "$site/delay/3000" \
    >"$work/slow-$n" 2>"$work/slow-trace-$n" &
  jobs_started+=("$!")
done
slow_jobs=("${jobs_started[@]}")
many 3000 /delay/20 --http2 >"$work/load" &
load_job=$!
jobs_started+=("$load_job")

all_sent() { [[ $(grep -l '^> GET /delay/3000' "$work"/slow-trace-* | wc -l) == "$slow" ]]; }
holds "slow requests are under way" within 10 all_sent
sleep 0.5
none_done() { [[ -z $(cat "$work"/slow-[0-9]*) ]]; }
holds "and none is done yet" none_done

SECONDS=0
timeout 60 docker stop --time 40 "$proxy" >/dev/null
took=$SECONDS
for job in "${slow_jobs[@]}"; do wait "$job" || true; done
wait "$load_job" || true

expect "what was under way is finished" "$(printf '200 %.0s' $(seq "$slow"))" \
  "$(for ((n = 1; n <= slow; n++)); do printf '%s ' "$(cat "$work/slow-$n")"; done)"
expect "it exits 0" 0 "$(state_of '{{.State.ExitCode}}')"
if ((took < 30)); then ok "within the grace period"; else not_ok "within the grace period" "$took s"; fi
note "stopped in $took s; the load beside it: $(cat "$work/load")"
# Only connections that were no longer accepted (curl's exit codes 7 and 35) may
# have gone without an answer.
expect "no request of the load was lost or answered badly" "" \
  "$(grep -oE '[0-9]{3}/[0-9]+ ×' "$work/load" | grep -vE '^(200/0|000/7|000/35) ' | paste -sd ' ')"

# --- reload, upgrade and replacement in a container ------------------------------

mkdir "$work/etc"
# reply TEXT: what the one route answers.
reply() {
  cat >"$work/etc/new.toml" <<TOML
[server]
workers = 1
lame_duck = "4s"
drain_timeout = "10s"
[[listener]]
name = "public"
address = "0.0.0.0:6188"
[[route]]
name = "all"
respond = { status = 200, body = "$1" }
TOML
  mv "$work/etc/new.toml" "$work/etc/config.toml"
}

chmod 755 "$work/etc"
reply one
alone=$(dock run -d --name "$project-alone" --read-only --cap-drop ALL \
  -p 127.0.0.1::6188 -v "$work/etc:/etc/tollgate:ro" "$image")
containers+=("$alone")
door=$(dock port "$alone" 6188/tcp)
says() { [[ $(curl -sS --noproxy '*' --max-time 5 "http://$door/") == "$1" ]]; }
holds "with a folder for its configuration it serves" within 20 says one
reply two
holds "a change of the file is in force by itself" within 20 says two
reply '"'
logged() { dock logs "$alone" 2>&1 | grep -q "$1"; }
holds "a broken one is reported" within 20 logged 'config.toml:[0-9]*:[0-9]*:'
holds "and leaves the old in force" says two
reply two
dock kill -s USR2 "$alone" >/dev/null
holds "an upgrade is refused with the reason" within 20 logged 'container ends with it'
holds "and it serves on" says two

dock kill -s TERM "$alone" >/dev/null
not_ready() {
  local said
  said=$(dock exec "$alone" tollgate healthcheck 2>&1) && return 1
  grep -q draining <<<"$said"
}
holds "told to stop, it is not ready at once" within 3 not_ready
holds "and serves while load balancers take notice" says two
gone() { [[ $(dock inspect --format '{{.State.Status}} {{.State.ExitCode}}' "$alone") == "exited 0" ]]; }
holds "then it ends" within 30 gone

finish
