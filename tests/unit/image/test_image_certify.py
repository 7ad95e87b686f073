"""Countersigned statements: who counts as a certifier, and that nobody passes for the author."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.cli.main import main
from kokon.errors import KokonError, UntrustedError
from kokon.image.certify import Certified, certify, gather
from kokon.image.dsse import (
    ENVELOPE_TYPE,
    IN_TOTO_TYPE,
    SIGNATURES_LIMIT,
    Envelope,
    certified_by,
    certify_envelope,
    envelope_from,
    sign_envelope,
    verify_envelope,
)
from kokon.image.ecdsa import key_id, public_pem
from kokon.image.fetch import Fetcher
from kokon.image.open import fetch_statement
from kokon.image.registry import descriptor_of
from kokon.image.sign import push_signature
from kokon.image.signing.load import write_key
from kokon.image.statement import encode_statement, parse_statement, read_statement
from support.sealed import AUTHOR, NOW, SealedFixture

ONE, TWO = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
PAYLOAD = b"what the author said"


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    return public_pem(key.public_key())


def name(key: ec.EllipticCurvePrivateKey) -> str:
    return key_id(key.public_key())


def signed(*keys: ec.EllipticCurvePrivateKey) -> Envelope:
    envelope = sign_envelope(PAYLOAD, AUTHOR)
    for key in keys:
        envelope = certify_envelope(envelope, key)
    return envelope


def test_certifiers_sign_beside_the_author() -> None:
    both = signed(ONE, TWO)
    assert len(both.signatures) == 3
    assert certified_by(both, (pem(TWO), pem(ONE))) == (name(TWO), name(ONE))
    assert certified_by(signed(ONE), (pem(TWO), pem(ONE))) == (name(ONE),)
    assert certified_by(signed(), (pem(TWO), pem(ONE))) == ()
    assert verify_envelope(both, pem(AUTHOR)) == PAYLOAD
    assert envelope_from(json.loads(json.dumps(both.as_dict()))) == both


def test_one_certifier_counts_once() -> None:
    assert len(signed(ONE, ONE).signatures) == 2
    again = sign_envelope(PAYLOAD, ONE).signatures
    doubled = replace(signed(ONE), signatures=(*signed(ONE).signatures, *again, *again))
    assert certified_by(doubled, (pem(ONE), pem(ONE), pem(TWO))) == (name(ONE),)
    assert certified_by(doubled, (pem(ONE), pem(ONE) + "\n")) == (name(ONE),)


def test_the_envelopes_own_words_about_signers_count_for_nothing() -> None:
    lied = replace(signed(), signatures=(*signed().signatures, (name(ONE), b"no signature"), (name(TWO), b"")))
    assert certified_by(lied, (pem(ONE), pem(TWO))) == ()
    hidden = replace(signed(ONE), signatures=tuple(("", signature) for _, signature in signed(ONE).signatures))
    assert certified_by(hidden, (pem(ONE),)) == (name(ONE),)


def test_a_signature_over_something_else_counts_for_nothing() -> None:
    foreign = sign_envelope(b"another statement", ONE).signatures
    other_type = sign_envelope(PAYLOAD, ONE, "text/plain").signatures
    envelope = replace(signed(), signatures=(*signed().signatures, *foreign, *other_type))
    assert certified_by(envelope, (pem(ONE),)) == ()


def test_certifiers_alone_are_not_the_author() -> None:
    alone = replace(signed(ONE, TWO), signatures=signed(ONE, TWO).signatures[1:])
    with pytest.raises(UntrustedError) as caught:
        verify_envelope(alone, pem(AUTHOR))
    assert caught.value.code == "statement-author-unknown"


def test_an_envelope_that_is_full() -> None:
    junk = tuple(("", bytes([number])) for number in range(SIGNATURES_LIMIT - 1))
    full = replace(signed(), signatures=(*signed().signatures, *junk))
    with pytest.raises(KokonError) as caught:
        certify_envelope(full, ONE)
    assert caught.value.code == "dsse-full"
    assert certify_envelope(full, AUTHOR) is full
    envelope_from(full.as_dict())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.integers(1, 255))
def test_property_a_damaged_signature_is_none(position: int, flip: int) -> None:
    envelope = signed(ONE)
    signature = bytearray(envelope.signatures[1][1])
    signature[position % len(signature)] ^= flip
    damaged = replace(envelope, signatures=(envelope.signatures[0], (name(ONE), bytes(signature))))
    assert certified_by(damaged, (pem(ONE),)) == ()


def test_copies_are_brought_together() -> None:
    base, one, two = signed(), signed(ONE), signed(TWO)
    one = replace(one, signatures=(*base.signatures, *one.signatures[1:]))
    together = gather(base, (one, two), pem(AUTHOR))
    assert set(certified_by(together, (pem(ONE), pem(TWO)))) == {name(ONE), name(TWO)}
    foreign = certify_envelope(sign_envelope(b"another statement", AUTHOR), ONE)
    unsigned = replace(one, signatures=one.signatures[1:])
    assert gather(base, (foreign, unsigned), pem(AUTHOR)) == base
    junk = replace(base, signatures=(*base.signatures, *(("", bytes([number])) for number in range(15))))
    room = gather(base, (junk,), pem(AUTHOR))
    assert len(room.signatures) == SIGNATURES_LIMIT - 1
    assert certified_by(certify_envelope(room, ONE), (pem(ONE),)) == (name(ONE),)


# -- in a registry ----------------------------------------------------------------------------------------------------


def run(fixture: SealedFixture, key: ec.EllipticCurvePrivateKey, now: datetime = NOW, **changes: Any) -> Certified:
    author = changes.get("author", AUTHOR)
    image = fixture.reference.with_digest(changes.get("digest", fixture.sealed.digest))
    with Fetcher(fixture.server.url, fixture.reference.repository) as fetcher:
        return certify(fetcher, fixture.registry, image, pem(author), key, now)


def newest(fixture: SealedFixture) -> Envelope:
    with Fetcher(fixture.server.url, fixture.reference.repository) as fetcher:
        data = fetch_statement(fetcher, fixture.sealed.digest, pem(AUTHOR), NOW)[1]
    return envelope_from(json.loads(data))


def attach(fixture: SealedFixture, envelope: Envelope) -> None:
    found = fixture.registry.manifest(fixture.reference.repository, fixture.sealed.digest)
    assert found is not None
    subject = descriptor_of("application/vnd.oci.image.manifest.v1+json", found[0])
    blob = json.dumps(envelope.as_dict()).encode()
    fixture.registry.attach(fixture.reference.repository, subject, IN_TOTO_TYPE, blob, ENVELOPE_TYPE)


def test_two_certifiers_one_after_the_other(fixture: SealedFixture) -> None:
    first = run(fixture, ONE)
    assert first.referrer is not None
    assert first.statement.subject == fixture.sealed.digest
    assert certified_by(newest(fixture), (pem(ONE), pem(TWO))) == (name(ONE),)
    run(fixture, TWO)
    assert certified_by(newest(fixture), (pem(ONE), pem(TWO))) == (name(ONE), name(TWO))
    assert run(fixture, ONE).referrer is None
    assert read_statement(newest(fixture), pem(AUTHOR), subject=fixture.sealed.digest, now=NOW) == first.statement


def test_two_certifiers_at_once(fixture: SealedFixture) -> None:
    """Neither saw the other's: the next one brings them together."""
    for key in (ONE, TWO):
        attach(fixture, certify_envelope(fixture.sealed.envelope, key))
    run(fixture, ONE)
    assert certified_by(newest(fixture), (pem(ONE), pem(TWO))) == (name(ONE), name(TWO))


def test_what_is_not_certified(fixture: SealedFixture) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"key": AUTHOR}, "certifier-is-author"),
        ({"key": ONE, "author": TWO}, "image-author-unknown"),
        ({"key": ONE, "now": NOW + timedelta(days=31)}, "statement-expired"),
        ({"key": ONE, "digest": "sha256:" + "0" * 64}, "image-not-found"),
    ]
    for options, code in refused:
        with pytest.raises(KokonError) as caught:
            run(fixture, **options)
        assert caught.value.code == code
    with Fetcher(fixture.server.url, fixture.reference.repository) as fetcher, pytest.raises(KokonError) as caught:
        certify(fetcher, fixture.registry, fixture.reference, pem(AUTHOR), ONE, NOW)
    assert caught.value.code == "digest-malformed"
    assert newest(fixture) == fixture.sealed.envelope


def test_a_statement_of_the_registrys_is_neither_certified_nor_read(fixture: SealedFixture) -> None:
    """A forger with many signatures, and the author's words under signatures of others alone."""
    later = replace(fixture.sealed.statement, created=NOW + timedelta(hours=1), secrets=())
    forged = certify_envelope(certify_envelope(sign_envelope(encode_statement(later), TWO), ONE), AUTHOR_LIKE)
    attach(fixture, forged)
    alone = certify_envelope(fixture.sealed.envelope, ONE)
    attach(fixture, replace(alone, signatures=alone.signatures[1:]))
    assert newest(fixture) == fixture.sealed.envelope
    certified = run(fixture, TWO)
    assert parse_statement(certified.envelope.payload) == fixture.sealed.statement
    assert certified_by(certified.envelope, (pem(ONE), pem(TWO))) == (name(TWO),)


AUTHOR_LIKE = ec.generate_private_key(ec.SECP256R1())


def test_an_image_by_the_certifier_is_another_matter(fixture: SealedFixture) -> None:
    """The certifier's key as the author's: the statement is signed by it, the image is not."""
    run(fixture, ONE)
    with pytest.raises(KokonError) as caught:
        run(fixture, TWO, author=ONE)
    assert caught.value.code == "image-author-unknown"
    # Only a certifier who also signs the image makes both signatures of an author's.
    push_signature(fixture.registry, fixture.reference.repository, fixture.sealed.digest, "x/clinic", ONE)
    assert run(fixture, TWO, author=ONE).referrer is not None


def test_command(
    fixture: SealedFixture, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kokon.cli.certify.datetime", SimpleNamespace(now=lambda _zone: NOW))
    write_key(tmp_path / "certifier.key", "p256")
    (tmp_path / "author.pub").write_text(pem(AUTHOR))
    options = ["--key", str(tmp_path / "certifier.key"), "--author", str(tmp_path / "author.pub")]
    assert main(["certify", str(fixture.reference), *options, "--json"]) == 0
    said = capsys.readouterr()
    assert "only the registry says" in said.err
    shown = json.loads(said.out)
    assert (shown["digest"], shown["signatures"]) == (fixture.sealed.digest, 2)
    assert main(["certify", f"{fixture.reference}@{fixture.sealed.digest}", *options]) == 0
    said = capsys.readouterr()
    assert "was there already" in said.out
    assert said.err == ""
    assert main(["certify", f"{fixture.server.host}/clinic:absent", *options]) == 7
    assert "image-not-found" in capsys.readouterr().err
