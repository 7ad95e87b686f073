"""The key broker client against a real TLS server."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent_broker import Broker, Running, refusal, serve
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import DeniedError, KokonError, MalformedError, UnreachableError, UntrustedError
from kokon.guest.agent.kbs import (
    ANSWER_LIMIT,
    Answer,
    Connection,
    KeyBroker,
    parse_challenge,
    parse_refusal,
    parse_token,
    report_data,
    resource_path,
    session_lost,
)
from kokon.jose.jwe import public_jwk
from kokon.launch.document import Provisioning
from kokon.tee.evidence import Evidence
from kokon.tee.snp.report import Report, encode_report

BLANK = Report(
    version=3,
    guest_svn=0,
    policy=0x30000,
    family_id=bytes(16),
    image_id=bytes(16),
    vmpl=0,
    signature_algorithm=1,
    current_tcb=bytes(8),
    platform_info=0,
    key_info=0,
    report_data=bytes(64),
    measurement=bytes(48),
    host_data=bytes(32),
    id_key_digest=bytes(48),
    author_key_digest=bytes(48),
    report_id=bytes(32),
    report_id_ma=bytes(32),
    reported_tcb=bytes(8),
    cpuid=(0x19, 1, 1),
    chip_id=bytes(64),
    committed_tcb=bytes(8),
    current_version=(0, 0, 1),
    committed_version=(0, 0, 1),
    launch_tcb=bytes(8),
    launch_mitigations=0,
    current_mitigations=0,
    signature=bytes(144),
)
URI = "kbs:///clinic/secret/db"


def evidence(data: bytes) -> Evidence:
    return Evidence("snp", encode_report(replace(BLANK, report_data=data)))


@pytest.fixture
def broker() -> Broker:
    return Broker(resources={"clinic/secret/db": b"hunter2"})


@pytest.fixture
def running(broker: Broker, tmp_path: Path) -> Iterator[Running]:
    with serve(broker, tmp_path) as server:
        yield server


def client(server: Running, **changes: object) -> KeyBroker:
    provisioning = Provisioning(
        str(changes.pop("url", server.url)), str(changes.pop("certificate", server.certificate))
    )
    connection = Connection(provisioning, lambda host, port: (host, port), timeout=5.0)
    options: dict[str, object] = {"attempts": 2, "pause": 0.01, **changes}
    return KeyBroker(connection, evidence, "the document", **options)  # type: ignore[arg-type]


def test_report_data_is_that_of_the_protocol() -> None:
    """The vector of the fact sheet: private scalar 0102..20."""
    key = ec.derive_private_key(int.from_bytes(bytes(range(1, 33)), "big"), ec.SECP256R1())
    data = report_data("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", public_jwk(key))
    assert data.hex() == (
        "c97fc717bffcdca39b3485d4019c1de4133fc9622ba484e947b417b83ffbae1abbf11747fdebdecaaabc5b407be66821" + "00" * 16
    )
    assert len(hashlib.sha384().digest()) + 16 == len(data)


def test_the_whole_way(running: Running) -> None:
    session = client(running)
    assert not session.attested
    assert not session.report("too-early", "x")
    session.attest()
    assert session.attested
    assert session.resource(URI) == b"hunter2"
    assert running.broker.documents == ["the document"]
    assert session.report("image-unsigned", "y" * 600)
    assert running.broker.events == [("Bearer header.payload.signature", {"code": "image-unsigned", "text": "y" * 500})]


def test_a_refusal_ends_it_with_the_servers_code(running: Running) -> None:
    running.broker.script["/kbs/v0/attest"] = [refusal(403, "PolicyDeny", "debug-enabled: id 00ff11")]
    with pytest.raises(DeniedError) as caught:
        client(running).attest()
    assert caught.value.code == "provisioning-denied"
    assert caught.value.found == "debug-enabled"
    assert caught.value.hint == "the owner learns why from: kokon explain 00ff11"
    assert running.broker.seen.count("POST /kbs/v0/attest") == 1


def test_a_refusal_of_confidential_containers_server(running: Running) -> None:
    running.broker.script["/kbs/v0/attest"] = [refusal(401, "AttestationError", "Attestation failed: long story")]
    with pytest.raises(DeniedError) as caught:
        client(running).attest()
    assert caught.value.code == "provisioning-denied"
    assert caught.value.found is None


def test_auth_may_be_refused_too(running: Running) -> None:
    running.broker.script["/kbs/v0/auth"] = [refusal(400, "SerdeError", "version-unsupported: id ab")]
    with pytest.raises(DeniedError) as caught:
        client(running).attest()
    assert caught.value.found == "version-unsupported"


@pytest.mark.parametrize(
    "first",
    [
        None,
        refusal(503, "StorageBackendInitialization", "busy"),
        refusal(401, "AttestationError", "session-unknown: id 1"),
        (401, b"not json"),
    ],
)
def test_what_passes_is_tried_again(running: Running, first: tuple[int, object] | None) -> None:
    running.broker.script["/kbs/v0/attest"] = [first]
    session = client(running)
    session.attest()
    assert session.attested
    assert running.broker.seen.count("POST /kbs/v0/auth") == 2


def test_not_for_ever(running: Running) -> None:
    running.broker.script["/kbs/v0/auth"] = [refusal(500, "X", "y")] * 5
    with pytest.raises(UnreachableError) as caught:
        client(running, attempts=3).attest()
    assert caught.value.code == "provisioning-unreachable"
    assert len(running.broker.seen) == 3
    with pytest.raises(UnreachableError):
        client(running, attempts=0).attest()


def test_nobody_listens(tmp_path: Path) -> None:
    with serve(Broker(), tmp_path) as server:
        pass
    with pytest.raises(UnreachableError) as caught:
        client(server).attest()
    assert caught.value.code == "provisioning-unreachable"


def test_a_lost_session_is_renewed_once(running: Running) -> None:
    session = client(running)
    session.attest()
    running.broker.script["/kbs/v0/resource/clinic/secret/db"] = [
        refusal(401, "AttestationError", "token-expired: id 5")
    ]
    assert session.resource(URI) == b"hunter2"
    assert running.broker.seen.count("POST /kbs/v0/attest") == 2


def test_a_denied_resource(running: Running) -> None:
    session = client(running)
    session.attest()
    running.broker.script["/kbs/v0/resource/clinic/secret/db"] = [
        refusal(403, "PolicyDeny", "resource-not-granted: id 5")
    ]
    with pytest.raises(DeniedError) as caught:
        session.resource(URI)
    assert (caught.value.code, caught.value.found) == ("provisioning-denied", "resource-not-granted")


def test_a_missing_resource(running: Running) -> None:
    session = client(running)
    session.attest()
    with pytest.raises(DeniedError) as caught:
        session.resource("kbs:///clinic/secret/none")
    assert (caught.value.code, caught.value.found) == ("resource-missing", "resource-unknown")


def test_another_server_gets_nothing(running: Running, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with serve(Broker(), tmp_path / "other") as other, pytest.raises(UntrustedError) as caught:
        client(running, url=other.url).attest()
    assert caught.value.code == "provisioning-certificate-mismatch"
    assert other.broker.seen == []


def test_a_certificate_signed_by_the_pinned_one_is_another(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(Provisioning(running.url, running.certificate), lambda host, port: (host, port))
    connection._pinned = b"another"
    with pytest.raises(UntrustedError) as caught:
        connection.request("GET", "/", b"", {})
    assert caught.value.code == "provisioning-certificate-mismatch"


@pytest.mark.parametrize("pem", ["nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_pinned_certificate_must_be_one(pem: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Connection(Provisioning("https://127.0.0.1", pem), lambda host, port: (host, port))
    assert caught.value.code == "provisioning-certificate-malformed"


def test_answers_are_bounded(running: Running) -> None:
    running.broker.script["/kbs/v0/auth"] = [(200, b"x" * (ANSWER_LIMIT + 1))]
    with pytest.raises(MalformedError) as caught:
        client(running).attest()
    assert caught.value.code == "provisioning-answer-too-large"


def test_a_failing_event_is_no_failure(running: Running) -> None:
    session = client(running)
    session.attest()
    running.broker.script["/kokon/v1/events"] = [None, refusal(403, "PolicyDeny", "no")]
    assert not session.report("x-y", "z")
    assert not session.report("x-y", "z")


@pytest.mark.parametrize("token", ["a b", "ü", "a\nb"])
def test_tokens_are_plain(token: str) -> None:
    import json

    with pytest.raises(MalformedError) as caught:
        parse_token(json.dumps({"token": token}).encode())
    assert caught.value.code == "token-malformed"


@pytest.mark.parametrize("uri", ["kbs:///a/b", "kbs:///a/b/../c", "kbs:///a/b/.c", "http://x/a/b/c", "kbs:///a/b/c?d"])
def test_resource_uris_are_checked(uri: str) -> None:
    with pytest.raises(MalformedError) as caught:
        resource_path(uri)
    assert caught.value.code == "resource-malformed"


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (Answer(403, b'{"detail":"session-unknown: id 1"}'), False),
        (Answer(401, b'{"type":"x/PolicyDeny","detail":"no"}'), False),
        (Answer(401, b'{"type":"x/TokenNotFound","detail":"no"}'), True),
        (Answer(401, b'{"type":"x/AttestationError","detail":"nonce-used: id 2"}'), True),
        (Answer(401, b"[]"), True),
    ],
)
def test_lost_sessions_are_told_from_refusals(answer: Answer, lost: bool) -> None:
    assert session_lost(answer) is lost


@given(st.binary(max_size=200))
def test_no_answer_crashes_the_parsers(body: bytes) -> None:
    for parse in (parse_challenge, parse_token):
        try:
            parse(body)
        except KokonError:
            pass
    variant, reason, denial = parse_refusal(body)
    assert len(variant) <= 64
    assert (reason is None) == (denial is None)


@given(st.text(max_size=100))
def test_only_codes_and_ids_come_out_of_a_refusal(detail: str) -> None:
    import json

    _, reason, denial = parse_refusal(json.dumps({"type": "t", "detail": detail}).encode())
    assert reason is None or (reason.isascii() and " " not in reason)
    assert denial is None or denial.replace("-", "").isalnum()
