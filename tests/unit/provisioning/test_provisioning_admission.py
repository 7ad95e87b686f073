from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from provisioning_factory import KEK, KID, MEASUREMENT, Author, make_manifest

from kokon.errors import DeniedError, KokonError, MalformedError, StaleError, UntrustedError, UsageError
from kokon.image.statement import Kek
from kokon.jose.jwe import encrypt_to, public_jwk
from kokon.provisioning.admission import Admission, admit, parse_admission
from kokon.provisioning.tls import make_certificate
from kokon.provisioning.workload import decode_workload, encode_workload
from kokon.wire import b64

NOW = datetime.now(UTC).replace(microsecond=0)
OWNER = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE = make_certificate(OTHER, ["127.0.0.1"], NOW).decode()
AUTHOR = Author(public_jwk(OWNER), CERTIFICATE)


def run(request: dict[str, Any]) -> Admission:
    now = datetime.now(UTC).replace(microsecond=0)
    return admit(parse_admission(request), OWNER, CERTIFICATE, now)


def test_admission_keeps_what_was_said() -> None:
    policy = {"allow_debug": True, "minimum_tcb": {"snp": 4}}
    admission = run(AUTHOR.request(resources=["kbs:///shared/secret/more"], policy=policy))
    workload = admission.workload
    assert workload.measurements == (("simulated", MEASUREMENT),)
    assert workload.resources == (
        "default/kek/0123456789abcdef",
        "clinic/log/token",
        "clinic/secret/db-password",
        "clinic/volume/data",
        "shared/secret/more",
    )
    assert workload.allow_debug
    assert workload.minimum_tcb == (("snp", 4),)
    assert admission.kek == KEK
    assert repr(KEK) not in repr(admission)
    assert admission.generate == (("clinic/log/token", "token"), ("clinic/volume/data", "key"))
    assert decode_workload(encode_workload(workload)) == workload


REFUSED: list[tuple[dict[str, Any], type[KokonError], str]] = [
    ({"signer": OTHER}, UntrustedError, "image-author-unknown"),
    ({"manifest": b64(make_manifest(b"evil"))}, UntrustedError, "image-digest-mismatch"),
    ({"statement": {"subject": "sha256:" + "0" * 64}}, UntrustedError, "statement-subject-mismatch"),
    ({"statement": {"layers": ("sha256:" + "0" * 64,)}}, UntrustedError, "statement-image-mismatch"),
    ({"statement": {"not_after": NOW - timedelta(seconds=1)}}, StaleError, "statement-expired"),
    ({"statement": {"created": NOW + timedelta(hours=1)}}, StaleError, "statement-not-yet-valid"),
    ({"statement": {"reference": ()}}, DeniedError, "statement-without-reference"),
    ({"statement": {"secrets": ("db-password", "api-key")}}, DeniedError, "statement-secret-missing"),
    ({"statement": {"kek": Kek("kbs:///clinic/secret/db-password", {})}}, DeniedError, "kek-path-refused"),
    ({"statement": {"kek": Kek(KID, encrypt_to(OTHER.public_key(), KEK))}}, UntrustedError, "kek-not-opened"),
    ({"statement": {"kek": Kek(KID, encrypt_to(OWNER.public_key(), b"short"))}}, MalformedError, "kek-size"),
    ({"statement": {"kek": Kek(KID, encrypt_to(OWNER.public_key(), KEK))}}, MalformedError, "kek-size"),
    ({"document": {"env": (("LD_PRELOAD", "x"),)}}, DeniedError, "env-not-allowed"),
    ({"document": {"args": ("sh",)}}, DeniedError, "args-not-allowed"),
    ({"statement": {"volumes": ("/elsewhere",)}}, DeniedError, "volume-not-allowed"),
    ({"document": {"log_key": "kbs:///clinic/secret/db-password"}}, DeniedError, "log-path-refused"),
    ({"document": {"workload": "other"}}, DeniedError, "workload-name-mismatch"),
    ({"name": "other"}, DeniedError, "workload-name-mismatch"),
    ({"launch_document": "version = 1"}, MalformedError, "field-type"),
    ({"resources": [1]}, MalformedError, "resource-path"),
    ({"resources": ["kbs:///a"]}, MalformedError, "resource-path"),
    ({"resources": ["kbs:///clinic/secret/*"]}, MalformedError, "resource-path"),
    ({"tees": ["sev"]}, MalformedError, "tee-not-known"),
    ({"chips": ["00"]}, MalformedError, "chip-malformed"),
    ({"platform": "[allow]\neverything = true\n"}, UsageError, "policy-key-unknown"),
    ({"max_activations": 0}, MalformedError, "field-range"),
    ({"policy": {"allow_all": True}}, MalformedError, "field-unknown"),
    ({"policy": {"minimum_tcb": {"snp": 300}}}, MalformedError, "field-range"),
]


@pytest.mark.parametrize(("changes", "kind", "code"), REFUSED, ids=[code for _, _, code in REFUSED])
def test_refused_admissions(changes: dict[str, Any], kind: type[KokonError], code: str) -> None:
    with pytest.raises(kind) as caught:
        run(AUTHOR.request(**changes))
    assert caught.value.code == code


def test_statement_or_signature_alone_by_another_is_refused() -> None:
    forged = AUTHOR.request(signer=OTHER)
    genuine = AUTHOR.request()
    with pytest.raises(UntrustedError) as caught:
        run({**genuine, "statement": forged["statement"]})
    assert caught.value.code == "statement-author-unknown"
    with pytest.raises(UntrustedError) as caught:
        run({**genuine, "signature": forged["signature"]})
    assert caught.value.code == "image-author-unknown"


def test_layer_key_copied_from_another_authors_statement_is_refused() -> None:
    """Statements are public: an author whom the owner trusts too takes the key over, under a name of his own."""
    victim = AUTHOR.statement(make_manifest())
    thief = Author(public_jwk(OWNER), CERTIFICATE)
    for kid in (KID, "kbs:///default/kek/of-the-thief"):
        with pytest.raises(UntrustedError) as caught:
            run(thief.request(statement={"kek": Kek(kid, victim.kek.jwe)}))
        assert caught.value.code == "kek-of-another-author"


def test_document_for_another_server_is_refused() -> None:
    stranger = Author(public_jwk(OWNER), make_certificate(OWNER, ["127.0.0.1"], NOW).decode())
    with pytest.raises(DeniedError) as caught:
        run(stranger.request())
    assert caught.value.code == "server-mismatch"


def test_workload_record_with_a_bad_time() -> None:
    record = json.loads(encode_workload(run(AUTHOR.request()).workload))
    with pytest.raises(MalformedError) as caught:
        decode_workload(json.dumps({**record, "admitted": "yesterday"}).encode())
    assert caught.value.code == "workload-record"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(AUTHOR.request())),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=9), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    ),
)
def test_property_no_change_of_type_gets_through(name: str, value: object) -> None:
    try:
        run({**AUTHOR.request(), name: value})
    except KokonError:
        return
    assert (name, value) in [("resources", []), ("policy", {})]
