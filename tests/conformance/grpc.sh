#!/usr/bin/env bash
# gRPC through a proxy of its own, with grpcio from PyPI on both ends, by prior
# knowledge and over TLS.
#
#   tests/conformance/grpc.sh
#
# TOLLGATE names another binary than target/release or target/debug has; PYTHON
# another Python. Ends with 1 if a test fails, and with 0, saying so loudly, where
# grpcio cannot be installed.
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/conformance/proxy.sh

skip() {
    cat >&2 <<END
================================================================================
SKIPPED: the gRPC suite was NOT run: $1
================================================================================
END
    exit 0
}

python=${PYTHON:-python3}
command -v "$python" >/dev/null || skip "there is no $python"
timeout 120 "$python" -m venv "$dir/venv" >"$dir/pip.log" 2>&1 ||
    skip "$python makes no virtual environment (python3-venv)"
timeout 300 "$dir/venv/bin/pip" install --quiet grpcio >>"$dir/pip.log" 2>&1 ||
    { tail -3 "$dir/pip.log" >&2; skip "grpcio cannot be installed from PyPI"; }
python=$dir/venv/bin/python

curve=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
openssl req -x509 "${curve[@]}" -days 2 -subj /CN=tests \
    -keyout "$dir/ca-key.pem" -out "$dir/ca.pem" 2>/dev/null
openssl req "${curve[@]}" -subj /CN=localhost \
    -keyout "$dir/key.pem" -out "$dir/request.pem" 2>/dev/null
openssl x509 -req -in "$dir/request.pem" -CA "$dir/ca.pem" -CAkey "$dir/ca-key.pem" -days 2 \
    -extfile <(echo subjectAltName=DNS:localhost,IP:127.0.0.1) -out "$dir/cert.pem" 2>/dev/null

# wait_for FILE: until a process has written a line there.
wait_for() {
    for _ in $(seq 100); do
        [ -s "$1" ] && return
        sleep 0.1
    done
    echo "nothing came in $1" >&2
    exit 1
}

timeout 600 "$python" tests/conformance/grpc_calls.py serve "$dir" >"$dir/origin" 2>"$dir/origin.log" &
pids+=($!)
wait_for "$dir/origin"
read -r plain secure <"$dir/origin"

ports 3
h2c=$(port 0) tls=$(port 1) admin=$(port 2)

cat >"$dir/config.toml" <<END
[admin]
address = "127.0.0.1:$admin"
[access_log]
output = "access.log"
[log]
level = "warn"
[[listener]]
name = "plain"
address = "127.0.0.1:$h2c"
[[listener]]
name = "tls"
address = "127.0.0.1:$tls"
[listener.tls]
certificates = [{ certificate = "cert.pem", key = "key.pem" }]
[[route]]
name = "calls"
path = "/t.T"
upstream = "plain"
[[route]]
name = "calls-over-tls"
path = "/tls.T"
rewrite_prefix = "/t.T"
upstream = "secure"
[[route]]
name = "nobody"
path = "/nobody.T"
upstream = "nobody"
[[route]]
name = "locked"
path = "/locked.T"
upstream = "plain"
[route.api_key]
keys = [{ name = "a", key = "sha256:0000000000000000000000000000000000000000000000000000000000000000" }]
[[upstream]]
name = "plain"
origins = ["h2c://127.0.0.1:$plain"]
[[upstream]]
name = "secure"
origins = ["https://localhost:$secure"]
tls = { ca = "ca.pem" }
[[upstream]]
name = "nobody"
origins = ["h2c://127.0.0.1:1"]
END

start "$admin"

status=0
timeout 300 "$python" tests/conformance/grpc_calls.py call "$dir" "$h2c" "$tls" || status=$?
[ "$status" = 0 ] || tail -n 20 "$dir/config.toml.log" "$dir/origin.log" >&2
exit "$status"
