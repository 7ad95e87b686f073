"""Which statements a rule lets in."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from provisioning_factory import KEK, KID, MEASUREMENT, Author, make_manifest
from rules_kit import (
    CERTIFICATE,
    END,
    KEK_PATH,
    LOG,
    NOW,
    ONE,
    OTHER,
    OWNER,
    SECRET,
    SIGNER,
    STRANGER,
    TWO,
    VOLUME,
    add,
    name,
    pem,
    request,
    rule,
)

from kokon.errors import DeniedError, KokonError, MalformedError, StaleError, UntrustedError
from kokon.image.dsse import sign_envelope
from kokon.image.statement import Kek, ReferenceEntry, encode_statement
from kokon.jose.jwe import public_jwk
from kokon.launch.document import SecretUse, VolumeUse
from kokon.provisioning.admission import admit, parse_admission
from kokon.provisioning.rules.record import decode_release, encode_release


def refused(made: dict[str, Any] | None = None, **changes: Any) -> str:
    """The code with which the rule with `changes` refuses the request."""
    with pytest.raises(KokonError) as caught:
        add(rule(**changes), made)
    return caught.value.code


def test_a_release_keeps_what_was_said() -> None:
    accepted = add(rule(certifiers=[pem(ONE), pem(TWO)], certifiers_needed=1), request("1.4.2", ONE))
    release = accepted.release
    assert (release.workload, release.version, release.image_name) == ("clinic", "1.4.2", "127.0.0.1:5000/clinic")
    assert (release.author, release.author_name) == (pem(SIGNER.key), "Example Author")
    assert release.measurements == (("simulated", MEASUREMENT),)
    assert release.certified_by == (name(ONE),)
    assert release.name == f"clinic/{release.host_data.hex()}"
    assert (accepted.kek_path, accepted.kek) == (KEK_PATH, KEK)
    assert repr(KEK) not in repr(accepted)
    assert accepted.generate == ((LOG, "token"), (VOLUME, "key"))
    kept = release.by("otto")
    assert decode_release(encode_release(kept)) == kept
    assert kept.summary()["added_by"] == "otto"
    assert "jwe" not in json.dumps(kept.summary())


@pytest.mark.parametrize("version", ["1.4", "1.4.0", "1.4.1", "1.5.0-rc.1", "2.0.0", "1.4.0+build.7", "10.0.0"])
def test_a_patch_release_needs_no_new_rule(version: str) -> None:
    assert add(rule(), request(version)).release.version == version


@pytest.mark.parametrize("version", ["1.3.99", "1.4.0-rc.1", "0.9", "1", "1.4.0-rc.1+newer"])
def test_below_the_minimum(version: str) -> None:
    assert refused(request(version)) == "rule-version-too-low"


def test_a_statement_without_a_version() -> None:
    assert refused(request(None)) == "rule-version-missing"
    assert refused(request(None), minimum_version="0.0.0-0") == "rule-version-missing"


def test_another_signer() -> None:
    """Everything about the image is in order, but it is somebody else's."""
    made = request(author=OTHER)
    assert refused(made) == "rule-signer-other"
    assert add(rule(signer=pem(OTHER.key)), made).release.author == pem(OTHER.key)


def test_what_a_stranger_signed_in_the_signers_name() -> None:
    genuine, forged = request(), SIGNER.request(statement={"version": "9.9"}, signer=STRANGER)
    assert refused(forged) == "image-author-unknown"
    assert refused({**genuine, "statement": forged["statement"]}) == "statement-author-unknown"
    assert refused({**genuine, "signature": forged["signature"]}) == "image-author-unknown"


def test_another_image_of_the_signers() -> None:
    other = request(statement={"name": "127.0.0.1:5000/clinic-debug"})
    assert refused(other, image="127.0.0.1:5000/clinic") == "rule-image-other"
    assert refused(request(statement={"name": ""}), image="127.0.0.1:5000/clinic") == "rule-image-other"
    assert add(rule(image="127.0.0.1:5000/clinic")).release
    assert add(rule(), other).release


# -- certifiers -------------------------------------------------------------------------------------------------------

BOTH = [pem(ONE), pem(TWO)]


@pytest.mark.parametrize(
    ("signed", "needed", "good"),
    [
        ((), None, False),
        ((ONE,), None, False),
        ((ONE, TWO), None, True),
        ((TWO, ONE), None, True),
        ((TWO,), 1, True),
        ((), 1, False),
        ((STRANGER,), 1, False),
        ((ONE, STRANGER), None, False),
    ],
)
def test_certifiers(signed: tuple[ec.EllipticCurvePrivateKey, ...], needed: int | None, good: bool) -> None:
    made = request("1.4.2", *signed)
    if good:
        assert add(rule(certifiers=BOTH, certifiers_needed=needed), made).release
    else:
        assert refused(made, certifiers=BOTH, certifiers_needed=needed) == "rule-certifier-missing"


def again(made: dict[str, Any], key: ec.EllipticCurvePrivateKey, payload: bytes | None = None) -> dict[str, Any]:
    """The request with one more signature by `key` in the envelope, also if it has signed already."""
    envelope = made["statement"]
    signed = sign_envelope(payload or base64.b64decode(envelope["payload"]), key).as_dict()
    return {**made, "statement": {**envelope, "signatures": [*envelope["signatures"], *signed["signatures"]]}}


def test_a_certifier_who_signs_twice_counts_once() -> None:
    made = again(again(request("1.4.2", ONE), ONE), ONE)
    assert len(made["statement"]["signatures"]) == 4
    assert refused(made, certifiers=BOTH) == "rule-certifier-missing"


def test_the_author_is_no_certifier() -> None:
    """Neither by signing twice, nor in a rule that names the author's key in another way than rules are read."""
    assert refused(again(request(), SIGNER.key), certifiers=[pem(ONE)]) == "rule-certifier-missing"
    odd = replace(rule(), certifiers=(pem(SIGNER.key), pem(ONE)), certifiers_needed=1)
    with pytest.raises(DeniedError) as caught:
        add(odd, again(request(), SIGNER.key))
    assert caught.value.code == "rule-certifier-missing"
    assert add(odd, request("1.4.2", ONE)).release


def test_a_certifier_of_another_statement_or_only_named() -> None:
    old = encode_statement(SIGNER.statement(make_manifest(), version="1.4.1"))
    assert refused(again(request(), ONE, old), certifiers=[pem(ONE)]) == "rule-certifier-missing"
    named = request()
    named["statement"]["signatures"][0]["keyid"] = name(ONE)
    assert refused(named, certifiers=[pem(ONE)]) == "rule-certifier-missing"


def test_certifiers_without_the_author() -> None:
    made = request("1.4.2", ONE, TWO)
    made["statement"]["signatures"] = made["statement"]["signatures"][1:]
    assert refused(made, certifiers=BOTH) == "statement-author-unknown"


def test_a_certifier_does_not_pass_for_the_author() -> None:
    """A rule for the certifier's own images: the author's, countersigned, launched as if it were one of them."""
    certifier = Author(public_jwk(OWNER), CERTIFICATE, key=ONE)
    made = request("1.4.2", ONE)
    stolen = {**made, "launch_document": certifier.document(make_manifest()).decode()}
    assert refused(stolen, signer=pem(ONE)) == "image-author-unknown"


# -- what a statement cannot bring ------------------------------------------------------------------------------------

BEYOND: list[dict[str, Any]] = [
    {"policy": {"allow_debug": True}},
    {"policy": {"minimum_tcb": {"snp": 0}}},
    {"resources": ["kbs:///clinic/secret/other"]},
    {"resources": [f"kbs:///{SECRET}"]},
    {"platform": "[allow]\ndebug = true\n"},
    {"tees": ["simulated"]},
    {"chips": ["ab"]},
    {"max_activations": 5},
]


@pytest.mark.parametrize("changes", BEYOND, ids=lambda changes: next(iter(changes)))
def test_the_request_grants_nothing(changes: dict[str, Any]) -> None:
    assert refused(request(**changes)) == "request-beyond-rule"


SECRETS = (SecretUse("db-password", f"kbs:///{SECRET}", file="/run/secrets/db-password"),)


@pytest.mark.parametrize(
    "document",
    [
        {"secrets": (SecretUse("db-password", "kbs:///billing/secret/db-password", file="/x"),)},
        {"secrets": (SecretUse("db-password", f"kbs:///{VOLUME}", file="/x"),)},
        {"volumes": (VolumeUse("data", "/data", "kbs:///billing/volume/data"),)},
        {"volumes": (VolumeUse("data", "/data", f"kbs:///{LOG}"),)},
    ],
)
def test_the_launch_document_gets_nothing_more(document: dict[str, Any]) -> None:
    """An operator writes it: it has no other workload's secrets, and none but for what it is for."""
    assert refused(request(document=document)) == "resource-beyond-rule"


@pytest.mark.parametrize("key", ["kbs:///billing/log/token", f"kbs:///{SECRET}", "kbs:///clinic/log/other"])
def test_no_secret_in_the_place_of_the_logs_token(key: str) -> None:
    """People can ask the server for that one."""
    assert refused(request(document={"log_key": key})) == "log-path-refused"


def test_what_the_owner_puts_is_not_generated() -> None:
    accepted = add(rule(generate=None, resources=[f"kbs:///{SECRET}", f"kbs:///{VOLUME}"]))
    assert accepted.generate == ((LOG, "token"),)
    assert refused(generate=None) == "resource-beyond-rule"


def test_no_enclave_that_the_rule_allows() -> None:
    assert refused(tees=["snp", "tdx"]) == "rule-tee-without-reference"
    both = request(statement={"reference": (ReferenceEntry("snp", 1, "EPYC", bytes(48)),)})
    assert add(rule(tees=["snp", "tdx"]), both).release
    assert add(rule(tees=["simulated"])).release


def test_another_workloads_name() -> None:
    assert refused(request(document={"workload": "other"}, name="other")) == "workload-name-mismatch"
    assert refused(request(document={"workload": "other"})) == "workload-name-mismatch"


def test_an_ended_rule() -> None:
    with pytest.raises(StaleError) as caught:
        add(rule(), request(), END)
    assert caught.value.code == "rule-expired"


ADMISSION: list[tuple[dict[str, Any], type[KokonError], str]] = [
    ({"statement": {"subject": "sha256:" + "0" * 64}}, UntrustedError, "statement-subject-mismatch"),
    ({"statement": {"layers": ("sha256:" + "0" * 64,)}}, UntrustedError, "statement-image-mismatch"),
    ({"statement": {"not_after": NOW - timedelta(seconds=1)}}, StaleError, "statement-expired"),
    ({"statement": {"created": NOW + timedelta(hours=1)}}, StaleError, "statement-not-yet-valid"),
    ({"statement": {"reference": ()}}, DeniedError, "statement-without-reference"),
    ({"statement": {"secrets": ("db-password", "api-key")}}, DeniedError, "statement-secret-missing"),
    ({"statement": {"kek": Kek("kbs:///clinic/secret/db-password", {})}}, DeniedError, "kek-path-refused"),
    (
        {"statement": {"kek": Kek(KID, OTHER.statement(make_manifest()).kek.jwe)}},
        UntrustedError,
        "kek-of-another-author",
    ),
    ({"document": {"env": (("LD_PRELOAD", "x"),)}}, DeniedError, "env-not-allowed"),
    ({"document": {"args": ("sh",)}}, DeniedError, "args-not-allowed"),
]


@pytest.mark.parametrize(("changes", "kind", "code"), ADMISSION, ids=[code for _, _, code in ADMISSION])
def test_all_that_admission_checks(changes: dict[str, Any], kind: type[KokonError], code: str) -> None:
    with pytest.raises(kind) as caught:
        add(rule(), request(**changes))
    assert caught.value.code == code


def test_the_same_papers_are_good_for_both_kinds() -> None:
    """Rule or not, an image's papers are the same."""
    made = request()
    admission = admit(parse_admission(made), OWNER, CERTIFICATE, NOW)
    release = add(rule(), made).release
    assert admission.workload.version == release.version
    assert admission.workload.host_data == release.host_data
    assert admission.workload.measurements == release.measurements


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 4000), st.integers(1, 255))
def test_property_records_are_read_or_refused(noise: bytes, position: int, flip: int) -> None:
    damaged = bytearray(encode_release(RELEASE))
    damaged[position % len(damaged)] ^= flip
    for data in (noise, bytes(damaged)):
        try:
            decode_release(data)
        except MalformedError:
            pass


RELEASE = add(rule()).release
