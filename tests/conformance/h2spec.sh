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

. tests/conformance/proxy.sh
ports 4
certificate tls

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
certificates = [{ certificate = "tls.pem", key = "tls-key.pem" }]
[[route]]
name = "all"
upstream = "origin"
[[upstream]]
name = "origin"
origins = ["http://127.0.0.1:$(port 2)"]
END

"$tollgate" demo-origin --address "127.0.0.1:$(port 2)" >"$dir/origin.log" 2>&1 &
pids+=($!)
start "$(port 3)"

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
