# For the scripts beside this one, which source it: a binary, a folder, ports, and a proxy
# that is there until the script ends. TOLLGATE names another binary than target/release
# or target/debug has.
# shellcheck shell=bash disable=SC2034 # what is set here is read by who sources it

tollgate=${TOLLGATE:-}
for built in target/release/tollgate target/debug/tollgate; do
    [ -n "$tollgate" ] || [ ! -x "$built" ] || tollgate=$built
done
[ -n "$tollgate" ] || { echo "there is no binary: cargo build --release" >&2; exit 1; }
tollgate=$(realpath "$tollgate")

dir=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

# ports COUNT: so many ports in a row on which nobody listens at the moment, from then on
# told by `port 0` and so on.
is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
ports() {
    local offset
    while :; do
        base=$((20000 + RANDOM % 10000))
        for ((offset = 0; offset < $1; offset++)); do
            is_free $((base + offset)) || continue 2
        done
        return
    done
}
port() { echo $((base + $1)); }

# certificate FILE: for localhost, signed by itself, in FILE.pem with FILE-key.pem.
certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
        -keyout "$dir/$1-key.pem" -out "$dir/$1.pem" 2>/dev/null
}

# start ADMIN_PORT [CONFIG]: runs the proxy, and waits until it is there.
start() {
    local config=${2:-config.toml}
    (cd "$dir" && exec timeout 900 "$tollgate" run -c "$config" >"$config.log" 2>&1) &
    pids+=($!)
    for _ in $(seq 100); do
        "$tollgate" healthcheck --address "127.0.0.1:$1" >/dev/null 2>&1 && return
        sleep 0.1
    done
    cat "$dir/$config.log" >&2
    exit 1
}
