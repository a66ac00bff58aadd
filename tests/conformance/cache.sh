#!/usr/bin/env bash
# Runs the public suite of tests for HTTP caches (github.com/http-tests/cache-tests)
# against a proxy of its own, before the suite's origin.
#
#   CACHE_TESTS=/path/to/checkout tests/conformance/cache.sh
#
# It needs node, and nothing from npm; with `undici` in the checkout's node_modules
# (`npm install undici@7`) the three tests of interim responses run as well. TOLLGATE
# names another binary than target/release or target/debug has; BASE the URL of another
# cache to try, which has to ask http://127.0.0.1:$ORIGIN_PORT. Ends with 1 if a required
# test fails that is not excused below, and with 0, saying so loudly, where there is no
# suite.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -z "${CACHE_TESTS:-}" ] || [ ! -f "$CACHE_TESTS/test-engine/cli.mjs" ] ||
    ! command -v node >/dev/null; then
    cat >&2 <<'END'
================================================================================
SKIPPED: the suite of cache tests was NOT run. Set CACHE_TESTS to a checkout of
github.com/http-tests/cache-tests; node has to be there.
================================================================================
END
    exit 0
fi

. tests/conformance/proxy.sh
ports 3
origin_port=${ORIGIN_PORT:-$(port 2)}

# What the suite asks about and the defaults leave off: clients' directives, cookies in
# what is stored, and stale answers for an origin that fails.
cat >"$dir/config.toml" <<END
[server]
workers = 1
[admin]
address = "127.0.0.1:$(port 1)"
[access_log]
output = "off"
[log]
level = "error"
[cache]
memory = "64MiB"
[[listener]]
name = "plain"
address = "127.0.0.1:$(port 0)"
[[route]]
name = "all"
upstream = "origin"
[route.cache]
honour_request_directives = true
store_set_cookie = true
stale_if_error = "1m"
[[upstream]]
name = "origin"
origins = ["http://127.0.0.1:$origin_port"]
END

(
    cd "$CACHE_TESTS"
    npm_config_protocol=http npm_config_port=$origin_port npm_config_pidfile="$dir/pid" \
        exec node test-engine/server/server.mjs
) >"$dir/origin.log" 2>&1 &
pids+=($!)
start "$(port 1)"
for _ in $(seq 100); do
    is_free "$origin_port" || break
    sleep 0.1
done

# What node brings to fetch with shows no interim responses; undici's own does.
cat >"$dir/fetch.mjs" <<'END'
const { fetch } = await import(`file://${process.cwd()}/node_modules/undici/index.js`)
globalThis.fetch = fetch
END
import=()
if [ -f "$CACHE_TESTS/node_modules/undici/index.js" ]; then
    import=(--import "$dir/fetch.mjs")
else
    echo "without undici in its node_modules: interim responses are NOT tried" >&2
fi
(
    cd "$CACHE_TESTS"
    npm_config_base=${BASE:-http://127.0.0.1:$(port 0)} npm_config_id='' npm_package_config_id='' \
        timeout 580 node --no-warnings "${import[@]}" test-engine/cli.mjs
) >"$dir/results.json" 2>"$dir/client.log" || { cat "$dir/client.log" >&2; exit 1; }
[ -z "${RESULTS:-}" ] || cp "$dir/results.json" "$RESULTS"

cat >"$dir/count.mjs" <<'END'
import { readFileSync } from 'fs'
const [suite, file] = process.argv.slice(2)
const { default: suites } = await import(`file://${suite}/tests/index.mjs`)
const { determineTestResult: judge, resultTypes: types } =
  await import(`file://${suite}/test-engine/lib/results.mjs`)

// Required tests that fail, each with its reason.
const excused = {
  'headers-store-Transfer-Encoding':
    'its origin sends a transfer coding that there is none of; the framing is refused (RFC 9112 §6.1)'
}
// Those that need undici.
const interim = ['interim-102', 'interim-103', 'interim-not-cached']

const results = JSON.parse(readFileSync(file))
const counts = { required: {}, optimal: {}, check: {} }
const lines = []
let wrong = 0
for (const test of suites.flatMap(suite => suite.tests)) {
  if (test.browser_only) continue
  const kind = test.kind ?? 'required'
  const raw = results[test.id]
  const missing = interim.includes(test.id) && raw !== true && /undici/.test(raw?.[1])
  const verdict = judge(suites, test.id, results)
  const name = missing
    ? 'not run'
    : Object.keys(types).find(name => types[name] === verdict)
  counts[kind][name] = (counts[kind][name] ?? 0) + 1
  if (kind === 'check' || name === 'pass' || missing) continue
  const why = raw === true ? 'it passes, but not what it depends on' : raw?.[1]
  const reason = kind === 'required' ? excused[test.id] ?? 'NOT EXCUSED' : ''
  if (kind === 'required' && !excused[test.id]) wrong += 1
  lines.push(`${kind}: ${test.id}: ${why}${reason && ` (${reason})`}`)
}
console.log(lines.sort().join('\n'))
for (const [kind, by] of Object.entries(counts)) {
  const total = Object.values(by).reduce((sum, count) => sum + count, 0)
  const each = Object.entries(by).map(([name, count]) => `${name} ${count}`)
  console.log(`cache-tests, ${kind}: ${each.join(', ')} of ${total}`)
}
process.exit(wrong > 0 ? 1 : 0)
END
node --no-warnings "$dir/count.mjs" "$(cd "$CACHE_TESTS" && pwd)" "$dir/results.json"
