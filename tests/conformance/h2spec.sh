#!/usr/bin/env bash
# Runs h2spec (github.com/summerwind/h2spec) against a proxy of its own, over
# TLS and over plain TCP with prior knowledge, in front of the demo's origin.
#
#   H2SPEC=/path/to/h2spec tests/conformance/h2spec.sh
#
# TOLLGATE names another binary than target/release or target/debug has. Ends
# with 1 if a test fails, and with 0, saying so loudly, where there is no tool.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -z "${H2SPEC:-}" ] || [ ! -x "$H2SPEC" ]; then
    cat >&2 <<'END'
================================================================================
SKIPPED: h2spec was NOT run. Set H2SPEC to its path: it comes from
github.com/summerwind/h2spec, as a binary or by `go build ./cmd/h2spec`.
================================================================================
END
    exit 0
fi

tollgate=${TOLLGATE:-}
for built in target/release/tollgate target/debug/tollgate; do
    [ -n "$tollgate" ] || [ ! -x "$built" ] || tollgate=$built
done
[ -n "$tollgate" ] || { echo "there is no binary: cargo build --release" >&2; exit 1; }

dir=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

# Four ports in a row on which nobody listens at the moment.
is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
base=0
until [ "$base" -gt 0 ] && is_free "$base" && is_free $((base + 1)) &&
    is_free $((base + 2)) && is_free $((base + 3)); do
    base=$((20000 + RANDOM % 10000))
done
port() { echo $((base + $1)); }

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null

cat >"$dir/config.toml" <<END
[server]
workers = 1
[admin]
address = "127.0.0.1:$(port 3)"
[access_log]
output = "off"
[log]
level = "error"
[[listener]]
name = "plain"
address = "127.0.0.1:$(port 0)"
protocols = ["h2"]
[[listener]]
name = "tls"
address = "127.0.0.1:$(port 1)"
protocols = ["h2"]
[listener.tls]
certificates = [{ certificate = "cert.pem", key = "key.pem" }]
[[route]]
name = "all"
upstream = "origin"
[[upstream]]
name = "origin"
origins = ["http://127.0.0.1:$(port 2)"]
END

"$tollgate" demo-origin --address "127.0.0.1:$(port 2)" >"$dir/origin.log" 2>&1 &
pids+=($!)
"$tollgate" run -c "$dir/config.toml" >"$dir/tollgate.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    "$tollgate" healthcheck --address "127.0.0.1:$(port 3)" >/dev/null 2>&1 && break
    sleep 0.1
done
"$tollgate" healthcheck --address "127.0.0.1:$(port 3)" >/dev/null ||
    { cat "$dir/tollgate.log" >&2; exit 1; }

failed=0
# spec NAME ARGUMENTS…: all of h2spec, with what fails and the count.
spec() {
    local name=$1 status=0 summary total passed
    shift
    timeout 300 "$H2SPEC" -h 127.0.0.1 -o 2 "$@" >"$dir/report" 2>&1 || status=$?
    summary=$(grep -E '^[0-9]+ tests, ' "$dir/report" | tail -1)
    total=${summary%% tests*}
    passed=$(sed -E 's/.* ([0-9]+) passed.*/\1/' <<<"$summary")
    if [ "$status" -ne 0 ] || [ -z "$total" ] || [ "$passed" != "$total" ]; then
        failed=1
        # Its report ends with the failures; one that is cut short with whatever it did.
        if [ -n "$summary" ]; then sed -n '/^Failures:/,$p' "$dir/report"; else tail -20 "$dir/report"; fi
    fi
    echo "h2spec over $name: ${passed:-0}/${total:-146}"
}

spec "TLS" -p "$(port 1)" -t -k
spec "h2c" -p "$(port 0)"
exit "$failed"
