#!/usr/bin/env bash
# Tests what stands in this folder: Kubernetes' manifests against its schemas, the
# units by systemd's own checks, and then the service under a real systemd: start,
# reload, upgrade, watchdog, socket activation, end. From anywhere:
#
#   bash deploy/test.sh [the tollgate to test; default target/release/tollgate]
#
# That systemd is a manager of its own, in a mount name space and a control group of
# its own; nothing of the machine's is touched. Parts are skipped, with the reason,
# where their tools are not there. Everything is bounded in time, requests go to this
# machine's loopback only, and what was started is ended.

# shellcheck disable=SC2317 # several functions are only called by `holds` and `trap`
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tollgate=$(realpath -m "${1:-$here/../target/release/tollgate}")
passed=0
failed=0
manager=
load_job=
work=

# --- saying what happens ------------------------------------------------------

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

# fails WHAT COMMAND...: the command fails.
fails() {
  local what=$1 said
  shift
  if said=$("$@" 2>&1); then not_ok "$what" "'$*' succeeded: $said"; else ok "$what"; fi
}

skip() { printf 'skipped: %s\n' "$*"; }

finish() {
  if ((failed > 0)) && [[ -n $work && -f $work/log ]]; then
    printf -- '--- what the service manager and the service said last\n'
    tail -n 60 "$work/log"
    printf -- '---\n'
  fi
  printf '%d passed, %d failed\n' "$passed" "$failed"
  ((failed == 0))
}

clean_up() {
  local code=$?
  trap - EXIT
  if [[ -n $load_job ]]; then kill "$load_job" 2>/dev/null || true; fi
  if [[ -n $manager ]]; then
    timeout 20 systemctl --user exit >/dev/null 2>&1 || true
    within 20 ended "$manager" || kill -KILL "$manager" 2>/dev/null || true
  fi
  if [[ -n $work ]]; then
    local hierarchy
    for hierarchy in "${groups[@]}"; do
      within 5 remove_group "$hierarchy" || true
    done
    rm -rf --one-file-system "$work"
  fi
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# within SECONDS COMMAND...: the command succeeds before the time is up.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

ended() { ! kill -0 "$1" 2>/dev/null; }

# Groups are removed from the innermost outwards.
remove_group() {
  if [[ ! -d $1 ]]; then return 0; fi
  find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
}

# --- the manifests --------------------------------------------------------------

check_manifests() {
  local validate manifest venv
  if ! validate=$(command -v kubernetes-validate); then
    venv=$(mktemp -d)
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install -q kubernetes-validate; } >/dev/null 2>&1
    then
      skip "the manifests: kubernetes-validate is not here, nor can pip install it"
      rm -rf --one-file-system "$venv"
      return
    fi
    validate=$venv/bin/kubernetes-validate
  fi
  for manifest in "$here"/kubernetes/*.yaml; do
    holds "$(basename "$manifest") is as Kubernetes has it" "$validate" --strict "$manifest"
  done
  if [[ -n ${venv:-} ]]; then rm -rf --one-file-system "$venv"; fi
}

# --- the units, as they stand ----------------------------------------------------

check_units() {
  local folder
  if ! command -v systemd-analyze >/dev/null; then
    skip "the units: systemd is not here"
    return
  fi
  folder=$(mktemp -d)
  # `verify` wants the program to be there.
  sed 's|/usr/local/bin/tollgate|/bin/true|' "$here/systemd/tollgate.service" \
    >"$folder/tollgate.service"
  cp "$here/systemd/tollgate.socket" "$folder/"
  expect "systemd finds nothing wrong with the units" "" \
    "$(systemd-analyze verify --man=no "$folder/tollgate.service" "$folder/tollgate.socket" 2>&1)"
  # In tenths: 2.0.
  holds "the service is exposed to little" \
    systemd-analyze security --offline=true --threshold=20 "$folder/tollgate.service"
  rm -rf --one-file-system "$folder"
}

# --- a systemd of our own ----------------------------------------------------------

groups=()

start_manager() {
  # Neither in /tmp nor in a home: the service sees neither.
  work=$(mktemp -d /var/lib/tollgate-test.XXXXXX)
  mkdir -p "$work"/{bin,etc,home,run} "$work/units/systemd/user"
  chmod 700 "$work/run"
  export XDG_RUNTIME_DIR=$work/run XDG_CONFIG_HOME=$work/units HOME=$work/home
  unset DBUS_SESSION_BUS_ADDRESS
  local mount
  for mount in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
    if [[ -w $mount/cgroup.procs ]]; then groups+=("$mount/tollgate-test-$$"); fi
  done
  local group
  for group in "${groups[@]}"; do mkdir "$group" || return 1; done
  # shellcheck disable=SC2016 # for the shell inside
  timeout 300 unshare --mount bash -c '
    for group in "$@"; do echo $$ >"$group/cgroup.procs" || exit 1; done
    # What there is where systemd has started the machine.
    mount -t tmpfs tmpfs /run/systemd && cd /run/systemd || exit 1
    mkdir -p system inaccessible/dir && touch inaccessible/reg && mkfifo inaccessible/fifo || exit 1
    mknod inaccessible/chr c 0 0 && chmod 000 inaccessible/* && cd / || exit 1
    exec /lib/systemd/systemd --user --unit=basic.target --log-target=console' \
    manager "${groups[@]}" </dev/null >"$work/log" 2>&1 &
  manager=$!
  within 10 manages
}

manages() { timeout 5 systemctl --user is-active basic.target >/dev/null 2>&1; }

# The units, for another place, another user and no waiting. The end may take longer
# than a second only because the service asks for that.
install_units() {
  sed -e "s|/usr/local/bin/tollgate|$work/bin/tollgate|; s|/etc/tollgate|$work/etc|" \
    -e '/^User=\|^Group=\|^WantedBy=/d' \
    -e 's|^WatchdogSec=.*|WatchdogSec=2s|' \
    -e 's|^TimeoutStopSec=.*|TimeoutStopSec=1s|' \
    -e 's|^RestartSec=.*|RestartSec=100ms|' \
    -e '/^\[Service\]/a StandardOutput=append:'"$work/log"'\nStandardError=append:'"$work/log" \
    "$here/systemd/tollgate.service" >"$work/units/systemd/user/tollgate.service"
  sed -e '/^ListenStream=/d' -e "s|^\[Socket\]|&\nListenStream=127.0.0.1:$port|" \
    "$here/systemd/tollgate.socket" >"$work/units/systemd/user/tollgate.socket"
  cp "$tollgate" "$work/bin/tollgate"
  sc daemon-reload
}

sc() { timeout 60 systemctl --user "$@"; }
property() { sc show --value --property "$1" tollgate; }
main_pid() { property MainPID; }

# configure ANSWER
configure() {
  cat >"$work/etc/config.toml.new" <<EOF
[access_log]
output = "off"
[admin]
address = "127.0.0.1:$admin_port"
[server]
drain_timeout = "10s"
[[listener]]
name = "public"
address = "127.0.0.1:$port"
[[upstream]]
name = "slow"
origins = ["http://127.0.0.1:$origin_port"]
[[route]]
name = "slow"
path = "/delay"
upstream = "slow"
[[route]]
name = "all"
respond = { body = "$1" }
EOF
  mv "$work/etc/config.toml.new" "$work/etc/config.toml"
}

ask() { curl -sS --noproxy '*' --max-time 10 "http://127.0.0.1:$port${1:-/}" 2>&1; }
answers() { [[ $(ask) == "$1" ]]; }

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# under_load COMMAND...: while new connections come all the time; none may fail.
under_load() {
  : >"$work/failures"
  : >"$work/count"
  (
    end=$((SECONDS + 60))
    while [[ ! -e $work/enough ]] && ((SECONDS < end)); do
      answer=$(ask) || printf '%s\n' "$answer" >>"$work/failures"
      printf . >>"$work/count"
    done
  ) &
  load_job=$!
  "$@" || printf 'the command failed: %s\n' "$*" >>"$work/failures"
  sleep 0.5
  touch "$work/enough"
  wait "$load_job"
  load_job=
  rm "$work/enough"
}

failures() {
  sed 's/ after [0-9]* ms//' "$work/failures" | sort | uniq -c | head -n 5
  local count
  count=$(wc -c <"$work/count")
  if ((count < 5)); then printf 'too little load to tell: %d requests\n' "$count"; fi
}

was_replaced() {
  local now
  now=$(main_pid)
  [[ $now != "$1" && $now != 0 ]]
}

upgrade() {
  local before
  before=$(main_pid)
  sc kill --kill-whom=main --signal=USR2 tollgate || return 1
  within 20 was_replaced "$before"
  sleep 0.5
}

live() {
  port=$(free_port) admin_port=$(free_port) origin_port=$(free_port)
  configure one
  install_units
  "$tollgate" demo-origin --address "127.0.0.1:$origin_port" >/dev/null 2>&1 &
  local origin=$!
  if live_start; then
    live_reload
    live_upgrade
    live_watchdog
    live_stop
    live_sockets
    live_wrong
  fi
  kill "$origin" 2>/dev/null || true
}

live_start() {
  holds "it starts, and says that it is ready" sc start tollgate
  expect "it serves as soon as it is started" one "$(ask)"
  answers one
}

live_reload() {
  local before
  before=$(main_pid)
  configure two
  holds "a reload is done when systemctl returns" sc reload tollgate
  expect "and is in force" two "$(ask)"
  echo 'wrong = true' >>"$work/etc/config.toml"
  fails "a wrong configuration fails the reload" sc reload tollgate
  holds "which says what is wrong" grep -q 'there is no such key' "$work/log"
  expect "and the old one stays in force" two "$(ask)"
  configure two
  expect "it is one process all the time" "$before" "$(main_pid)"
}

live_upgrade() {
  local before
  before=$(main_pid)
  ask /delay/3000 >"$work/slow" &
  local slow=$!
  sleep 0.5
  cp "$tollgate" "$work/bin/new"
  mv "$work/bin/new" "$work/bin/tollgate"
  under_load upgrade
  expect "an upgrade refuses nobody" "" "$(failures)"
  if was_replaced "$before"; then ok "the new process is the main one"; else
    not_ok "the new process is the main one" "$before is"
  fi
  expect "the service is as active as before" "active running" \
    "$(property ActiveState) $(property SubState)"
  wait "$slow" || true
  if grep -q . "$work/slow" && ! grep -q curl "$work/slow"; then
    ok "what was under way is finished by the old one"
  else
    not_ok "what was under way is finished by the old one" "$(cat "$work/slow")"
  fi
  holds "then the old one ends" within 15 ended "$before"

  before=$(main_pid)
  printf '#!/bin/sh\nexit 3\n' >"$work/bin/new"
  chmod 755 "$work/bin/new"
  mv "$work/bin/new" "$work/bin/tollgate"
  sc kill --kill-whom=main --signal=USR2 tollgate || true
  holds "of a binary that fails the log says so" within 15 grep -q 'exit status: 3' "$work/log"
  expect "and the old one serves on" "two $before" "$(ask) $(main_pid)"
  cp "$tollgate" "$work/bin/new"
  mv "$work/bin/new" "$work/bin/tollgate"
}

live_watchdog() {
  local before
  before=$(main_pid)
  sleep 5
  expect "signs of life keep it, also after an upgrade" "$before" "$(main_pid)"
  kill -STOP "$before"
  holds "without them it is started anew" within 20 was_replaced "$before"
  holds "and serves again" within 20 answers two
}

live_stop() {
  ask /delay/2000 >"$work/slow" &
  local slow=$!
  sleep 0.5
  holds "it stops" sc stop tollgate
  wait "$slow" || true
  if grep -q . "$work/slow" && ! grep -q curl "$work/slow"; then
    ok "what was under way is finished first"
  else
    not_ok "what was under way is finished first" "$(cat "$work/slow")"
  fi
  expect "as asked" "inactive success" "$(property ActiveState) $(property Result)"
}

live_sockets() {
  sc start tollgate.socket
  expect "a connection starts it, and is answered" two "$(ask)"
  under_load sc restart tollgate
  expect "a restart refuses nobody where systemd has the socket" "" "$(failures)"
  under_load upgrade
  expect "nor does an upgrade" "" "$(failures)"
  sc stop tollgate.socket tollgate
}

live_wrong() {
  echo 'wrong = true' >>"$work/etc/config.toml"
  fails "a wrong configuration fails the start" sc start tollgate
  sleep 1
  expect "which is not tried again" "failed 78" \
    "$(property ActiveState) $(property ExecMainStatus)"
}

check_manifests
check_units
if [[ $(id -u) != 0 ]]; then
  skip "the service under systemd: making name spaces and control groups needs root"
elif [[ ! -x /lib/systemd/systemd ]] || ! command -v curl >/dev/null || ! command -v python3 >/dev/null
then
  skip "the service under systemd: systemd, curl or python3 is not here"
elif [[ ! -x $tollgate ]]; then
  not_ok "the service under systemd" "there is no $tollgate"
elif ! start_manager; then
  skip "the service under systemd: a manager of one's own does not start here"
else
  live
fi
finish
