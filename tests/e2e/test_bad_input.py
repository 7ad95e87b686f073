"""Bad input, without a guest: each command says what is wrong, by a code and a hint, and leaves nothing half-done."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.cli.seal import reference_values
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry
from kokon.image.seal import Claims, seal
from kokon.image.sign import load_private_key
from kokon.image.source import open_source
from kokon.jose.jwe import public_jwk
from kokon.provisioning.access.bearer import make_token
from kokon.tee.evidence import Evidence
from kokon.tee.snp.envelope import to_envelope
from support.registry import LocalRegistry
from support.world import World, free_port, run_tool

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def document(world: World) -> Path:
    """A launch document that is good."""
    return world.admit("good")


def admit(world: World, image: str, *options: object, author: str = "author.key.pub") -> tuple[object, ...]:
    return ("admit", image, "--author", author, "--name", "bad", "--port", 8080, "-o", "bad.toml", *options)


def assert_not_admitted(world: World) -> None:
    """No launch document was written and the server knows no such workload."""
    assert not (world.work / "bad.toml").exists()
    admitted = [entry for entry in world.owner.entries() if entry["event"] == "workload-admitted"]
    assert "bad" not in [entry["workload"] for entry in admitted]


@pytest.mark.parametrize(
    ("source", "code", "status"),
    [
        ("oci:nowhere", "image-unreadable", 2),
        ("oci-archive:nowhere.tar", "image-unreadable", 2),
        ("docker-archive:noise", "image-unreadable", 2),
        ("oci-archive:noise", "image-unreadable", 2),
        ("docker://{registry}/nothing:1", "source-not-found", 2),
        ("docker://127.0.0.1:{closed}/nothing:1", "registry-unreachable", 7),
    ],
)
def test_an_image_that_cannot_be_read_is_not_sealed(world: World, source: str, code: str, status: int) -> None:
    (world.work / "noise").write_bytes(os.urandom(5000))
    source = source.format(registry=world.registry.host, closed=free_port())
    words = ("seal", source, f"{world.registry.host}/unread:1", "--key", "author.key", "--owner", world.owner_key)
    world.refused(code, status, *words)
    world.refused("image-not-found", 7, "inspect", f"{world.registry.host}/unread:1")


def test_a_key_that_is_none_seals_nothing(world: World) -> None:
    (world.work / "no.key").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (world.work / "no.key").chmod(0o600)
    destination = f"{world.registry.host}/unsealed:1"
    world.refused(
        "key-malformed", 3, "seal", "oci:image", destination, "--key", "no.key", "--owner", world.owner_key, hint=False
    )
    world.refused("image-not-found", 7, "inspect", destination)


def test_an_image_without_signature_is_not_admitted(world: World) -> None:
    plain = f"{world.registry.host}/plain:1"
    run_tool("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{world.work / 'image'}", f"docker://{plain}")
    world.refused("image-unsigned", 4, *admit(world, plain))
    assert_not_admitted(world)


def test_an_image_of_an_unknown_author_is_not_admitted(world: World) -> None:
    if not (world.work / "somebody.key").exists():
        world.ask("keygen", "somebody.key")
    world.refused("image-author-unknown", 4, *admit(world, world.image, author="somebody.key.pub"))
    assert_not_admitted(world)


def test_an_image_sealed_for_another_owner_is_not_admitted(world: World) -> None:
    other = public_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())
    (world.work / "other.jwk").write_text(json.dumps(other))
    destination = f"{world.registry.host}/for-another:1"
    world.ask("seal", "oci:image", f"docker://{destination}", "--key", "author.key", "--owner", "other.jwk")
    world.refused("kek-not-opened", 4, *admit(world, destination))
    assert_not_admitted(world)


def test_an_expired_reference_value_is_not_admitted(world: World) -> None:
    destination = parse_reference(f"{world.registry.host}/expired:1")
    guest, values = reference_values(world.guest.directory)
    now = datetime.now(UTC)
    claims = Claims(now - timedelta(days=9), now - timedelta(days=2), guest=guest, reference=values)
    owner = json.loads(Path(world.owner_key).read_text())
    with open_source(f"oci:{world.work / 'image'}") as source, Registry(destination.registry) as registry:
        seal(source, registry, destination, load_private_key(world.work / "author.key"), owner, claims)
    world.refused("statement-expired", 6, *admit(world, str(destination)))
    assert_not_admitted(world)


def test_a_launch_may_not_change_what_the_author_fixed(world: World) -> None:
    strict = f"{world.registry.host}/strict:1"
    world.ask("seal", "oci:image", strict, "--key", "author.key", "--owner", world.owner_key)
    error = world.refused("args-not-allowed", 5, *admit(world, strict, "--arg=/bin/sh"))
    assert "--vary-args" in error["hint"]
    world.refused("env-not-allowed", 5, *admit(world, strict, "--env", "CLINIC_JOURNAL=/tmp/open.db"))
    world.refused("secret-variable-not-allowed", 5, *admit(world, strict, "--secret", "x,env=LD_PRELOAD"))
    assert_not_admitted(world)


def test_an_image_that_is_not_there_is_not_admitted(world: World) -> None:
    world.refused("image-not-found", 7, *admit(world, f"{world.registry.host}/clinic:2"))
    world.refused("registry-unreachable", 7, *admit(world, f"127.0.0.1:{free_port()}/clinic:1"))
    assert_not_admitted(world)


def test_a_server_that_does_not_answer(world: World) -> None:
    admin = json.loads((world.home / "provision" / "admin.json").read_text())
    nobody = world.work / "nobody.json"
    nobody.write_text(json.dumps(admin | {"url": f"https://127.0.0.1:{free_port()}"}))
    for words in (("secret", "list"), ("log",), admit(world, world.image)):
        world.refused("provisioning-unreachable", 7, *words, "--admin", nobody)
    nobody.write_text(json.dumps(admin | {"token": make_token(os.urandom(40)).text}))
    world.refused("principal-unknown", 4, "secret", "list", "--admin", nobody)
    assert_not_admitted(world)


def report() -> dict[str, Any]:
    """An envelope that is well-formed; what it says is signed by nobody."""
    envelope = to_envelope(Evidence("snp", b"\2" + bytes(1183), ()))
    assert isinstance(envelope, dict)
    return envelope


def damaged(kind: str) -> object:
    """Evidence with this damage."""
    envelope = report()
    inner = envelope["attestation_report"]
    if kind == "cut":
        return json.dumps(envelope)[:700]
    if kind == "field missing":
        del inner["measurement"]
    elif kind == "field short":
        inner["measurement"] = inner["measurement"][:-1]
    elif kind == "field long":
        inner["measurement"] += [0]
    elif kind == "field unknown":
        inner["surprise"] = 1
    elif kind == "many certificates":
        envelope["cert_chain"] = [{"cert_type": "VCEK", "data": [48] * 20}] * 100
    return envelope


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("cut", "field-type"),
        ("field missing", "field-missing"),
        ("field short", "bytes-malformed"),
        ("field long", "bytes-malformed"),
        ("field unknown", "field-unknown"),
        ("many certificates", "field-too-long"),
        ("unsigned", "report-data-mismatch"),
    ],
)
def test_damaged_evidence_releases_nothing(world: World, kind: str, code: str) -> None:
    answer = attest(world, damaged(kind))
    status = 403 if kind == "unsigned" else 400
    assert (answer.status_code, answer.json()["detail"].partition(":")[0]) == (status, code), answer.text
    entry = world.owner.entries()[-1]
    assert (entry["event"], entry["code"]) == ("attestation-denied", code)


def test_overlong_evidence_is_not_even_read(world: World) -> None:
    answer = attest(world, {"attestation_report": "A" * (8 << 20)})
    assert answer.status_code == 413, answer.text
    assert world.owner.entries()


def attest(world: World, evidence: object) -> httpx2.Response:
    """What the server answers to this evidence."""
    url, certificate = world.owner.ready["url"], world.owner.ready["certificate"]
    context = ssl.create_default_context(cafile=certificate)
    with httpx2.Client(base_url=url, verify=context, timeout=30) as client:
        asked: dict[str, Any] = {"version": "0.4.0", "tee": "snp", "extra-params": {}}
        nonce = client.post("/kbs/v0/auth", json=asked).raise_for_status().json()["nonce"]
        key = public_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())
        message = {
            "init-data": None,
            "runtime-data": {"nonce": nonce, "tee-pubkey": key},
            "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
        }
        return client.post("/kbs/v0/attest", json=message)


def test_a_launch_document_that_is_none(world: World, document: Path) -> None:
    world.refused("launch-document-unreadable", 2, "run", "nowhere.toml")
    (world.work / "torn.toml").write_bytes(document.read_bytes()[:-40])
    world.refused("document-malformed", 3, "run", "torn.toml", "--name", "torn", hint=False)
    (world.work / "long.toml").write_bytes(document.read_bytes() + b"#" * (300 << 10))
    assert world.kokon("run", "long.toml", "--name", "long").status == 3
    assert not list(world.home.glob("containers/[a-z]*"))


def test_qemu_is_missing(world: World, document: Path) -> None:
    error = world.refused("qemu-missing", 8, "run", document, env={"PATH": str(world.work)})
    assert "apt-get install qemu-system-x86" in error["hint"]
    world.assert_no_trace("good")


def test_the_guest_image_is_missing(world: World, document: Path) -> None:
    error = world.refused("guest-image-missing", 8, "run", document, "--guest", "nowhere")
    assert "kokon guest build" in error["hint"]
    world.assert_no_trace("good")


def test_the_port_is_taken(world: World, document: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        error = world.refused("port-taken", 8, "run", document, "--publish", f"127.0.0.1:{taken}")
        assert "--publish" in error["hint"]
        world.assert_no_trace("good")
        world.refused("port-taken", 8, "provision", "serve", "--state", "second", "--listen", f"127.0.0.1:{taken}")


def test_a_volume_that_the_document_needs(world: World) -> None:
    document = world.admit("needs-volume", "--volume", "data=/data")
    error = world.refused("volume-missing", 2, "run", document)
    assert "--volume data=FILE" in error["hint"]
    world.assert_no_trace("needs-volume")


def test_a_server_that_was_killed_has_lost_nothing(world: World) -> None:
    """What it acknowledged before `kill -9` is there after its next start, and the log's chain still holds."""
    world.ask("secret", "put", "clinic/kept", given=b"kept")
    before = world.owner.entries()
    world.owner.stop(kill=True)
    world.refused("provisioning-unreachable", 7, "secret", "list")
    world.owner.start()
    assert world.owner.entries()[: len(before)] == before
    assert "clinic/secret/kept" in [one["path"] for one in world.ask("secret", "list")["secrets"]]


def test_two_servers_do_not_share_a_state(world: World) -> None:
    world.refused("state-in-use", 8, "provision", "serve", "--listen", "127.0.0.1:0")


def test_a_registry_that_lies_is_not_believed(world: World, tmp_path: Path) -> None:
    """`kokon inspect` at a registry whose storage was changed."""
    shutil.copytree(world.registry.directory, tmp_path / "copy")
    with LocalRegistry(tmp_path / "copy") as liar:
        path = liar.blob_path(world.digest)
        path.write_bytes(path.read_bytes().replace(b"application/vnd", b"Application/vnd", 1))
        reference = f"{liar.host}/clinic@{world.digest}"
        done = world.kokon("inspect", reference, "--json")
        assert done.status in (4, 7), done
