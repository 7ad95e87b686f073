"""Signatures in both forms: written into a real registry, found, judged, and refused for a reason."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest

from kokon.errors import KokonError, MalformedError, UntrustedError, UsageError
from kokon.image.fetch import Fetcher
from kokon.image.manifest import INDEX_TYPE, MANIFEST_TYPE, Descriptor
from kokon.image.registry import Registry, descriptor_of, fallback_tag, manifest_bytes
from kokon.image.signature import PAYLOAD_TYPE, SIGNATURE_ANNOTATION, SIGNATURES_LIMIT, fetch_signature, signature_tag
from kokon.image.signing.forms import (
    BUNDLE_TYPE,
    TIMESTAMP_ANNOTATION,
    encode_bundle,
    parse_bundle,
    parse_classic,
    sign_statement,
    simple_payload,
)
from kokon.image.signing.keys import KeySigner, fingerprint, make_key, public_pem
from kokon.image.signing.make import FORMS, attach, prepared, sign_image, wanted
from kokon.image.signing.store import bundle_descriptors, find_claims
from kokon.image.signing.verify import Held, Judged, judge, judge_claim, require
from support.registry import LocalRegistry
from support.sealed import NOW

SIGNER, OTHER = KeySigner(make_key("p256")), KeySigner(make_key("p256"))
DIGEST = "sha256:" + "ab" * 32
IDENTITY = "registry.example/clinic"


def pushed(registry: Registry) -> tuple[str, Descriptor]:
    """A new repository with one artifact in it, which stands for an image."""
    repository = f"signed/{uuid.uuid4().hex}"
    blob = uuid.uuid4().bytes
    registry.upload_bytes(repository, blob)
    registry.upload_bytes(repository, b"{}")
    data = manifest_bytes(descriptor_of("application/vnd.oci.empty.v1+json", b"{}"), [descriptor_of("a/b", blob)])
    registry.put_manifest(repository, "1", data)
    return repository, descriptor_of(MANIFEST_TYPE, data)


def judged(server: LocalRegistry, repository: str, digest: str, *signers: KeySigner) -> Judged:
    with Fetcher(server.url, repository) as fetcher:
        return judge(find_claims(fetcher, digest), digest, tuple(signer.public for signer in signers))


@pytest.mark.parametrize("algorithm", ["p256", "p384", "ed25519", "rsa"])
def test_both_forms_are_written_and_read(server: LocalRegistry, registry: Registry, algorithm: str) -> None:
    repository, subject = pushed(registry)
    signer = KeySigner(make_key(algorithm))
    signed = sign_image(registry, repository, subject, IDENTITY, signer, wanted("both"), NOW)
    assert set(signed.places) == {"classic", "bundle"}
    result = judged(server, repository, subject.digest, OTHER, signer)
    assert [(one.claim.form, one.key, one.claim.identity) for one in result.held] == [
        ("classic", fingerprint(signer.public), IDENTITY),
        ("bundle", fingerprint(signer.public), IDENTITY),
    ]
    assert result.refused == ()
    assert require(result) == result.held
    if algorithm in ("p256", "p384"):
        with Fetcher(server.url, repository) as fetcher:
            assert fetch_signature(fetcher, subject.digest, public_pem(signer.public))


def test_signatures_of_several_stand_side_by_side(server: LocalRegistry, registry: Registry) -> None:
    repository, subject = pushed(registry)
    for signer in (SIGNER, OTHER):
        sign_image(registry, repository, subject, IDENTITY, signer, wanted("both"), NOW)
    assert len(judged(server, repository, subject.digest, SIGNER, OTHER).held) == 4
    alone = judged(server, repository, subject.digest, OTHER)
    assert len(alone.held) == 2
    assert [one.code for one in alone.refused] == ["image-signer-unknown"] * 2


def test_an_unsigned_image_and_a_strangers_signature(server: LocalRegistry, registry: Registry) -> None:
    repository, subject = pushed(registry)
    with pytest.raises(UntrustedError) as caught:
        require(judged(server, repository, subject.digest, SIGNER))
    assert caught.value.code == "image-unsigned"
    sign_image(registry, repository, subject, IDENTITY, OTHER, wanted("both"), NOW)
    with pytest.raises(UntrustedError) as caught:
        require(judged(server, repository, subject.digest, SIGNER))
    assert caught.value.code == "image-signer-unknown"
    assert "classic image-signer-unknown, bundle image-signer-unknown" in str(caught.value.hint)


def test_a_signature_moved_to_another_image_counts_for_nothing(server: LocalRegistry, registry: Registry) -> None:
    repository, subject = pushed(registry)
    sign_image(registry, repository, subject, IDENTITY, SIGNER, wanted("both"), NOW)
    other = manifest_bytes(descriptor_of("application/vnd.oci.empty.v1+json", b"{}"), [])
    victim = registry.put_manifest(repository, "2", other)
    for tag in (signature_tag, fallback_tag):
        found = registry.manifest(repository, tag(subject.digest))
        assert found is not None
        registry.put_manifest(repository, tag(victim), *found)
    result = judged(server, repository, victim, SIGNER)
    assert result.held == ()
    assert [one.code for one in result.refused] == ["signature-image-mismatch"] * 2


def test_what_is_spoilt_hides_nothing_else(server: LocalRegistry, registry: Registry) -> None:
    repository, subject = pushed(registry)
    registry.upload_bytes(repository, b"no payload")
    registry.upload_bytes(repository, b"{}")
    registry.put_manifest(
        repository,
        signature_tag(subject.digest),
        manifest_bytes(descriptor_of("a/b", b"{}"), [descriptor_of(PAYLOAD_TYPE, b"no payload")]),
    )
    empty = descriptor_of("application/vnd.oci.empty.v1+json", b"{}")
    for layers in ([descriptor_of("a/b", b"no payload")], [descriptor_of(BUNDLE_TYPE, b"no payload")]):
        data = manifest_bytes(empty, layers, artifact_type=BUNDLE_TYPE, subject=subject)
        name = registry.put_manifest(repository, "other", data)
        entries = {"mediaType": MANIFEST_TYPE, "digest": name, "size": len(data), "artifactType": BUNDLE_TYPE}
        found = registry.manifest(repository, fallback_tag(subject.digest))
        before = json.loads(found[0])["manifests"] if found else []
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE}
        text = json.dumps({**index, "manifests": [*before, entries]}).encode()
        registry.put_manifest(repository, fallback_tag(subject.digest), text, INDEX_TYPE)
    sign_image(registry, repository, subject, IDENTITY, SIGNER, wanted("both"), NOW)
    result = judged(server, repository, subject.digest, SIGNER)
    assert len(result.held) == 2
    assert [one.code for one in result.refused] == ["json-malformed", "bundle-unsupported", "json-malformed"]


def test_readers_look_at_so_many_signatures_only(registry: Registry) -> None:
    repository, subject = pushed(registry)
    payload = simple_payload(IDENTITY, subject.digest)
    registry.upload_bytes(repository, payload)
    registry.upload_bytes(repository, b"{}")
    full = [descriptor_of(PAYLOAD_TYPE, payload)] * SIGNATURES_LIMIT
    registry.put_manifest(repository, signature_tag(subject.digest), manifest_bytes(descriptor_of("a/b", b"{}"), full))
    with pytest.raises(UsageError) as caught:
        sign_image(registry, repository, subject, IDENTITY, SIGNER, wanted("classic"), NOW)
    assert caught.value.code == "signatures-full"


@pytest.mark.parametrize("form", ["classic", "bundle"])
def test_a_signature_from_outside_is_verified_before_it_is_attached(
    server: LocalRegistry, registry: Registry, form: str
) -> None:
    repository, subject = pushed(registry)
    (kind,) = wanted(form)
    message = prepared(kind, IDENTITY, subject.digest)
    with pytest.raises(UntrustedError) as caught:
        attach(registry, repository, subject, IDENTITY, SIGNER.public, {kind: OTHER.sign(message)}, NOW)
    assert caught.value.code == "signature-wrong"
    with pytest.raises(UntrustedError):
        attach(registry, repository, subject, IDENTITY + ":1", SIGNER.public, {kind: SIGNER.sign(message)}, NOW)
    assert judged(server, repository, subject.digest, SIGNER) == Judged((), ())
    attach(registry, repository, subject, IDENTITY, SIGNER.public, {kind: SIGNER.sign(message)}, NOW)
    assert len(judged(server, repository, subject.digest, SIGNER).held) == 1


def test_a_referrers_annotations_are_those_that_readers_look_for(server: LocalRegistry, registry: Registry) -> None:
    repository, subject = pushed(registry)
    signed = sign_image(registry, repository, subject, IDENTITY, SIGNER, wanted("bundle"), NOW)
    with Fetcher(server.url, repository) as fetcher:
        (descriptor,) = bundle_descriptors(fetcher, subject.digest)
    assert descriptor.digest == signed.places["bundle"]
    assert dict(descriptor.annotations) == {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1",
        "org.opencontainers.image.created": "2026-11-23T12:00:00Z",
    }
    found = registry.manifest(repository, descriptor.digest)
    assert found is not None
    manifest = json.loads(found[0])
    assert manifest["subject"] == {"mediaType": MANIFEST_TYPE, "digest": subject.digest, "size": subject.size}
    assert manifest["artifactType"] == manifest["layers"][0]["mediaType"] == BUNDLE_TYPE


def test_there_are_two_forms() -> None:
    assert [wanted(form) for form in FORMS] == [("classic",), ("bundle",), ("classic", "bundle")]
    with pytest.raises(UsageError) as caught:
        wanted("gpg")
    assert caught.value.code == "signature-form"


BUNDLE = json.loads(encode_bundle(sign_statement(IDENTITY, DIGEST), b"s" * 70, SIGNER.public, b"stamp"))
STATEMENT = json.loads(sign_statement(IDENTITY, DIGEST))


def bundle_code(value: object) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_bundle(json.dumps(value).encode())
    return caught.value.code


def with_statement(**changes: object) -> bytes:
    return encode_bundle(json.dumps({**STATEMENT, **changes}).encode(), b"s", SIGNER.public, None)


def test_bundles_are_read_strictly() -> None:
    claim = parse_bundle(json.dumps(BUNDLE).encode())
    assert (claim.digest, claim.identity, claim.timestamps) == (DIGEST, IDENTITY, (b"stamp",))
    nameless = parse_bundle(encode_bundle(sign_statement("", DIGEST), b"s", SIGNER.public, None))
    assert (nameless.identity, nameless.timestamps) == (None, ())
    envelope = BUNDLE["dsseEnvelope"]
    assert bundle_code({**BUNDLE, "mediaType": BUNDLE_TYPE + "x"}) == "bundle-unsupported"
    assert bundle_code({**BUNDLE, "more": 1}) == "field-unknown"
    assert bundle_code({**BUNDLE, "verificationMaterial": {"more": 1}}) == "field-unknown"
    twice = {**envelope, "signatures": envelope["signatures"] * 2}
    assert bundle_code({**BUNDLE, "dsseEnvelope": twice}) == "bundle-unsupported"
    assert bundle_code({**BUNDLE, "dsseEnvelope": {**envelope, "payloadType": "text"}}) == "bundle-unsupported"
    message = {name: member for name, member in BUNDLE.items() if name != "dsseEnvelope"}
    assert bundle_code({**message, "messageSignature": {}}) == "bundle-unsupported"
    for changes in (
        {"predicateType": "https://slsa.dev/provenance/v1"},
        {"_type": "other"},
        {"subject": STATEMENT["subject"] * 2},
    ):
        with pytest.raises(MalformedError) as caught:
            parse_bundle(with_statement(**changes))
        assert caught.value.code == "bundle-statement"


def test_classic_signatures_are_read_strictly() -> None:
    payload = simple_payload(IDENTITY, DIGEST)
    good = {SIGNATURE_ANNOTATION: "AAAA", TIMESTAMP_ANNOTATION: '{"SignedRFC3161Timestamp":"AAAA"}'}
    claim = parse_classic(payload, good)
    assert (claim.digest, claim.identity, claim.timestamps) == (DIGEST, IDENTITY, (b"\0\0\0",))
    for notes in (
        {**good, SIGNATURE_ANNOTATION: "?"},
        {**good, TIMESTAMP_ANNOTATION: "{}"},
        {**good, TIMESTAMP_ANNOTATION: '{"SignedRFC3161Timestamp":"?"}'},
    ):
        with pytest.raises(KokonError):
            parse_classic(payload, notes)
    with pytest.raises(MalformedError):
        parse_classic(payload.replace(b"critical", b"Critical"), good)


def test_every_changed_byte_of_a_signed_message_is_noticed() -> None:
    for form in wanted("both"):
        message = prepared(form, IDENTITY, DIGEST)
        signature = SIGNER.sign(message)
        payload = simple_payload(IDENTITY, DIGEST)
        claim = (
            parse_classic(payload, {SIGNATURE_ANNOTATION: "AAAA"})
            if form == "classic"
            else parse_bundle(encode_bundle(sign_statement(IDENTITY, DIGEST), signature, SIGNER.public, None))
        )
        claim = replace(claim, signature=signature)
        assert claim.message == message
        assert isinstance(judge_claim(claim, DIGEST, (SIGNER.public,)), Held)
        for at in range(len(message)):
            changed = bytearray(message)
            changed[at] ^= 1
            outcome = judge_claim(replace(claim, message=bytes(changed)), DIGEST, (SIGNER.public,))
            assert not isinstance(outcome, Held)
