"""Policies about signatures: scopes, identity rules, both file forms, and that what is not said is denied."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kokon.errors import DeniedError, KokonError
from kokon.image.signing.forms import parse_bundle, parse_classic, sign_statement, simple_payload
from kokon.image.signing.identity import IdentityRule, Name, docker_scopes, folder_scopes, parse_name
from kokon.image.signing.keys import KeySigner, PublicKey, make_key, parse_public, public_pem
from kokon.image.signing.make import prepared
from kokon.image.signing.policy import Decision, Policy, Requirement, decide, enforce, requirements_for
from kokon.image.signing.policyfile import parse_policy, parse_policy_toml
from kokon.image.signing.store import Found, Unread
from kokon.wire import b64

SIGNER, OTHER = KeySigner(make_key("p256")), KeySigner(make_key("ed25519"))
DIGEST = "sha256:" + "ab" * 32
HOST = "registry.example:5000"
IMAGE = parse_name(f"{HOST}/clinic/app:1")
ACCEPT, REJECT = {"type": "insecureAcceptAnything"}, {"type": "reject"}
KEYS = {"signer.pub": SIGNER.public, "other.pub": OTHER.public}


def load(requirement: Requirement) -> tuple[PublicKey, ...]:
    return (*(KEYS[path] for path in requirement.paths), *(parse_public(data) for data in requirement.data))


def found(*identities: str, signer: KeySigner = SIGNER, digest: str = DIGEST) -> Found:
    """Classic signatures, each naming an image."""
    payloads = [simple_payload(identity, digest) for identity in identities]
    notes = "dev.cosignproject.cosign/signature"
    return Found(tuple(parse_classic(payload, {notes: b64(signer.sign(payload))}) for payload in payloads))


def policy(*requirements: Any, **transports: Any) -> Policy:
    return parse_policy(json.dumps({"default": list(requirements), "transports": transports}).encode())


def signed(**members: Any) -> dict[str, Any]:
    return {"type": "sigstoreSigned", "keyPath": "signer.pub", **members}


def asked(rules: Policy, claims: Found, image: Name = IMAGE) -> Decision:
    return decide(rules, image, DIGEST, claims, load)


def codes(decision: Decision) -> list[str]:
    assert not decision.admitted
    return [one.code for one in decision.reasons]


def test_scopes_go_from_the_narrowest_to_the_widest() -> None:
    assert docker_scopes(parse_name("a.b.example:5000/x/y/z:1")) == (
        "a.b.example:5000/x/y/z:1",
        "a.b.example:5000/x/y/z",
        "a.b.example:5000/x/y",
        "a.b.example:5000/x",
        "a.b.example:5000",
        "*.b.example:5000",
        "*.example:5000",
    )
    assert docker_scopes(parse_name("busybox"))[:2] == ("docker.io/library/busybox:latest", "docker.io/library/busybox")
    pinned = parse_name(f"localhost/x:1@{DIGEST}")
    assert docker_scopes(pinned) == (f"localhost/x@{DIGEST}", "localhost/x", "localhost")
    assert folder_scopes("/a/b:name") == ("/a/b:name", "/a/b", "/a")
    assert folder_scopes("/a/b") == ("/a/b", "/a")


def test_the_narrowest_scope_counts_alone() -> None:
    scopes = {
        "": [REJECT],
        "*.example:5000": [REJECT],
        HOST: [REJECT],
        f"{HOST}/clinic": [REJECT],
        f"{HOST}/clinic/app": [REJECT],
        f"{HOST}/clinic/app:1": [ACCEPT],
    }
    while scopes:
        narrowest = next(reversed(scopes))
        rules = policy(REJECT, docker={**scopes, narrowest: [ACCEPT]})
        decision = asked(rules, Found(()))
        assert decision.admitted
        assert decision.scope == f"docker:{narrowest}"
        scopes.pop(narrowest)
    assert asked(policy(ACCEPT, docker={"registry.example": [REJECT]}), Found(())).scope == "default"
    assert asked(policy(ACCEPT, docker={f"{HOST}/cli": [REJECT]}), Found(())).admitted
    assert requirements_for(policy(REJECT, dir={"/a": [ACCEPT]}), "dir", folder_scopes("/a/b"))[0] == "dir:/a"


def test_nothing_said_is_denied() -> None:
    assert codes(asked(policy(), found(f"{HOST}/clinic/app:1"))) == ["policy-empty"]
    assert codes(asked(policy(REJECT), Found(()))) == ["policy-reject"]
    assert codes(asked(policy(signed()), Found(()))) == ["image-unsigned"]
    assert codes(asked(policy({"type": "signedBy", "keyType": "GPGKeys"}), Found(()))) == ["policy-unsupported"]
    beyond = {"type": "sigstoreSigned", "fulcio": {"caPath": "x"}, "rekorPublicKeyPath": "y"}
    assert codes(asked(policy(beyond), Found(()))) == ["policy-unsupported"]
    with pytest.raises(DeniedError) as caught:
        enforce(asked(policy(REJECT), Found(())))
    assert caught.value.code == "image-policy"
    assert "policy policy-reject" in str(caught.value.found)
    admitted = asked(policy(ACCEPT), Found(()))
    assert enforce(admitted) is admitted
    assert asked(policy(REJECT), Found(())).as_dict()["reasons"][0]["code"] == "policy-reject"


def test_all_requirements_must_hold() -> None:
    named = f"{HOST}/clinic/app:1"
    both = (signed(), {"type": "sigstoreSigned", "keyPath": "other.pub"})
    one, two = found(named), found(named, signer=OTHER)
    assert codes(asked(policy(*both), one)) == ["image-signer-unknown"]
    assert asked(policy(*both), Found(one.claims + two.claims)).admitted
    assert codes(asked(policy(ACCEPT, REJECT), one)) == ["policy-reject"]
    either = policy({"type": "sigstoreSigned", "keyPaths": ["signer.pub", "other.pub"]})
    assert asked(either, two).admitted
    data = policy({"type": "sigstoreSigned", "keyData": b64(public_pem(OTHER.public).encode())})
    assert asked(data, two).admitted
    assert codes(asked(data, one)) == ["image-signer-unknown"]
    unread = Found(one.claims, (Unread("classic", "x", "json-malformed", "bad"),))
    assert asked(policy(signed()), unread).admitted


def test_a_signature_counts_for_its_image_only() -> None:
    named = f"{HOST}/clinic/app:1"
    assert codes(asked(policy(signed()), found(named, digest="sha256:" + "cd" * 32))) == ["signature-image-mismatch"]
    assert codes(asked(policy(signed()), found(f"{HOST}/other:1"))) == ["signature-identity"]
    assert codes(asked(policy(signed()), found("No Name"))) == ["image-name-malformed"]


@pytest.mark.parametrize(
    ("rule", "image", "names", "admitted"),
    [
        ({"type": "matchExact"}, "h.x/a:1", "h.x/a:1", True),
        ({"type": "matchExact"}, "h.x/a:1", "h.x/a", False),
        ({"type": "matchExact"}, "h.x/a:1", "h.x/a:2", False),
        ({"type": "matchExact"}, "h.x/a", "h.x/a:latest", True),
        ({"type": "matchExact"}, f"h.x/a@{DIGEST}", "h.x/a", False),
        ({"type": "matchExact"}, f"h.x/a@{DIGEST}", f"h.x/a@{DIGEST}", True),
        ({"type": "matchRepoDigestOrExact"}, "h.x/a:1", "h.x/a:1", True),
        ({"type": "matchRepoDigestOrExact"}, "h.x/a:1", "h.x/a", False),
        ({"type": "matchRepoDigestOrExact"}, f"h.x/a@{DIGEST}", "h.x/a", True),
        ({"type": "matchRepoDigestOrExact"}, f"h.x/a@{DIGEST}", "h.x/a:7", True),
        ({"type": "matchRepoDigestOrExact"}, f"h.x/a@{DIGEST}", "h.x/b", False),
        (None, "h.x/a:1", "h.x/a", False),
        (None, "h.x/a:1", "h.x/a:1", True),
        ({"type": "matchRepository"}, "h.x/a:1", "h.x/a", True),
        ({"type": "matchRepository"}, "h.x/a:1", "h.x/a:9", True),
        ({"type": "matchRepository"}, "h.x/a:1", "h.x/ab", False),
        ({"type": "exactReference", "dockerReference": "h.x/b:2"}, "h.x/a:1", "h.x/b:2", True),
        ({"type": "exactReference", "dockerReference": "h.x/b:2"}, "h.x/a:1", "h.x/b", False),
        ({"type": "exactReference", "dockerReference": "h.x/b:2"}, "h.x/b:2", "h.x/a:1", False),
        ({"type": "exactRepository", "dockerRepository": "h.x/b"}, "h.x/a:1", "h.x/b:2", True),
        ({"type": "exactRepository", "dockerRepository": "h.x/b"}, "h.x/a:1", "h.x/a:1", False),
        ({"type": "remapIdentity", "prefix": "h.x", "signedPrefix": "o.y/z"}, "h.x/a:1", "o.y/z/a:1", True),
        ({"type": "remapIdentity", "prefix": "h.x/a", "signedPrefix": "o.y/z"}, "h.x/a:1", "o.y/z:1", True),
        ({"type": "remapIdentity", "prefix": "h.x/a", "signedPrefix": "o.y/z"}, "h.x/ab:1", "o.y/zb:1", False),
        ({"type": "remapIdentity", "prefix": "h.x/a", "signedPrefix": "o.y/z"}, "h.x/ab:1", "h.x/ab:1", True),
        ({"type": "remapIdentity", "prefix": "h.x", "signedPrefix": "o.y"}, f"h.x/a@{DIGEST}", "o.y/a", True),
        ({"type": "remapIdentity", "prefix": "h.x", "signedPrefix": "o.y"}, "h.x/a:1", "h.x/a:1", False),
        ({"type": "matchRepository"}, "docker.io/library/busybox:1", "busybox", True),
    ],
)
def test_identity_rules(rule: dict[str, str] | None, image: str, names: str, admitted: bool) -> None:
    requirement = signed() if rule is None else signed(signedIdentity=rule)
    assert asked(policy(requirement), found(names), parse_name(image)).admitted is admitted


def test_a_bundle_without_a_name_satisfies_no_policy_that_compares_names() -> None:
    from kokon.image.signing.forms import encode_bundle

    for identity, admitted in (("", False), (str(IMAGE), True)):
        signature = SIGNER.sign(prepared("bundle", identity, DIGEST))
        bundle = encode_bundle(sign_statement(identity, DIGEST), signature, SIGNER.public, None)
        decision = asked(policy(signed()), Found((parse_bundle(bundle),)))
        assert decision.admitted is admitted
        assert [one.code for one in decision.reasons] == ([] if admitted else ["signature-nameless"])


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"default": [], "more": 1},
        {"default": "reject"},
        {"default": [{"type": "other"}]},
        {"default": [{"type": "reject", "more": 1}]},
        {"default": [], "transports": {"dcoker": {}}},
        {"default": [], "transports": {"docker": []}},
        {"default": [], "transports": {"docker": {"": "reject"}}},
        {"default": [{"type": "sigstoreSigned"}]},
        {"default": [signed(keyData="AAAA")]},
        {"default": [signed(keyPath="")]},
        {"default": [{"type": "sigstoreSigned", "keyPaths": [""]}]},
        {"default": [{"type": "sigstoreSigned", "keyPaths": [1]}]},
        {"default": [{"type": "sigstoreSigned", "keyData": "?"}]},
        {"default": [signed(more=1)]},
        {"default": [signed(signedIdentity={"type": "match"})]},
        {"default": [signed(signedIdentity={"type": "matchExact", "more": 1})]},
        {"default": [signed(signedIdentity={"type": "exactReference", "dockerReference": "h.x/a"})]},
        {"default": [signed(signedIdentity={"type": "exactRepository", "dockerRepository": "H/A"})]},
        {"default": [signed(signedIdentity={"type": "remapIdentity", "prefix": "", "signedPrefix": "a"})]},
    ],
)
def test_a_policy_is_read_strictly(document: object) -> None:
    with pytest.raises(KokonError) as caught:
        parse_policy(json.dumps(document).encode())
    assert caught.value.code in {
        "policy-malformed",
        "image-name-malformed",
        "field-missing",
        "field-type",
        "field-unknown",
        "base64-malformed",
    }


def test_the_short_form_means_the_same() -> None:
    rules = parse_policy_toml(
        b'[images."registry.example:5000/clinic"]\nkeys = ["signer.pub"]\n'
        b'[images."registry.example:5000/free"]\naccept = true\n'
        b'[[images."registry.example:5000/both"]]\nkeys = ["signer.pub"]\nidentity = "matchExact"\n'
        b'[[images."registry.example:5000/both"]]\nreject = true\n'
    )
    one = {"type": "sigstoreSigned", "keyPath": "signer.pub"}
    assert rules == policy(
        REJECT,
        docker={
            f"{HOST}/clinic": [{**one, "signedIdentity": {"type": "matchRepository"}}],
            f"{HOST}/free": [ACCEPT],
            f"{HOST}/both": [{**one, "signedIdentity": {"type": "matchExact"}}, REJECT],
        },
    )
    assert asked(rules, found(f"{HOST}/clinic/app")).admitted
    assert codes(asked(rules, found("x.y/z"), parse_name("x.y/z"))) == ["policy-reject"]
    assert asked(parse_policy_toml(b'default = "accept"'), Found(())).admitted


@pytest.mark.parametrize(
    "text",
    [
        b"=",
        b"\xff",
        b'default = "maybe"',
        b"more = 1",
        b'[images."a.b"]',
        b'[images."a.b"]\naccept = true\nreject = true',
        b'[images."a.b"]\nkeys = ["k"]\nreject = true',
        b'[images."a.b"]\nkeys = ["k"]\nidentity = "remapIdentity"',
        b'[images]\n"a.b" = []',
        b"#" * ((1 << 20) + 1),
    ],
)
def test_the_short_form_is_read_strictly(text: bytes) -> None:
    with pytest.raises(KokonError) as caught:
        parse_policy_toml(text)
    assert caught.value.code in {"policy-malformed", "field-unknown"}


def test_an_image_name_is_checked() -> None:
    for text in ("", "a/B", "a" * 2000, "h.x/a:", "h.x/a@sha256:12", "h.x//a"):
        with pytest.raises(KokonError) as caught:
            parse_name(text)
        assert caught.value.code == "image-name-malformed"
    assert str(parse_name(f"index.docker.io/a:1@{DIGEST}")) == f"docker.io/library/a:1@{DIGEST}"
    assert IdentityRule().kind == "matchRepoDigestOrExact"
