#!/usr/bin/env bash
# One limit for three instances, by a real Redis, under load of h2load against all three at
# once: how many were let through of how many could have been. And then Redis is paused,
# and killed: who is answered then, and how soon.
#
#   tests/conformance/shared-limit.sh
#
# TOLLGATE names another binary than target/release or target/debug has, and REDIS_SERVER
# another server than redis-server: valkey-server, say. Takes about 30 seconds. Ends with 1
# if anything is not as it should be.
set -euo pipefail
cd "$(dirname "$0")/../.."

server=${REDIS_SERVER:-redis-server}
for needed in "$server" redis-cli h2load curl; do
    command -v "$needed" >/dev/null || { echo "SKIPPED: there is no $needed" >&2; exit 0; }
done

. tests/conformance/proxy.sh
ports 7
redis=$(port 6)
rate=1000 burst=1000 seconds=5 lease=20

redis() { timeout 10 redis-cli -p "$redis" "$@"; }
start_redis() {
    (cd "$dir" && exec timeout 300 "$server" --bind 127.0.0.1 --port "$redis" \
        --save "" --appendonly no >>redis.log 2>&1) &
    redis_pid=$!
    pids+=("$redis_pid")
    for _ in $(seq 100); do
        redis ping >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "$server does not start" >&2
    exit 1
}
# The process itself, not the timeout that runs it.
signal_redis() { kill "-$1" "$(pgrep -P "$redis_pid" -x "${server##*/}")"; }

start_redis
for n in 0 1 2; do
    cat >"$dir/proxy-$n.toml" <<END
[server]
workers = 1
[admin]
address = "127.0.0.1:$(port $((n + 3)))"
[access_log]
output = "off"
[redis]
url = "redis://127.0.0.1:$redis"
[[listener]]
name = "public"
address = "127.0.0.1:$(port $n)"
[[route]]
name = "limited"
respond = { body = "ok" }
[[route.rate_limit]]
rate = $rate
burst = $burst
[route.rate_limit.shared]
deadline = "1s"
[[route]]
name = "open"
path = "/open"
respond = { body = "ok" }
[[route.rate_limit]]
rate = 1000000
[route.rate_limit.shared]
lease = 1
deadline = "5ms"
on_failure = "open"
END
    start "$(port $((n + 3)))" "proxy-$n.toml"
done

metrics() { curl -s -m 5 "http://127.0.0.1:$(port $(($1 + 3)))/metrics"; }
# count METRIC: the sum over all instances of the lines that begin so.
count() {
    for n in 0 1 2; do metrics "$n"; done |
        awk -v metric="$1" 'index($0, metric) == 1 { sum += $2 } END { print sum + 0 }'
}
for n in 0 1 2; do
    for _ in $(seq 50); do
        metrics "$n" | grep -q '^tollgate_redis_connected 1' && break
        sleep 0.1
    done
done

# load PATH SECONDS: against all three at once; each request with its time in load-N.
load() {
    local n loads=()
    for n in 0 1 2; do
        rm -f "$dir/load-$n"
        timeout $(($2 + 20)) h2load --h1 -c 4 -t 1 -D "$2" --log-file="$dir/load-$n" \
            "http://127.0.0.1:$(port "$n")$1" >"$dir/h2load-$n" 2>&1 &
        loads+=($!)
    done
    wait "${loads[@]}"
}
# times: how many were answered, how many of them not with 200, and how long it took.
times() {
    cat "$dir"/load-? | awk '{ print $2, $3 }' | sort -k2n | awk '
        { time[NR] = $2; if ($1 != 200) wrong++ }
        END { at = int(NR * 0.99); if (at < 1) at = 1
              printf "%d %d %.1f %.1f\n", NR, wrong, time[at] / 1000, time[NR] / 1000 }'
}
failed=0
check() { if ! awk "BEGIN { exit !($2) }"; then echo "FAILED: $1" >&2; failed=1; fi; }

# --- what is let through ------------------------------------------------------------------

begin=$(date +%s.%N)
load / "$seconds"
end=$(date +%s.%N)
admitted=$(count 'tollgate_requests_total{route="limited",status="2xx"}')
refused=$(count 'tollgate_requests_total{route="limited",status="4xx"}')
asked=$(count 'tollgate_rate_limit_shared_answer_seconds_count{route="limited"}')
limit=$(awk "BEGIN { print int($burst + $rate * ($end - $begin)) }")
# h2load takes a moment to begin and to end, in which nobody asks.
busy=$(awk "BEGIN { print int($burst + $rate * $seconds) }")
echo "three instances: admitted/limit $(awk "BEGIN { printf \"%.4f\", $admitted / $busy }")" \
    "($admitted of $busy, $refused refused); Redis was asked $asked times"
check "more were let through than there were" "$admitted <= $limit + 1"
check "fewer than a hundredth below the limit" "$admitted >= $busy * 0.99 - 3 * $lease"

# --- without Redis ------------------------------------------------------------------------

load /open 2
read -r all wrong p99 longest < <(times)
echo "with Redis:   $all answered, $wrong not with 200, p99 $p99 ms, longest $longest ms"
usual=$p99
check "somebody was shut out" "$wrong == 0"

signal_redis STOP
load /open 3
read -r all wrong p99 longest < <(times)
echo "Redis paused: $all answered, $wrong not with 200, p99 $p99 ms, longest $longest ms"
check "somebody was shut out" "$wrong == 0"
check "p99 is beyond the deadline by far" "$p99 < $usual + 20"
check "without Redis" "$(count 'tollgate_rate_limit_shared_total{route="open",outcome="open"}') > 0"
signal_redis CONT
sleep 1
load /open 1

signal_redis KILL
wait "$redis_pid" 2>/dev/null || true
load /open 2
read -r all wrong p99 longest < <(times)
echo "Redis killed: $all answered, $wrong not with 200, p99 $p99 ms, longest $longest ms"
check "somebody was shut out" "$wrong == 0"
start_redis
counted() { count 'tollgate_rate_limit_shared_total{route="open",outcome="redis"}'; }
before=$(counted)
for _ in $(seq 20); do
    load /open 1
    [ "$(counted)" = "$before" ] || break
done
check "it is counted by way of Redis again" "$(counted) > $before"
lines=$(cat "$dir"/proxy-?.toml.log | grep -c 'rate limits: not counted by way of Redis')
echo "log lines about two outages of three instances: $lines"
check "a line for each outage, and not for each request" "$lines >= 6 && $lines <= 18"
exit "$failed"
