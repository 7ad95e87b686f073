"""A tiny key broker that does everything right, but for the faults that a test gives it. Written for the suite's tests.

Each refusal has a name; a fault of that name lets the request pass. Other faults bend an answer.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import random
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.errors import KokonError
from kokon.jose.jwe import encrypt_to, from_jwk, public_jwk, thumbprint
from kokon.tee.simulated.processor import Processor, current_tcb, vcek_key
from kokon.tee.snp.envelope import from_envelope
from kokon.tee.snp.report import parse_report
from kokon.wire import b64, b64url, canonical_json, unb64url

ADMIN_TOKEN = "admin-token-of-the-fake-broker"
VERSIONS = ("0.4.0", "0.3.0", "0.2.0", "0.1.1")
LIMIT = 2 << 20
PREFIX = "https://github.com/confidential-containers/kbs/errors/"
EVIDENCE = "ear.veraison.annotated-evidence"


class Refusal(Exception):  # noqa: N818
    def __init__(self, status: int, variant: str, detail: str) -> None:
        self.status, self.variant, self.detail = status, variant, detail


@dataclass
class Reply:
    status: int = 200
    body: Any = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Ask:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def cookie(self) -> str:
        return self.headers.get("cookie", "").partition("kbs-session-id=")[2].partition(";")[0]

    @property
    def bearer(self) -> str | None:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme == "Bearer" and token else None


class Broker:
    def __init__(self, *faults: str, tee: str = "sample", chip: Processor | None = None) -> None:
        self.faults = set(faults)
        self.tee = tee
        self.chip = chip
        self.offset = timedelta()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.jwk = public_jwk(self.key, algorithm="ES256")
        self.sessions: dict[str, dict[str, Any]] = {}
        self.resources: dict[str, bytes] = {}
        self.policy: str | None = None
        self.references: dict[str, Any] = {}
        self.last: dict[str, Any] | None = None
        self.asked: list[Ask] = []
        self.dice: random.Random | None = None
        self.fixed: dict[str, dict[str, str]] = {}

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def has(self, fault: str) -> bool:
        return fault in self.faults

    def demand(self, name: str, good: bool, status: int = 403, variant: str = "AttestationError") -> None:
        if not good and not self.has(name):
            raise Refusal(status, variant, name)

    # -- entry -----------------------------------------------------------------------------------------------------

    def answer(self, ask: Ask) -> Reply:
        self.asked.append(ask)
        if self.has("busy") and len(self.asked) % 3 == 0:
            return Reply(503, headers={} if self.has("silent") else {"Retry-After": "1"})
        try:
            reply = self.route(ask)
        except Refusal as refusal:
            reply = self.refuse(ask, refusal)
        if self.dice is not None and isinstance(reply.body, dict | list):
            reply.body = self.mangled(reply.body)
        return reply

    def mangled(self, value: Any) -> Any:
        """`value` with something put out of form, as the dice fall."""
        assert self.dice is not None
        if self.dice.random() < 0.04:
            return self.dice.choice([None, 0, -1, "", "x", [], {}, [[]], {"a": 1}, True, 1e9, "A" * 5000])
        if isinstance(value, dict):
            return {name: self.mangled(member) for name, member in value.items()}
        if isinstance(value, str) and value.count(".") == 2 and self.dice.random() < 0.7:
            header, claims = (self.mangled(json.loads(unb64url(part, what="part"))) for part in value.split(".")[:2])
            signed = ".".join(b64url(json.dumps(part).encode()) for part in (header, claims))
            return f"{signed}.{value.rpartition('.')[2]}"
        return value

    def refuse(self, ask: Ask, refusal: Refusal) -> Reply:
        status = 401 if self.has("all-401") and refusal.status != 404 else refusal.status
        status = 500 if self.has(f"500 {refusal.detail}") else status
        detail = refusal.detail
        if self.has("echo"):
            detail += f" {ask.headers.get('authorization', '')} {ask.cookie}"
        document = {"type": PREFIX + refusal.variant, "detail": detail}
        if self.has("odd-errors"):
            document["type"] = PREFIX + "NoSuchVariant"
        if self.has("plain-errors") or (self.has("plain-405") and status == 405):
            return Reply(status, b"no", "text/plain")
        return Reply(status, document, "text/html" if self.has("html-errors") else "application/json")

    def route(self, ask: Ask) -> Reply:
        if not ask.path.startswith("/kbs/v0"):
            return self.public(ask)
        path = ask.path.removeprefix("/kbs/v0")
        if self.has("any-method") and ask.method in ("PUT", "DELETE", "BREW") and path in ("/auth", "/attest"):
            return Reply()
        if path == "/auth" and ask.method == "POST":
            return self.auth(ask)
        if path == "/attest" and ask.method == "POST":
            return self.attest(ask)
        if path.startswith("/resource/") and ask.method in ("GET", "POST", "DELETE"):
            return self.resource(ask, path.removeprefix("/resource/"))
        if path in ("/resource-policy", "/attestation-policy", "/reference-value") or path.startswith(
            "/reference-value/"
        ):
            return self.policies(ask, path)
        if path in ("/auth", "/attest") or path.startswith("/resource/"):
            raise Refusal(405, "InvalidRequestPath", "method")
        self.demand("any-plugin", False, 404, "PluginNotFound")
        return Reply()

    def public(self, ask: Ask) -> Reply:
        pages: dict[str, Reply] = {
            "/healthz": Reply(),
            "/metrics": Reply(200, b"# TYPE requests counter\nrequests 1\n", "text/plain"),
            "/.well-known/jwks.json": Reply(200, {"keys": [self.published()]}),
        }
        if ask.path.rpartition("/")[2] in self.faults or ask.path not in pages:
            return Reply(404, b"", "text/plain")
        return pages[ask.path]

    def published(self) -> dict[str, str]:
        key = public_jwk(ec.generate_private_key(ec.SECP256R1()), algorithm="ES256") if self.has("jwks") else self.jwk
        return {**key, "kid": thumbprint(self.jwk), **({"d": "AAAA"} if self.has("jwks-private") else {})}

    # -- /auth -----------------------------------------------------------------------------------------------------

    def json(self, name: str, data: bytes) -> dict[str, Any]:
        self.demand(f"{name}-large", len(data) <= LIMIT, 413, "SerdeError")

        def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
            self.demand(f"{name}-duplicates", len(dict(items)) == len(items), 400, "SerdeError")
            return dict(items)

        try:
            value = json.loads(data, object_pairs_hook=pairs)
        except (ValueError, RecursionError):
            value = None
        self.demand(f"{name}-malformed", isinstance(value, dict), 400, "SerdeError")
        return value if isinstance(value, dict) else {}

    def auth(self, ask: Ask) -> Reply:
        kind = ask.headers.get("content-type")
        self.demand("ok", not (self.has("strict-type") and kind != "application/json"), 415, "SerdeError")
        self.demand("ok", not (self.has("no-chunks") and "transfer-encoding" in ask.headers), 411, "SerdeError")
        value = self.json("auth", ask.body)
        self.demand("ok", not (self.has("no-text") and value.get("extra-params") == ""), 400, "SerdeError")
        self.demand("auth-members", {"version", "tee", "extra-params"} <= set(value), 400, "SerdeError")
        strange = set(value) - {"version", "tee", "extra-params"}
        self.demand("unknown", not strange or not self.has("refuse-unknown"), 400, "SerdeError")
        version, tee = value.get("version", "0.4.0"), value.get("tee", self.tee)
        if version == "0.1.0":
            self.demand("version-0.1.0", False)
            version = "0.4.0"
        self.demand("version", version in VERSIONS and not self.has(f"no-{version}"))
        self.demand("tee", tee == self.tee)
        return self.challenge(version if version in VERSIONS else "0.4.0")

    def challenge(self, version: str) -> Reply:
        cookie = "0" * 32 if self.has("same-cookie") else secrets.token_hex(16)
        cookie = "x" * 5000 if self.has("long-cookie") else cookie
        raw = bytes(32) if self.has("same-nonce") else os.urandom(16 if self.has("short-nonce") else 32)
        nonce = base64.urlsafe_b64encode(b"\xff" * 32).decode() if self.has("url-nonce") else b64(raw)
        session = {"version": version, "nonce": nonce, "ends": self.now() + timedelta(seconds=300), "claims": None}
        self.sessions[cookie] = session
        body = {"nonce": nonce, "extra-params": "", **({"more": 1} if self.has("more-members") else {})}
        if self.has("no-extra-params"):
            del body["extra-params"]
        kind = "text/plain" if self.has("challenge-type") else "application/json"
        return Reply(200, body, kind, self.set_cookie(cookie))

    def set_cookie(self, cookie: str) -> dict[str, str]:
        name = "session" if self.has("cookie-name") else "kbs-session-id"
        rest = "" if self.has("bare-cookie") else "; HttpOnly; SameSite=Strict; Max-Age=300"
        rest = "; HttpOnly; SameSite=Strict; Max-Age=0" if self.has("old-cookie") else rest
        path = "/elsewhere" if self.has("cookie-path") else "/kbs/v0"
        domain = "; Domain=example.com" if self.has("cookie-domain") else ""
        odd = '"' if self.has("odd-cookie") else ""
        cookies = {"Set-Cookie": f"{name}={cookie}{odd}; Path={path}{rest}{domain}"}
        return cookies | ({"set-cookie": cookies["Set-Cookie"]} if self.has("two-cookies") else {})

    # -- /attest ---------------------------------------------------------------------------------------------------

    def session(self, ask: Ask, *, name: str = "any-cookie") -> dict[str, Any]:
        session = self.sessions.get(ask.cookie)
        self.demand(name, session is not None, 401, "TokenNotFound")
        if session is None:
            session = list(self.sessions.values())[-1]
        self.demand("expired-session", self.now() < session["ends"], 401, "TokenNotFound")
        return session

    def attest(self, ask: Ask) -> Reply:
        if self.has("refuse-all"):
            raise Refusal(403, "AttestationError", "evidence")
        value = self.json("attest", ask.body)
        self.demand("unknown-attest", "no-such-member" not in value or not self.has("strict-attest"), 400, "SerdeError")
        session = self.session(ask)
        if session["claims"] is not None:
            self.demand("spent", False, 401)
            if not self.has("new-token"):
                return Reply(200, {"token": session["token"]})
        flat = session["version"] in ("0.2.0", "0.1.1")
        runtime = {"nonce": session["nonce"], **value} if flat else value.get("runtime-data", {})
        evidence = value.get("tee-evidence")
        if session["version"] == "0.4.0":
            evidence = (evidence or {}).get("primary_evidence")
        elif session["version"] == "0.1.1":
            evidence = self.old_evidence(evidence)
        additional = (value.get("tee-evidence") or {}).get("additional_evidence", "") if not flat else ""
        self.demand("nonce", hmac.compare_digest(str(runtime.get("nonce")), session["nonce"]))
        jwk = self.guest_key(runtime.get("tee-pubkey"))
        try:
            digests = self.digests(session, runtime, jwk, additional)
            self.evidence(evidence, digests, value.get("init-data"))
        except Refusal:
            if self.has("grant-refused"):
                session["claims"] = self.last
            raise
        self.demand("ok", not (self.has("no-devices") and additional), 403)
        session["claims"] = self.claims(session, jwk)
        session["token"] = self.sign(session["claims"])
        self.last = session["claims"]
        body = {"token": session["token"]} if not self.has("no-token") else {}
        body = {**body, "more": "1"} if self.has("more-members") else body
        kind = "text/plain" if self.has("attest-type") else "application/json"
        return Reply(200, body, kind, {} if self.has("no-second-cookie") else self.set_cookie(ask.cookie))

    def old_evidence(self, value: Any) -> Any:
        if self.has("old-object"):
            self.demand("ok", isinstance(value, dict), 400, "SerdeError")
            return value
        self.demand("ok", isinstance(value, str), 400, "SerdeError")
        return json.loads(value)

    def guest_key(self, jwk: Any) -> dict[str, str]:
        jwk = jwk if isinstance(jwk, dict) else {}
        if jwk.get("alg") == "RSA1_5":
            self.demand("rsa15", False, 400)
            return {**jwk, "alg": "RSA-OAEP-256"}
        try:
            from_jwk(jwk)
            good = True
        except KokonError:
            good = False
        weak = jwk.get("kty") == "RSA" and len(jwk.get("n", "")) < 300
        self.demand("rsa-weak" if weak else "bad-key", good, 400, "JweError")
        return jwk

    def digests(
        self, session: dict[str, Any], runtime: dict[str, Any], jwk: dict[str, str], additional: str
    ) -> list[bytes]:
        nonce, given = str(runtime.get("nonce")), runtime.get("tee-pubkey") or jwk
        old = {"tee-pubkey": given, "nonce": nonce}
        new = {**old, "additional-evidence": additional}
        main = new if session["version"] == "0.4.0" else old
        found = [hashlib.sha384(canonical_json(main)).digest()]
        if self.has("old-hash"):
            found.append(hashlib.sha384(canonical_json(old)).digest())
        if self.has("sha256"):
            found.append(hashlib.sha256(canonical_json(main)).digest())
        if self.has("uncovered"):
            found.append(hashlib.sha384(canonical_json({**new, "additional-evidence": ""})).digest())
        if self.has("alg-unbound"):
            other = {**given, "alg": "RSA-OAEP-256"}
            found.append(hashlib.sha384(canonical_json({**new, "tee-pubkey": other})).digest())
        return found

    def evidence(self, value: Any, digests: list[bytes], document: Any) -> None:
        if document is not None:
            self.demand("init-data-format", document.get("format") == "toml", 400)
        self.demand("ok", document is not None or not self.has("need-init-data"), 403)
        if self.has("any-evidence"):
            return
        if self.tee == "snp":
            found = self.report(value, document)
        else:
            known = isinstance(value, dict) and set(value) == {"svn", "report_data"}
            self.demand("no-evidence", known, 400)
            found = base64.b64decode(value["report_data"]) if known else digests[0]
        fits = any(digest.ljust(len(found), b"\0") == found for digest in digests)
        short = self.has("prefix") and any(digest.startswith(found.rstrip(b"\0")) for digest in digests)
        self.demand("unbound", fits or short)

    def report(self, value: Any, document: Any) -> bytes:
        assert self.chip is not None
        try:
            raw = from_envelope(value).report
        except KokonError as error:
            raise Refusal(400, "AttestationError", "evidence") from error
        report = parse_report(raw)
        half = len(report.signature) // 2
        r, s = (int.from_bytes(part, "little") for part in (report.signature[:half], report.signature[half:]))
        try:
            public = vcek_key(self.chip.secret, current_tcb()).public_key()
            public.verify(encode_dss_signature(r, s), raw[:0x2A0], ec.ECDSA(hashes.SHA384()))
            good = True
        except InvalidSignature:
            good = False
        self.demand("signature", good)
        if document is not None:
            self.demand("init-data", hashlib.sha256(document["body"].encode()).digest() == report.host_data)
        return report.report_data

    # -- tokens ----------------------------------------------------------------------------------------------------

    def claims(self, session: dict[str, Any], jwk: dict[str, str]) -> dict[str, Any]:
        now = int(self.now().timestamp())
        vector = {"hardware": 97, "executables": 33}
        vector = {"hardware": 2} if self.has("affirming") else vector
        vector = (
            {"cleverness": 2} if self.has("odd-vector") else {"hardware": True} if self.has("bad-vector") else vector
        )
        shown = public_jwk(self.key) if self.has("other-key") else jwk
        nonce = "another" if self.has("other-nonce") else session["nonce"]
        appraisal = {
            "ear.status": "affirming" if self.has("affirming") or self.has("false-status") else "contraindicated",
            "ear.trustworthiness-vector": vector,
            EVIDENCE: {"runtime_data_claims": {"tee-pubkey": shown, "nonce": nonce}},
        }
        claims = {
            "eat_profile": "tag:example.com,2026:fake",
            "iat": now + (3600 if self.has("future") else 0),
            "exp": now + (200_000 if self.has("long-token") else 1800),
            "iss": "fake", "jti": "same" if self.has("same-jti") else secrets.token_hex(8),
            "ear.verifier-id": {"developer": "fake", "build": "1"},
            "submods": {"cpu0": appraisal},
        }  # fmt: skip
        if self.has("stale"):
            claims["exp"] = now - 1
        if self.has("huge"):
            claims["raw"] = "x" * 9000
        if self.has("odd-status"):
            appraisal["ear.status"] = "good"
        for name in ("eat_profile", "jti", "submods", "iat", "ear.verifier-id"):
            if self.has(f"no-{name}"):
                del claims[name]
        return claims

    def sign(self, claims: dict[str, Any]) -> str:
        jwk = self.jwk
        if self.has("wrong-jwk"):
            jwk = public_jwk(ec.generate_private_key(ec.SECP256R1()), algorithm="ES256")
        header = {"typ": "JWT", "alg": "ES512" if self.has("token-alg") else "ES256", "kid": thumbprint(self.jwk)}
        header |= {} if self.has("no-header-jwk") else {"jwk": jwk}
        header |= {"crit": ["x"]} if self.has("token-crit") else {}
        header |= {"jwk": {**jwk, "d": "AAAA"}} if self.has("token-private") else {}
        header |= {"typ": "at+jwt"} if self.has("token-typ") else {}
        header = {name: value for name, value in header.items() if name != "kid" or not self.has("no-kid")}
        text = ".".join(b64url(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        raw = encode_dss_signature(r, s) if self.has("der-signature") else raw
        return f"{text}.{b64url(raw)}"

    def verify(self, token: str) -> dict[str, Any]:
        try:
            header_text, claims_text, signature = token.split(".")
            header = json.loads(unb64url(header_text, what="header", limit=1 << 20))
            claims: dict[str, Any] = json.loads(unb64url(claims_text, what="claims", limit=1 << 20))
            raw = unb64url(signature, what="signature")
            good = self.signed(header, f"{header_text}.{claims_text}".encode(), raw)
        except (ValueError, KokonError):
            self.demand("any-token", False, 401, "TokenVerifierError")
            return self.last or {}
        self.demand("any-signature", good, 401, "TokenVerifierError")
        self.demand("expired-token", self.now().timestamp() < claims.get("exp", 0), 401, "TokenVerifierError")
        return claims

    def signed(self, header: dict[str, Any], text: bytes, signature: bytes) -> bool:
        algorithm = str(header.get("alg", "")).lower()
        if algorithm in ("none", ""):
            return self.has("alg-none")
        if algorithm == "hs256":
            pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            return self.has("alg-hmac") and hmac.digest(pem, text, "sha256") == signature
        if self.has("zero-signature") and (not signature or signature == bytes(64)):
            return True
        public = from_jwk({name: header["jwk"][name] for name in ("kty", "crv", "x", "y")}) \
            if self.has("header-key") and "jwk" in header else self.key.public_key()  # fmt: skip
        if len(signature) != 64:
            return False
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        try:
            public.verify(encode_dss_signature(r, s), text, ec.ECDSA(hashes.SHA256()))  # type: ignore[union-attr,call-arg,arg-type]
        except (InvalidSignature, ValueError):
            return False
        return True

    # -- /resource -------------------------------------------------------------------------------------------------

    def holder(self, ask: Ask) -> dict[str, Any]:
        session = self.sessions.get(ask.cookie)
        live = session is not None and (self.now() < session["ends"] or self.has("expired-session"))
        if live and session is not None:
            if session["claims"] is not None:
                return dict(session["claims"])
            self.demand("half-session", ask.bearer is not None, 401, "TokenNotFound")
            if ask.bearer is None:
                return self.last or {}
        if ask.bearer is not None and not (self.has("cookie-only") and ask.cookie):
            self.demand("ok", not self.has("bearer-refused"), 401, "TokenVerifierError")
            if self.has("admin-reads") and ask.bearer == ADMIN_TOKEN:
                return self.last or {}
            return self.verify(ask.bearer)
        self.demand("open" if not ask.cookie else "made-up-cookie", False, 401, "TokenNotFound")
        return self.last or {}

    def resource(self, ask: Ask, path: str) -> Reply:
        if ask.method != "GET":
            return self.change(ask, path)
        claims = self.holder(ask)
        plain = path.split("/")
        good = len(plain) == 3 and all(part and part[0] != "." and part.replace("-", "").replace("_", "").isalnum()
                                       for part in plain)  # fmt: skip
        self.demand("any-path", good, 400, "InvalidRequestPath")
        if self.policy is not None and not self.has("policy-ignored"):
            allowed = "allow if" in self.policy and (self.has("policy-loose") or f'"{plain[-1]}"' in self.policy)
            self.demand("denied", allowed, 403, "PolicyDeny")
        value = self.resources.get(path)
        self.demand("any-path", value is not None, 404, "PluginInternalError")
        if value is None:
            value = next(iter(self.resources.values()), b"")
        return self.released(claims, value)

    def released(self, claims: dict[str, Any], value: bytes) -> Reply:
        try:
            jwk = claims["submods"]["cpu0"][EVIDENCE]["runtime_data_claims"]["tee-pubkey"]
            kind = jwk.get("crv", "RSA")
            self.demand("ok", not self.has(f"no-{kind}"), 403, "JweError")
            value = b"other" if self.has("other-value") else value
            if self.has("header-order") and kind != "RSA":
                return Reply(200, odd_seal(from_jwk(jwk), value))
            message = encrypt_to(from_jwk(jwk), value, algorithm=jwk["alg"])
        except (KeyError, KokonError) as error:
            self.demand("bad-key-release", False, 403, "JweError")
            del error
            message = {}
        if self.has("same-jwe"):
            message = self.fixed.setdefault(json.dumps(claims.get("jti")), message)
        if self.has("wrapped-short"):
            message["encrypted_key"] = b64url(bytes(32))
        if self.has("extra-aad"):
            message["aad"] = ""
        return Reply(200, message, "text/plain" if self.has("resource-type") else "application/json")

    # -- administrators --------------------------------------------------------------------------------------------

    def admin(self, ask: Ask) -> None:
        good = ask.bearer is not None and hmac.compare_digest(ask.bearer, ADMIN_TOKEN)
        if self.has("admin-any-token") and ask.headers.get("authorization"):
            good = True
        if self.has("admin-guest") and ask.bearer is not None and ask.bearer.count(".") == 2:
            good = True
        self.demand("admin-open", good, 401, "AdminAuthAccess")

    def change(self, ask: Ask, path: str) -> Reply:
        self.admin(ask)
        self.demand(
            "any-written", path.count("/") == 2 and "%" not in path and "/." not in path, 400, "InvalidRequestPath"
        )
        if ask.method == "DELETE":
            self.demand("ok", not self.has("no-delete"), 403, "AdminAuthAccess")
            self.demand("delete-silent", path in self.resources, 404, "PluginInternalError")
            if not self.has("delete-lost"):
                self.resources.pop(path, None)
            return Reply()
        self.demand("large-written", len(ask.body) <= LIMIT, 413, "SerdeError")
        if not (self.has("write-once") and path in self.resources):
            self.resources[path] = ask.body
        return Reply(200, {"version": 1})

    def policies(self, ask: Ask, path: str) -> Reply:
        self.demand("ok", not self.has("no-policies"), 404, "PluginNotFound")
        if self.has("body-first") and ask.method == "POST":
            self.policy_text(ask, path)
        self.admin(ask)
        if ask.method == "GET":
            if path == "/resource-policy":
                return Reply(200, {"odd": 1} if self.has("policy-object") else ["resource-policy"])
            name = path.rpartition("/")[2]
            self.demand("reference-missing", name in self.references, 404, "RvpsError")
            return Reply(200, ["other"] if self.has("reference-other") else self.references.get(name))
        text = self.policy_text(ask, path)
        if path == "/resource-policy":
            self.policy = text
        self.demand("ok", not (self.has("no-attestation-policy") and path == "/attestation-policy"), 400)
        return Reply()

    def policy_text(self, ask: Ask, path: str) -> str:
        try:
            value = json.loads(ask.body)
            if path == "/reference-value":
                found = json.loads(base64.b64decode(value["payload"], validate=True))
                self.references |= found
                return ""
            text = unb64url(value["policy"], what="policy").decode()
        except (ValueError, KeyError, KokonError) as error:
            self.demand(
                "reference-broken" if path == "/reference-value" else "policy-malformed", False, 400, "SerdeError"
            )
            del error
            return ""
        self.demand("policy-broken", "{{{" not in text, 400, "ParsePolicyError")
        return text


def odd_seal(key: Any, value: bytes) -> dict[str, str]:
    """Good JOSE, but for a header whose members stand in another order."""
    ephemeral, content, iv = ec.generate_private_key(key.curve), os.urandom(32), os.urandom(12)
    name = b"ECDH-ES+A256KW"
    other = len(name).to_bytes(4, "big") + name + bytes(8) + (256).to_bytes(4, "big")
    wrapping = hashlib.sha256(b"\0\0\0\1" + ephemeral.exchange(ec.ECDH(), key) + other).digest()
    epk = {name: value for name, value in public_jwk(ephemeral).items() if name != "alg"}
    header = {"enc": "A256GCM", "alg": name.decode(), "epk": epk}
    protected = b64url(json.dumps(header, separators=(",", ":")).encode())
    sealed = AESGCM(content).encrypt(iv, value, protected.encode())
    return {
        "protected": protected,
        "encrypted_key": b64url(aes_key_wrap(wrapping, content)),
        "iv": b64url(iv),
        "ciphertext": b64url(sealed[:-16]),
        "tag": b64url(sealed[-16:]),
    }


# -- the server ------------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        broker: Broker = self.server.broker  # type: ignore[attr-defined]
        body = self._chunks() if "transfer-encoding" in self.headers else self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = broker.answer(Ask(self.command, self.path.partition("?")[0], headers, body))
        data = reply.encode()
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Type": reply.kind, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if broker.has("dribble"):
            self.wfile.write(data[:1])
            broker.released_gate.wait(30)  # type: ignore[attr-defined]
            return
        self.wfile.write(data)

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def log_message(self, *_: object) -> None:
        return None


class Host:
    """One listening server, whose broker a test exchanges."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def serve(self, broker: Broker) -> Broker:
        self.server.broker = broker  # type: ignore[attr-defined]
        return broker


@contextlib.contextmanager
def hosting() -> Iterator[Host]:
    host = Host()
    thread = threading.Thread(target=host.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield host
    finally:
        host.server.shutdown()
        host.server.server_close()
        thread.join(10)
