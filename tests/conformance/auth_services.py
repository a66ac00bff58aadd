"""The services that auth.sh needs beside Tollgate: an origin that tells what it was asked,
a service that decides who may come in, and an identity provider. Python's own modules and
the openssl command; nothing else.

    auth_services.py FOLDER PORT

The folder has idp.key, an RSA key. Everything is served on one port, by path.
"""

import base64
import hashlib
import json
import subprocess
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder, port = sys.argv[1], int(sys.argv[2])
issuer = f"http://127.0.0.1:{port}/idp"
codes = {}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*arguments, given=b""):
    done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True)
    return done.stdout


def modulus():
    text = openssl("rsa", "-in", f"{folder}/idp.key", "-noout", "-modulus").decode()
    return bytes.fromhex(text.strip().split("=", 1)[1])


def token(claims):
    head = b64(json.dumps({"alg": "RS256", "kid": "k1", "typ": "JWT"}).encode())
    signed = f"{head}.{b64(json.dumps(claims).encode())}"
    signature = openssl("dgst", "-sha256", "-sign", f"{folder}/idp.key", given=signed.encode())
    return f"{signed}.{b64(signature)}"


def claims(audience, **more):
    now = int(time.time())
    return {"iss": issuer, "aud": audience, "sub": "carol", "iat": now, "exp": now + 300, **more}


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body="", fields=()):
        if not isinstance(body, str):
            body, fields = json.dumps(body), [("Content-Type", "application/json"), *fields]
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.given = self.rfile.read(length).decode()
        self.do_GET()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        parameters = dict(urllib.parse.parse_qsl(query))
        if path == "/verify":
            return self.verify()
        if path == "/idp/.well-known/openid-configuration":
            return self.answer(200, {
                "issuer": issuer,
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
                "jwks_uri": f"{issuer}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            })
        if path == "/idp/jwks":
            key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k1"}
            return self.answer(200, {"keys": [{**key, "n": b64(modulus()), "e": "AQAB"}]})
        if path == "/idp/mint":
            return self.answer(200, token(claims(parameters["aud"])))
        if path == "/idp/authorize":
            code = b64(hashlib.sha256(query.encode()).digest())
            codes[code] = parameters
            back = urllib.parse.urlencode({"code": code, "state": parameters["state"]})
            return self.answer(302, "", [("Location", f"{parameters['redirect_uri']}?{back}")])
        if path == "/idp/token":
            return self.token()
        lines = [f"{self.command} {self.path}"]
        lines += [f"{name.lower()}: {value}" for name, value in self.headers.items()]
        return self.answer(200, "\n".join(lines) + "\n")

    def verify(self):
        """Lets in who shows the cookie; sends browsers to where one logs in."""
        if "session=good" in (self.headers.get("Cookie") or ""):
            return self.answer(200, "", [("X-Auth-User", "dave")])
        if "session=bad" in (self.headers.get("Cookie") or ""):
            return self.answer(403, "not you\n")
        return self.answer(302, "", [("Location", "https://login.test/")])

    def token(self):
        given = dict(urllib.parse.parse_qsl(self.given))
        asked = codes.pop(given.get("code"), None)
        if asked is None:
            return self.answer(400, {"error": "invalid_grant"})
        challenge = b64(hashlib.sha256(given.get("code_verifier", "").encode()).digest())
        if challenge != asked.get("code_challenge") or given["redirect_uri"] != asked["redirect_uri"]:
            return self.answer(400, {"error": "invalid_grant"})
        identity = claims(asked["client_id"], nonce=asked.get("nonce"))
        return self.answer(200, {
            "access_token": "opaque", "token_type": "Bearer", "expires_in": 300,
            "id_token": token(identity),
        })


ThreadingHTTPServer(("127.0.0.1", port), Service).serve_forever()
