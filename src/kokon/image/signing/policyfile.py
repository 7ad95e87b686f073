"""Policies as people write them: containers-image's policy.json, and a short TOML form that means the same. Pure.

TOML:

    default = "reject"                       # or "accept"; without it: reject

    [images."registry.example/clinic"]       # a scope of the transport docker, as in policy.json; "" is all
    keys = ["author.pub"]                    # a signature by one of them
    identity = "matchRepository"             # the default; or another kind of policy.json without parameters

    [images."registry.example/tests"]
    accept = true                            # or: reject = true

An array of tables (`[[images."..."]]`) gives several requirements, all of which must hold.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, Final

from kokon.errors import MalformedError
from kokon.image.ecdsa import PEM_LIMIT
from kokon.image.signing.identity import MATCHES, IdentityRule, MatchKind, parse_name
from kokon.image.signing.policy import Policy, Requirement
from kokon.wire import Fields, parse_json, unb64

if TYPE_CHECKING:
    from collections.abc import Mapping

POLICY_LIMIT: Final = 1 << 20
SCOPES_LIMIT: Final = 4096
KEYS_LIMIT: Final = 64
TRANSPORTS: Final = (
    "docker",
    "atomic",
    "containers-storage",
    "dir",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "ostree",
    "sif",
    "tarball",
)
"""What containers-image knows; a misspelt one would silently never be asked."""
_ACCEPT: Final = Requirement("insecureAcceptAnything")
_REJECT: Final = Requirement("reject")
_BEYOND: Final = ("fulcio", "pki", "rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData")
"""What makes a sigstoreSigned requirement one of certificates and logs, which is not checked here."""
_SIMPLE: Final[tuple[MatchKind, ...]] = ("matchExact", "matchRepoDigestOrExact", "matchRepository")


def parse_policy(data: bytes) -> Policy:
    """A policy.json of at most 1 MiB.

    Raises `MalformedError` (`policy-malformed`, `image-name-malformed`, the codes of `kokon.wire`).
    """
    fields = Fields(parse_json(data, limit=POLICY_LIMIT, what="policy"), "policy")
    default = _requirements(fields.array("default", limit=KEYS_LIMIT))
    transports: dict[str, Mapping[str, tuple[Requirement, ...]]] = {}
    for name, scopes in fields.table("transports", default={}).items():
        if name not in TRANSPORTS:
            raise _malformed("no such transport", ", ".join(TRANSPORTS), name)
        if not isinstance(scopes, dict) or len(scopes) > SCOPES_LIMIT:
            raise _malformed("a transport holds scopes, not too many of them", f"<= {SCOPES_LIMIT}", name)
        transports[name] = {scope: _requirements(value) for scope, value in scopes.items()}
    fields.finish()
    return Policy(default, transports)


def parse_policy_toml(data: bytes) -> Policy:
    """The short form, of at most 1 MiB. Raises as `parse_policy`."""
    if len(data) > POLICY_LIMIT:
        raise _malformed("the policy is too large", f"<= {POLICY_LIMIT} bytes", len(data))
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _malformed("the policy is not TOML", None, error) from error
    fields = Fields(document, "policy")
    default = fields.text("default", default="reject", limit=16)
    images = fields.table("images", default={})
    fields.finish()
    if default not in ("reject", "accept") or len(images) > SCOPES_LIMIT:
        raise _malformed("the default is wrong, or there are too many images", "reject or accept", default)
    scopes = {scope: _short(value) for scope, value in images.items()}
    return Policy((_REJECT if default == "reject" else _ACCEPT,), {"docker": scopes})


def _short(value: Any) -> tuple[Requirement, ...]:
    members = value if isinstance(value, list) else [value]
    if not 0 < len(members) <= KEYS_LIMIT:
        raise _malformed("a scope needs requirements", f"1 to {KEYS_LIMIT}", len(members))
    return tuple(_short_one(member) for member in members)


def _short_one(value: Any) -> Requirement:
    fields = Fields(value, "requirement")
    accept, reject = fields.flag("accept", default=False), fields.flag("reject", default=False)
    keys = _texts(fields.array("keys", default=[], limit=KEYS_LIMIT))
    kind = fields.text("identity", default="matchRepository", limit=64)
    fields.finish()
    if accept + reject + bool(keys) != 1:
        raise _malformed("a requirement says one thing", "keys, accept or reject", "none or several")
    if keys:
        if kind not in _SIMPLE:
            raise _malformed("no such identity rule in the short form", ", ".join(_SIMPLE), kind)
        return Requirement("sigstoreSigned", keys, identity=IdentityRule(kind))
    return _ACCEPT if accept else _REJECT


def _requirements(value: Any) -> tuple[Requirement, ...]:
    if not isinstance(value, list) or len(value) > KEYS_LIMIT:
        raise _malformed("requirements stand in an array", f"<= {KEYS_LIMIT}", type(value).__name__)
    return tuple(_requirement(member) for member in value)


def _requirement(value: Any) -> Requirement:
    fields = Fields(value, "requirement")
    kind = fields.text("type", limit=64)
    if kind == "signedBy":  # GPG: its members are another tool's to judge
        return Requirement("unsupported", note="signedBy (GPG)")
    if kind == "sigstoreSigned":
        return _sigstore(fields)
    fields.finish()
    if kind not in ("insecureAcceptAnything", "reject"):
        raise _malformed("no such requirement", "insecureAcceptAnything, reject, signedBy, sigstoreSigned", kind)
    return _ACCEPT if kind == "insecureAcceptAnything" else _REJECT


def _sigstore(fields: Fields) -> Requirement:
    beyond = [name for name in _BEYOND if fields.value(name, default=None) is not None]
    sources = [
        ((fields.optional_text("keyPath") or "",), ()),
        (_texts(fields.array("keyPaths", default=[], limit=KEYS_LIMIT)), ()),
        ((), (fields.optional_text("keyData", limit=2 * PEM_LIMIT) or "",)),
        ((), _texts(fields.array("keyDatas", default=[], limit=KEYS_LIMIT), 2 * PEM_LIMIT)),
    ]
    rule = fields.value("signedIdentity", default=None)
    identity = IdentityRule() if rule is None else _identity(rule)
    fields.finish()
    if beyond:
        return Requirement("unsupported", note=f"sigstoreSigned with {', '.join(beyond)}")
    given = [(paths, data) for paths, data in sources if any(paths) or any(data)]
    if len(given) != 1:
        raise _malformed("one source of keys", "one of keyPath, keyPaths, keyData, keyDatas", len(given))
    paths, data = given[0]
    keys = tuple(unb64(text, what="keyData", limit=PEM_LIMIT) for text in data)
    return Requirement("sigstoreSigned", tuple(paths), keys, identity)


def _identity(value: Any) -> IdentityRule:
    fields = Fields(value, "signedIdentity")
    kind = fields.text("type", limit=64)
    if kind not in MATCHES:
        raise _malformed("no such identity rule", ", ".join(MATCHES), kind)
    rule = IdentityRule(kind)
    if kind == "exactReference":
        rule = IdentityRule("exactReference", reference=fields.text("dockerReference"))
        if parse_name(rule.reference).bare:
            raise _malformed("an exact reference has a tag or a digest", "host/repository:tag", rule.reference)
    elif kind == "exactRepository":
        rule = IdentityRule("exactRepository", repository=fields.text("dockerRepository"))
        parse_name(rule.repository)
    elif kind == "remapIdentity":
        rule = IdentityRule("remapIdentity", prefix=fields.text("prefix"), signed_prefix=fields.text("signedPrefix"))
        if not rule.prefix or not rule.signed_prefix:
            raise _malformed("a prefix is never empty", "prefix and signedPrefix", "nothing")
    fields.finish()
    return rule


def _texts(members: list[Any], limit: int = 4096) -> tuple[str, ...]:
    for member in members:
        if not isinstance(member, str) or not member or len(member) > limit:
            raise _malformed("keys are texts", f"1 to {limit} characters", type(member).__name__)
    return tuple(members)


def _malformed(message: str, expected: object, found: object) -> MalformedError:
    return MalformedError("policy-malformed", f"the policy is wrong: {message}", expected=expected, found=found)
