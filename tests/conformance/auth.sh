#!/usr/bin/env bash
# Every scheme of authentication by clients that are not ours: curl through TLS, tokens and
# signatures made by openssl, an identity provider and a deciding service in Python.
#
#   tests/conformance/auth.sh
#
# TOLLGATE names another binary than target/release or target/debug has. Ends with 1 if
# anything is not as it should be.
set -euo pipefail
cd "$(dirname "$0")/../.."

for needed in curl openssl python3; do
    command -v "$needed" >/dev/null || { echo "SKIPPED: there is no $needed" >&2; exit 0; }
done
services=$PWD/tests/conformance/auth_services.py

. tests/conformance/proxy.sh
ports 4
url=https://localhost:$(port 0)
mutual=https://localhost:$(port 1)
idp=http://127.0.0.1:$(port 2)/idp

# --- what is needed -----------------------------------------------------------------------

certificate tls
openssl genrsa -out "$dir/idp.key" 2048 2>/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
    -subj "/CN=clients" -keyout "$dir/ca-key.pem" -out "$dir/clients.pem" 2>/dev/null
# client FILE AUTHORITY: the certificate of a client called FILE.
client() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -subj "/O=Example/CN=$1" -keyout "$dir/$1-key.pem" -out "$dir/$1.csr" 2>/dev/null
    openssl x509 -req -in "$dir/$1.csr" -CA "$dir/$2.pem" -CAkey "$dir/$3.pem" -days 2 \
        -extfile <(echo extendedKeyUsage=clientAuth) -out "$dir/$1.pem" 2>/dev/null
}
client robot clients ca-key
client stranger tls tls-key

# What the program itself makes: a password, keys.
"$tollgate" hash-password --user bob <<<"correct horse" >"$dir/users"
"$tollgate" keys new --name alice --scope read --file "$dir/keys.toml" >"$dir/new-key"
key=$(grep -oE 'tg_[A-Za-z0-9_]+' "$dir/new-key" | head -1)
"$tollgate" keys new --name carl --file "$dir/keys.toml" >"$dir/new-key"
carl=$(grep -oE 'tg_[A-Za-z0-9_]+' "$dir/new-key" | head -1)
grep -q "$key" "$dir/keys.toml" && { echo "the key itself was stored" >&2; exit 1; }
printf '0123456789abcdef0123456789abcdef' >"$dir/shared"

timeout 900 python3 "$services" "$dir" "$(port 2)" >"$dir/services.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    is_free "$(port 2)" || break
    sleep 0.1
done

cat >"$dir/config.toml" <<END
[admin]
address = "127.0.0.1:$(port 3)"
[access_log]
output = "access.log"
[log]
level = "warn"
[[listener]]
name = "public"
address = "127.0.0.1:$(port 0)"
[listener.tls]
certificates = [{ certificate = "tls.pem", key = "tls-key.pem" }]
[[listener]]
name = "mutual"
address = "127.0.0.1:$(port 1)"
[listener.tls]
certificates = [{ certificate = "tls.pem", key = "tls-key.pem" }]
[listener.tls.client_auth]
ca = "clients.pem"
mode = "request"
[[upstream]]
name = "origin"
origins = ["http://127.0.0.1:$(port 2)"]

[[auth]]
name = "keys"
[auth.api_key]
file = "keys.toml"
query = "api_key"
identity_header = "X-Client"
[[auth]]
name = "people"
[auth.basic]
file = "users"
identity_header = "X-User"
[[auth]]
name = "tokens"
[auth.jwt]
jwks = "$idp/jwks"
issuer = "$idp"
audience = "api"
claims_to_headers = { sub = "X-Subject" }
[[auth]]
name = "ask"
[auth.forward]
url = "http://127.0.0.1:$(port 2)/verify"
response_headers = ["X-Auth-User"]
[[auth]]
name = "machines"
[auth.mtls]
subjects = ["CN=robot,O=*"]
identity_header = "X-Machine"
[[auth]]
name = "here"
[auth.address]
allow = ["127.0.0.1"]
[[auth]]
name = "elsewhere"
[auth.address]
allow = ["192.0.2.0/24"]
[[auth]]
name = "signed"
[auth.signature]
keys = [{ id = "k1", name = "erin", algorithm = "hmac-sha256", secret = "file:shared" }]
required = ["@method", "@authority", "@path"]
identity_header = "X-Signer"
[[auth]]
name = "login"
[auth.oidc]
issuer = "$idp"
client_id = "tollgate"
client_secret = "file:shared"
cookie_secret = "file:shared"
callback = "/login/callback"
logout = "/login/logout"
claims_to_headers = { sub = "X-Subject" }
END
# route NAME AUTH [LISTENER]
route() {
    printf '[[route]]\nname = "%s"\npath = "/%s"\nupstream = "origin"\n%s\nauth = %s\n' \
        "$1" "$1" "${3:+listeners = [\"$3\"]}" "$2" >>"$dir/config.toml"
}
route keys '"keys"' public
route scoped '{ any = ["keys"], scopes = ["read"] }'
route basic '"people"'
route jwt '"tokens"'
route forward '"ask"'
route machines '"machines"' mutual
route here '"here"'
route elsewhere '"elsewhere"'
route either '{ any = ["elsewhere", "keys", "people"] }'
route both '{ all = ["here"], any = ["keys"] }'
route signed '"signed"'
route login '"login"'

"$tollgate" check -c "$dir/config.toml" >"$dir/check.log" 2>&1 || { cat "$dir/check.log" >&2; exit 1; }
start "$(port 3)"

# --- what is asked ------------------------------------------------------------------------

passed=0 failed=0
ask() { curl -sS --max-time 10 --cacert "$dir/tls.pem" "$@"; }
# expect WHAT WANTED GOT
expect() {
    if [[ $3 == $2 ]]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL  $1: wanted '$2', got '$3'"
    fi
}
# status WHAT WANTED ARGUMENTS…
status() { expect "$1" "$2" "$(ask -o /dev/null -w '%{http_code}' "${@:3}" 2>&1 || true)"; }
# seen WHAT PATTERN ARGUMENTS…: what the origin was asked has a line like this.
seen() { expect "$1" "*$2*" "$(ask "${@:3}" 2>&1 || true)"; }
# hidden WHAT TEXT ARGUMENTS…: the origin was asked, and no line that it saw has this.
hidden() {
    local lines
    lines=$(ask "${@:3}" 2>&1 || true)
    expect "$1: the origin is asked" "GET /*" "$lines"
    expect "$1" "" "$(grep -iF -- "$2" <<<"$lines" || true)"
}

status "a key in its field" 200 -H "X-API-Key: $key" $url/keys
status "a key over HTTP/1.1" 200 --http1.1 -H "X-API-Key: $key" $url/keys
seen "whose key it is" "x-client: alice" -H "X-API-Key: $key" -H 'X-Client: root' $url/keys
hidden "the key goes no further" "$key" -H "X-API-Key: $key" $url/keys
hidden "nor does one in the query" "$key" "$url/keys?api_key=$key&a=1"
seen "of which the rest stays" "GET /keys?a=1" "$url/keys?api_key=$key&a=1"
status "no key" 401 $url/keys
status "a wrong key" 401 -H 'X-API-Key: tg_wrong' $url/keys
status "a scope that the key has" 200 -H "X-API-Key: $key" $url/scoped
status "a scope that it has not" 403 -H "X-API-Key: $carl" $url/scoped

status "name and password" 200 -u 'bob:correct horse' $url/basic
seen "who logged in" "x-user: bob" -u 'bob:correct horse' $url/basic
status "a wrong password" 401 -u 'bob:wrong' $url/basic
status "an unknown name" 401 -u 'nobody:correct horse' $url/basic

token=$(curl -sS --max-time 10 "$idp/mint?aud=api")
status "a token" 200 -H "Authorization: Bearer $token" $url/jwt
seen "whose token it is" "x-subject: carol" -H "Authorization: Bearer $token" $url/jwt
status "no token" 401 $url/jwt
status "a token for somebody else" 401 \
    -H "Authorization: Bearer $(curl -sS --max-time 10 "$idp/mint?aud=other")" $url/jwt
b64() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
payload=$(cut -d. -f2 <<<"$token")
none=$(printf '{"alg":"none"}' | b64)
status "a token without a signature" 401 -H "Authorization: Bearer $none.$payload." $url/jwt
confused=$(printf '{"alg":"HS256","kid":"k1"}' | b64).$payload
openssl rsa -in "$dir/idp.key" -pubout -out "$dir/idp.pub" 2>/dev/null
mac=$(printf %s "$confused" | openssl dgst -sha256 -mac HMAC \
    -macopt "hexkey:$(od -An -tx1 -v "$dir/idp.pub" | tr -d ' \n')" -binary | b64)
status "a token signed by the public key as a secret" 401 \
    -H "Authorization: Bearer $confused.$mac" $url/jwt

status "whom the other service lets in" 200 -H 'Cookie: session=good' $url/forward
seen "whom it says it is" "x-auth-user: dave" -H 'Cookie: session=good' -H 'X-Auth-User: root' \
    -H 'X_Auth_User: root' $url/forward
hidden "and nobody else says so" root -H 'Cookie: session=good' -H 'X_Auth_User: root' $url/forward
status "whom it keeps out" 403 -H 'Cookie: session=bad' $url/forward
expect "whom it sends elsewhere" "302 https://login.test/" \
    "$(ask -o /dev/null -w '%{http_code} %{redirect_url}' $url/forward)"

certified=(--cert "$dir/robot.pem" --key "$dir/robot-key.pem")
status "a client's certificate" 200 "${certified[@]}" $mutual/machines
seen "whose it is" "x-machine: robot" "${certified[@]}" $mutual/machines
status "no certificate" "40[13]" $mutual/machines
status "one of another authority" "*000" --cert "$dir/stranger.pem" --key "$dir/stranger-key.pem" \
    $mutual/machines
status "nothing of it on another listener" 404 "${certified[@]}" $url/machines

status "an address that is let in" 200 $url/here
status "one that is not" 403 $url/elsewhere
status "one of several ways" 200 -u 'bob:correct horse' $url/either
status "another of them" 200 -H "X-API-Key: $key" $url/either
status "none of them" 401 $url/either
status "all of them" 200 -H "X-API-Key: $key" $url/both
status "not all of them" 401 $url/both

# signed METHOD PATH [KEY]: the fields of a signed request (RFC 9421 §2.5).
sign() {
    local input text
    input="(\"@method\" \"@authority\" \"@path\");created=$(date +%s);keyid=\"k1\";nonce=\"$RANDOM$RANDOM\""
    text=$(printf '"@method": %s\n"@authority": localhost:%s\n"@path": %s\n"@signature-params": %s' \
        "$1" "$(port 0)" "$2" "$input")
    signature=$(printf %s "$text" | openssl dgst -sha256 -hmac "${3:-$(cat "$dir/shared")}" -binary |
        openssl base64 -A)
    fields=(-H "Signature-Input: sig1=$input" -H "Signature: sig1=:$signature:")
}
sign GET /signed/a
status "a signed request" 200 "${fields[@]}" $url/signed/a
status "the same again" 401 "${fields[@]}" $url/signed/a
sign GET /signed/a
status "the signature of another path" 401 "${fields[@]}" $url/signed/b
sign GET /signed/a wrong
status "a signature by another key" 401 "${fields[@]}" $url/signed/a
sign GET /signed/a
seen "who signed" "x-signer: erin" "${fields[@]}" $url/signed/a
status "no signature" 401 $url/signed/a

jar=(-b "$dir/jar" -c "$dir/jar")
browser=(-H 'Accept: text/html' "${jar[@]}")
status "a program is not sent to log in" 401 -H 'Accept: application/json' $url/login/a
expect "a browser is" "302 $idp/authorize*" \
    "$(ask -o /dev/null -w '%{http_code} %{redirect_url}' "${browser[@]}" "$url/login/a?b=c")"
seen "and comes back to where it was" "GET /login/a?b=c" -L "${browser[@]}" "$url/login/a?b=c" ||
    true
seen "as who it is" "x-subject: carol" "${browser[@]}" "$url/login/a"
hidden "its session goes no further" "cookie:" "${browser[@]}" $url/login/a
session=$(awk '$6 ~ /^__Host-tollgate-[^.]*$/ { print $6 "=" $7 }' "$dir/jar")
name=${session%%=*} value=${session#*=}
case $value in A*) changed=B${value:1} ;; *) changed=A${value:1} ;; esac
status "a session is one by its cookie" 200 -H 'Accept: text/html' -H "Cookie: $session" $url/login/a
status "and none once that is changed" 302 -H 'Accept: text/html' \
    -H "Cookie: $name=$changed" $url/login/a
ask -o /dev/null "${browser[@]}" $url/login/logout
expect "and ends" "302" "$(ask -o /dev/null -w '%{http_code}' "${browser[@]}" $url/login/a)"

# What was logged has none of the secrets.
for secret in "$key" "correct horse" "$(printf 'bob:correct horse' | openssl base64 -A)" "$token" \
    "$signature"; do
    expect "no secret is logged" "" "$(grep -F -- "$secret" "$dir"/*.log | head -3 || true)"
done
expect "who asked is logged" "*identity=alice*" "$(grep 'identity=alice' "$dir/access.log" | head -1)"

echo "$passed passed, $failed failed"
[ "$failed" = 0 ] || { tail -20 "$dir/config.toml.log" >&2; exit 1; }
