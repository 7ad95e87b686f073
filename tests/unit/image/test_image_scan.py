"""Secrets in images: each kind is found at its place, nothing of it is shown, and what is no secret is left alone."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
import string
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, pkcs12

from kokon.errors import DeniedError, UsageError
from kokon.image.scan.refuse import parse_allowed, refuse_secrets
from kokon.image.scan.rules import REACH, RULES
from kokon.image.scan.scan import FINDINGS_LIMIT, WINDOW, Finding, scan_config, scan_file, scan_image
from kokon.image.scan.words import is_placeholder, names_secret
from kokon.image.source import open_source
from support.images import make_tar, write_layout

CLEAR = serialization.NoEncryption()
SECRET = serialization.BestAvailableEncryption(b"sesame")
CURVE = ec.generate_private_key(ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()
OPENSSH_ENCRYPTED = (
    b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
    + base64.encodebytes(b"openssh-key-v1\0\0\0\0\naes256-ctr\0\0\0\6bcrypt" + bytes(150))
    + b"-----END OPENSSH PRIVATE KEY-----\n"
)
"""The head of what `ssh-keygen -N sesame` writes (PROTOCOL.key)."""


def noise(letters: str, count: int) -> str:
    return "".join(random.Random(count).choices(letters, k=count))


WORD = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + "234567"


def pem(kind: PrivateFormat, how: serialization.KeySerializationEncryption = CLEAR) -> bytes:
    return CURVE.private_bytes(Encoding.PEM, kind, how)


def found(name: str, data: bytes, piece: int = 65536) -> list[Finding]:
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
    return list(scan_file(3, name, pieces))


JWT = ".".join(
    base64.urlsafe_b64encode(part).rstrip(b"=").decode()
    for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"clinic","n":12345}', noise(WORD, 32).encode())
)
SAMPLES: dict[str, tuple[str, str, str]] = {
    "aws id": ("aws-access-key", "app/x.py", "KEY = 'AKIA" + noise(UPPER, 16) + "'"),
    "aws secret": ("aws-secret-key", ".aws/credentials", "aws_secret_access_key = " + noise(WORD + "/+", 40)),
    "google": ("gcp-api-key", "app/index.js", "key:'AIza" + noise(WORD, 35) + "'"),
    "azure": ("azure-key", "app/web.config", "AccountName=a;AccountKey=" + noise(WORD, 86) + "==;"),
    "sas": ("azure-sas", "run.sh", "https://a/b?sv=2022-11-02&sp=r&sig=" + noise(WORD, 43) + "%3D"),
    "github": ("github-token", "x", "ghp_" + noise(WORD, 36)),
    "github fine": ("github-token", "x", "github_pat_" + noise(WORD, 82)),
    "gitlab": ("gitlab-token", "x", "glpat-" + noise(WORD, 20)),
    "npm": ("npm-token", "x", "npm_" + noise(WORD, 36)),
    "npmrc": ("npm-token", "root/.npmrc", "//r.example/:_authToken=" + noise(WORD, 40)),
    "pypi": ("pypi-token", "x", "pypi-AgE" + noise(WORD, 90)),
    "slack": ("slack-token", "x", "xoxb-1" + noise(WORD, 40)),
    "slack hook": ("slack-token", "x", "hooks.slack.com/services/T0123ABCD/B0123ABCD/" + noise(WORD, 24)),
    "stripe": ("stripe-key", "x", "sk_" + "live_" + noise(WORD, 24)),
    "vault": ("vault-token", "root/.vault-token", "hvs." + noise(WORD, 90)),
    "docker hub": ("docker-token", "x", "dckr_pat_" + noise(WORD, 27)),
    "api": ("api-token", "x", "sk-ant-" + noise(WORD, 90)),
    "digital ocean": ("api-token", "x", "dop_v1_" + noise("0123456789abcdef", 64)),
    "sendgrid": ("api-token", "x", "SG." + noise(WORD, 22) + "." + noise(WORD, 43)),
    "jwt": ("jwt", "x", "Bearer " + JWT),
    "docker login": (
        "docker-login",
        "root/.docker/config.json",
        json.dumps({"auths": {"r.example": {"auth": base64.b64encode(b"ada:swordfish").decode()}}}),
    ),
    "kubeconfig": ("kubeconfig", "etc/k", "client-key-data: " + base64.b64encode(noise(WORD, 90).encode()).decode()),
    "kube token": ("kubeconfig", "root/.kube/config", "users:\n- user:\n    token: " + noise(WORD, 30)),
    "netrc": ("netrc", "root/.netrc", "machine h login ada password swordfish"),
    "pgpass": ("pgpass", "root/.pgpass", "db:5432:*:ada:swordfish"),
    "git": ("git-credentials", "root/.git-credentials", "https://ada:swordfish@git.example"),
    "git remote": ("git-credentials", "src/.git/config", "url = https://ada:swordfish@git.example/x"),
    "pypirc": ("login-file", "root/.pypirc", "[pypi]\npassword = swordfish"),
    "shadow": ("password-hash", "etc/shadow", "root:$6$" + noise(WORD, 90) + ":19000:0:::::"),
    "env file": ("password", "app/.env", "DEBUG=1\nDB_PASSWORD=swordfish\n"),
    "age": ("age-key", "x", "AGE-SECRET-KEY-1" + noise("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58)),
    "putty": ("putty-key", "x.ppk", "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: x"),
    "jwk": ("jwk-private", "k.jwk", '{"d":"' + noise(WORD, 43) + '","crv":"P-256","kty":"EC","x":"aa"}'),
    "jwk oct": ("jwk-private", "k.jwk", '{"kty":"oct","k":"' + noise(WORD, 43) + '"}'),
    "gcp": (
        "gcp-service-account",
        "sa.json",
        json.dumps({"type": "service_account", "private_key": pem(PrivateFormat.PKCS8).decode()}),
    ),
}


def str_of_kind(value: object) -> str:
    """A test's name: the same in each process, whatever keys were made in it."""
    return value if isinstance(value, str) else "data"


@pytest.mark.parametrize("sample", SAMPLES)
def test_each_kind_of_token_is_found_and_not_shown(sample: str) -> None:
    rule, path, text = SAMPLES[sample]
    findings = found(path, b"first line\n" + text.encode() + b"\n")
    assert rule in {finding.rule for finding in findings}
    one = next(finding for finding in findings if finding.rule == rule)
    assert (one.layer, one.path) == (3, "/" + path)
    assert one.line is not None
    assert one.line >= 2
    for finding in findings:
        shown = str(finding) + json.dumps(finding.as_dict())
        assert "swordfish" not in shown
        name, _, value = finding.excerpt.rpartition("=")
        if not finding.excerpt.startswith(("-----BEGIN", "PuTTY-")):
            assert re.fullmatch(r"\[\d+ bytes not shown\]", value)
            assert name in ("", "AccountKey", "aws_secret_access_key", "_authToken", "DB_PASSWORD", "password", "token")


def test_every_rule_is_named_by_a_test() -> None:
    keys = {"private-key", "private-key-encrypted", "private-key-base64", "private-key-der", "key-store"}
    assert {rule.name for rule in RULES} == {rule for rule, _, _ in SAMPLES.values()} - {"password"} | keys | {
        "java-key-store"
    }


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        ("private-key", pem(PrivateFormat.PKCS8)),
        ("private-key", pem(PrivateFormat.TraditionalOpenSSL)),
        ("private-key", rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, CLEAR)),
        ("private-key", EDWARDS.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, CLEAR)),
        ("private-key", pem(PrivateFormat.PKCS8).replace(b"\n", b"\r\n")),
        ("private-key", json.dumps({"key": pem(PrivateFormat.PKCS8).decode()}).encode()),
        ("private-key-encrypted", pem(PrivateFormat.PKCS8, SECRET)),
        ("private-key-encrypted", pem(PrivateFormat.TraditionalOpenSSL, SECRET)),
        ("private-key-encrypted", OPENSSH_ENCRYPTED),
        ("private-key-base64", base64.b64encode(pem(PrivateFormat.PKCS8))),
        ("private-key-der", CURVE.private_bytes(Encoding.DER, PrivateFormat.PKCS8, CLEAR)),
        ("private-key-der", CURVE.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, CLEAR)),
        ("private-key-der", EDWARDS.private_bytes(Encoding.DER, PrivateFormat.PKCS8, CLEAR)),
        ("key-store", pkcs12.serialize_key_and_certificates(b"k", CURVE, None, None, SECRET)),
    ],
    ids=str_of_kind,
)
def test_private_keys_in_all_their_clothes(rule: str, data: bytes) -> None:
    assert [finding.rule for finding in found("app/k", data)] == [rule]


def java_store(tag: int) -> bytes:
    entry = tag.to_bytes(4, "big") + b"\0\1a" + bytes(8) + b"\0\5X.509" + (3).to_bytes(4, "big") + b"abc"
    second = (1).to_bytes(4, "big") + b"\0\1b" + bytes(8)
    return b"\xfe\xed\xfe\xed\0\0\0\2" + (2).to_bytes(4, "big") + entry + second


def test_java_key_stores_are_told_from_those_of_authorities() -> None:
    with_key, without = java_store(2), java_store(2)[:8] + (1).to_bytes(4, "big") + java_store(2)[12:]
    assert [finding.rule for finding in found("k.jks", with_key)] == ["java-key-store"]
    assert found("cacerts", without) == []


@pytest.mark.parametrize(
    "data",
    [
        b"-----BEGIN PRIVATE KEY-----\nheader only: a program that reads keys",
        CURVE.public_key().public_bytes(Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        CURVE.public_key().public_bytes(Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        b"ghp_" + b"x" * 36,
        b"AKIAIOSFODNN7EXAMPLE",
        b'{"kty":"EC","crv":"P-256","x":"' + noise(WORD, 43).encode() + b'"}',
        b'{"auths":{}}',
        b"eyJhbGciOiJub25l.eyJ",
        b"password = swordfish in a file of no known name",
    ],
    ids=str_of_kind,
)
def test_what_is_no_secret_is_left_alone(data: bytes) -> None:
    assert found("app/x", data) == []


@pytest.mark.parametrize("piece", [1000, 65536, 3 * WINDOW])
def test_secrets_across_windows_are_found_once_with_their_lines(piece: int) -> None:
    key = pem(PrivateFormat.PKCS8)
    token = b"glpat-" + noise(WORD, 20).encode()
    fill = b"some text\n"
    where = [0, WINDOW - 20, WINDOW, WINDOW + REACH - 40, WINDOW + REACH, WINDOW + 2 * REACH - 7, 2 * WINDOW + 5]
    data, lines = b"", []
    for place in where:
        data += fill * ((place - len(data)) // len(fill) + 1) if place > len(data) else b""
        lines.append(data.count(b"\n") + 1)
        data += token + b"\n"
    data += key
    seen = found("big", data, piece)
    assert [finding.line for finding in seen if finding.rule == "gitlab-token"] == lines
    assert [finding.line for finding in seen if finding.rule == "private-key"] == [
        data.count(b"\n") - key.count(b"\n") + 1
    ]


def test_a_binary_file_is_searched_too() -> None:
    (finding,) = found("bin/app", b"\x7fELF\0\0" + b"glpat-" + noise(WORD, 20).encode() + b"\0")
    assert (finding.rule, finding.line) == ("gitlab-token", None)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("DB_PASSWORD", True),
        ("PGPASSWORD", True),
        ("apiKey", True),
        ("STRIPE_API_KEY", True),
        ("dbPassword2", True),
        ("AUTH_TOKEN", True),
        ("DB_PASSWORD_FILE", False),
        ("GPG_KEY", False),
        ("PWD", False),
        ("MAX_TOKENS", False),
        ("TOKEN_TTL", False),
        ("COMPASS", False),
        ("KEYBOARD", False),
        ("PATH", False),
    ],
)
def test_names_of_secrets(name: str, secret: bool) -> None:
    assert names_secret(name) is secret


@pytest.mark.parametrize("value", ["", "changeme", "<password>", "${DB}", "/run/secrets/db", "kbs:///a/b/c", "xxxx"])
def test_placeholders(value: str) -> None:
    assert is_placeholder(value)


def config_of(run: dict[str, Any], steps: list[str] | None = None) -> bytes:
    return json.dumps({"config": run, "history": [{"created_by": step} for step in steps or []]}).encode()


def test_the_configuration_is_searched() -> None:
    run = {
        "Env": ["PATH=/bin", "DB_PASSWORD=swordfish", "DATABASE=postgres://ada:swordfish@db/x", "GPG_KEY=A035C8C1"],
        "Labels": {"org.token": "swordfish", "maintainer": "Ada"},
        "Entrypoint": ["/bin/app", "--password", "swordfish"],
        "Cmd": ["--db-password=swordfish"],
    }
    steps = [
        "RUN |1 API_TOKEN=swordfish /bin/sh -c make",
        "ENV SECRET_KEY swordfish",
        "RUN echo glpat-" + noise(WORD, 20),
        "RUN export PASSWORD=$(cat /run/secrets/x) && make",
    ]
    findings = list(scan_config(config_of(run, steps)))
    assert [finding.name for finding in findings] == [
        "password:env/DB_PASSWORD",
        "password-in-url:env/DATABASE",
        "password:label/org.token",
        "password:entrypoint",
        "password:command",
        "password:history/0",
        "password:history/1",
        "gitlab-token:history/2",
    ]
    assert all(finding.layer is None and "swordfish" not in str(finding) for finding in findings)
    assert str(findings[0]) == "password: configuration, env/DB_PASSWORD: DB_PASSWORD=[9 bytes not shown]"


def test_a_configuration_of_odd_shape_is_no_reason_to_fail() -> None:
    assert list(scan_config(b'{"config":null,"history":[null,3]}')) == []


def test_what_a_later_layer_removes_is_found_and_manuals_are_not(tmp_path: Path) -> None:
    key = pem(PrivateFormat.PKCS8)
    lower = make_tar(
        [
            ("app/key.pem", key),
            ("usr/share/doc/openssl/key.pem", key),
            ("usr/lib/python3/x.dist-info/METADATA", key),
        ]
    )
    upper = make_tar([("app/.wh.key.pem", b""), ("app/run", b"#!/bin/sh")])
    write_layout(tmp_path / "layout", [lower, upper])
    seen: list[tuple[int, int | None]] = []
    with open_source(f"oci:{tmp_path / 'layout'}") as source:
        findings = scan_image(source, lambda done, total: seen.append((done, total)))
    assert [str(finding) for finding in findings] == [
        "private-key: layer 0, /app/key.pem:1: -----BEGIN PRIVATE KEY-----"
    ]
    assert seen[-1][0] == seen[-1][1]


def test_a_scan_ends_after_many_findings(tmp_path: Path) -> None:
    tokens = b"\n".join(b"glpat-" + noise(WORD, 20 + n % 40).encode() for n in range(2 * FINDINGS_LIMIT))
    write_layout(tmp_path / "layout", [make_tar([("x", tokens)])])
    with open_source(f"oci:{tmp_path / 'layout'}") as source:
        assert len(scan_image(source)) == FINDINGS_LIMIT


def test_refusal_names_file_and_line_unless_allowed() -> None:
    findings = [
        Finding("private-key", 0, "/app/key.pem", 7, "x"),
        Finding("password", None, "env/DB_PASSWORD", None, "x"),
    ]
    with pytest.raises(DeniedError) as caught:
        refuse_secrets(findings, frozenset())
    assert caught.value.code == "image-has-secrets"
    assert caught.value.found == "private-key in /app/key.pem:7 (layer 0); password in env/DB_PASSWORD"
    assert "--move-secret DB_PASSWORD=" in (caught.value.hint or "")
    with pytest.raises(DeniedError, match="image-has-secrets"):
        refuse_secrets(findings, parse_allowed(["private-key:/app/key.pem"]))
    refuse_secrets(findings, parse_allowed(["private-key:/app/key.pem", "password:env/DB_PASSWORD"]))


@pytest.mark.parametrize("text", ["private-key", "private-key:", "anything:/app/key.pem", "*:/app"])
def test_an_allowance_names_a_rule_and_a_path(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_allowed([text])
    assert caught.value.code == "secret-allow-malformed"


def test_debians_python_has_no_findings() -> None:
    """The standard library that runs this test: thousands of files that talk about keys and tokens."""
    root = Path(json.__file__).parents[1]
    files = [path for path in root.rglob("*.py") if "site-packages" not in path.parts and "test" not in path.parts]
    assert len(files) > 400
    assert [finding for path in files for finding in found(str(path.relative_to(root)), path.read_bytes())] == []


def test_gzip_is_only_a_wrapping(tmp_path: Path) -> None:
    """A key in a compressed file inside of a layer is not looked for: said here so that nobody believes otherwise."""
    assert found("app/key.pem.gz", gzip.compress(pem(PrivateFormat.PKCS8))) == []


def test_the_public_keys_of_a_librarys_self_tests_are_known() -> None:
    data = b"\x7fELF\0" + pem(PrivateFormat.PKCS8)
    assert found("usr/lib/x86_64-linux-gnu/libgnutls.so.30.34.3", data) == []
    assert [finding.rule for finding in found("app/libgnutls.so.30", data)] == ["private-key"]
    token = b"glpat-" + noise(WORD, 20).encode()
    assert [finding.rule for finding in found("usr/lib/libgnutls.so.30", data + token)] == ["gitlab-token"]
