#!/bin/sh
# WebSocket through the running binary, with peers that are not ours: the Python
# packages `websockets` (both ends, HTTP/1.1) and `h2` with `wsproto` (a client
# over HTTP/2, RFC 8441). They are installed into a temporary folder from PyPI.
#
#   tests/conformance/websocket.sh            # builds the binary
#   TOLLGATE=path/to/tollgate tests/conformance/websocket.sh
#
# Prints "n passed, n failed"; fails if any did. Without Python or PyPI it says
# so, and skips.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

skip() {
    cat >&2 <<END
================================================================================
SKIPPED: the WebSocket suite was NOT run: $1
================================================================================
END
    exit 0
}

command -v python3 >/dev/null 2>&1 || skip "there is no python3"
command -v timeout >/dev/null 2>&1 || skip "there is no timeout(1)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

python3 -m venv "$work/venv" >"$work/log" 2>&1 || skip "python3 has no venv: $(tail -n 1 "$work/log")"
timeout 180 "$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    'websockets>=14' 'h2>=4' 'wsproto>=1.2' 'trustme>=1' >"$work/log" 2>&1 ||
    skip "PyPI cannot be reached: $(tail -n 1 "$work/log")"

if [ -z "${TOLLGATE:-}" ]; then
    (cd "$root" && cargo build --locked --quiet)
    TOLLGATE="${CARGO_TARGET_DIR:-$root/target}/debug/tollgate"
fi

timeout --kill-after=10 420 "$work/venv/bin/python" "$here/websocket.py" "$TOLLGATE" "$work"
