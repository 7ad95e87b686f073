"""The shapes of bodies, by the names that operations refer to. JSON Schema 2020-12. Pure.

Those of requests are closed, as the server refuses members that it does not know. Of answers those are closed that will
not grow; clients must bear further members in the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kokon.provisioning.web.api.common import DIGEST, matching, number
from kokon.provisioning.web.table import ref

_Schema = Mapping[str, Any]

TEXT: Final[_Schema] = {"type": "string"}
BASE64: Final[_Schema] = {"type": "string", "format": "base64"}
TIME: Final[_Schema] = {"type": "string", "format": "date-time"}
FLAG: Final[_Schema] = {"type": "boolean"}
ANYTHING: Final[_Schema] = {}
HEX: Final = matching(r"^([0-9a-f]{2})*$")
PREVIOUS: Final = {
    **matching(r"^([0-9a-f]{64})?$"),
    "description": "digest of the record that it replaces; empty: none",
}
URI: Final = matching(r"^kbs:///[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}){2}$")


def limited(low: int, high: int) -> dict[str, Any]:
    """A text of that many characters."""
    return {"type": "string", "minLength": low, "maxLength": high}


def array(items: _Schema, most: int | None = None) -> dict[str, Any]:
    """A list."""
    found: dict[str, Any] = {"type": "array", "items": items}
    return found if most is None else found | {"maxItems": most}


def nullable(schema: _Schema) -> dict[str, Any]:
    """That, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def closed(
    required: Mapping[str, _Schema], optional: Mapping[str, _Schema] | None = None, **more: Any
) -> dict[str, Any]:
    """An object with these members and no others."""
    return {**opened(required, optional, **more), "additionalProperties": False}


def opened(
    required: Mapping[str, _Schema], optional: Mapping[str, _Schema] | None = None, **more: Any
) -> dict[str, Any]:
    """An object with these members, and maybe others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        **more,
    }


_PROBLEM = closed(
    {"code": matching(r"^[a-z0-9]+(-[a-z0-9]+)*$"), "kind": TEXT, "message": TEXT},
    {"expected": TEXT, "found": TEXT, "hint": TEXT},
)
_KEY = opened({"kty": {"enum": ["EC", "RSA"]}, "alg": TEXT})
_ERRORS: Final[Mapping[str, _Schema]] = {
    "Problem": {**_PROBLEM, "description": "An error: docs/ERRORS.md has the codes."},
    "Error": closed(
        {"error": ref("Problem")},
        {"type": TEXT, "detail": TEXT},
        description="Of a request that could not even be read, also the members of the protocol's error document.",
    ),
    "BrokerError": closed(
        {"type": TEXT, "detail": TEXT},
        {"error": ref("Problem")},
        description="The key broker protocol's error document; who may administrate is told more in `error`.",
    ),
}
_COMPOSITE = closed({"primary_evidence": {}, "additional_evidence": TEXT})
_TEE_KEY = opened({"kty": {"enum": ["EC", "RSA"]}, "alg": {"enum": ["ECDH-ES+A256KW", "RSA-OAEP-256"]}})
_RUNTIME = closed({"nonce": limited(1, 44), "tee-pubkey": ref("TeeKey")})
_INIT_DATA = nullable(closed({"format": {"const": "toml"}, "body": TEXT}))
_PROTOCOL: Final[Mapping[str, _Schema]] = {
    "TeeKey": {**_TEE_KEY, "description": "A public key (RFC 7517) of the enclave, to which resources are encrypted."},
    "Request": closed(
        {
            "version": {"enum": ["0.1.1", "0.2.0", "0.3.0", "0.4.0"]},
            "tee": limited(1, 32),
            "extra-params": {"anyOf": [TEXT, {"type": "null"}, {"type": "object"}]},
        }
    ),
    "Challenge": closed({"nonce": BASE64, "extra-params": TEXT}),
    "Attestation": {
        "anyOf": [
            closed({"runtime-data": _RUNTIME, "tee-evidence": _COMPOSITE}, {"init-data": _INIT_DATA}, title="0.4.0"),
            closed({"runtime-data": _RUNTIME, "tee-evidence": ANYTHING}, {"init-data": _INIT_DATA}, title="0.3.0"),
            closed({"tee-pubkey": ref("TeeKey"), "tee-evidence": ANYTHING}, title="0.1.1 and 0.2.0"),
        ]
    },
    "Jwe": closed(
        dict.fromkeys(("protected", "encrypted_key", "iv", "ciphertext", "tag"), TEXT),
        description="A flattened JWE (RFC 7516).",
    ),
    "Event": closed({"code": limited(1, 64)}, {"text": limited(0, 500)}),
}

_WRITTEN = {"path": TEXT, "version": number(1), "kind": ref("SecretKind")}
_TERMS = {"expires": TIME, "previous": number(0, 2**53), "keep": number(1, 1000)}
_TO_1024 = "(1[6-9]|[2-9][0-9]|[1-9][0-9]{2}|10[01][0-9]|102[0-4])"
_TO_256 = "(1[6-9]|[2-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-6])"
_ONES = "uuid|ed25519|x25519|p256|p384|rsa3072|rsa4096"
_RECIPE = rf"^((bytes|hex|base64):{_TO_1024}|password:{_TO_256}|{_ONES})$"
_SECRETS: Final[Mapping[str, _Schema]] = {
    "SecretKind": {"enum": ["given", "generated", "derived"]},
    "Secret": closed(
        {**_WRITTEN, "recipe": TEXT, "created": TIME, "expires": nullable(TIME), "versions": array(number(1))},
        {"public": TEXT},
        description="What is told of a secret; `public` is the public half of a key pair (PEM).",
    ),
    "SecretWritten": closed(_WRITTEN, {"public": TEXT}),
    "SecretPut": {
        "anyOf": [
            closed({"value": {**BASE64, "pattern": r"^[A-Za-z0-9+/]*={0,2}$"}}, _TERMS),
            closed({"generate": matching(_RECIPE)}, _TERMS),
            closed({"derive": {"enum": ["workload", "platform", "activation"]}}, _TERMS),
        ],
        "description": "A secret that is given, generated, or derived for each who asks.",
    },
    "SecretRotate": closed({}, _TERMS),
}

_DEMANDS = closed({}, {"allow_debug": FLAG, "minimum_tcb": {"type": "object", "additionalProperties": number(0, 255)}})
_NAME = matching(r"^[a-z0-9][a-z0-9_.-]{0,62}$")
_SUMMARY = opened(
    {
        "name": TEXT,
        "image": TEXT,
        "author": TEXT,
        "host_data": HEX,
        "measurements": array(closed({"tee": TEXT, "measurement": HEX})),
        "not_after": TIME,
        "resources": array(TEXT),
        "policy": _DEMANDS,
        "admitted": TIME,
        "references": TEXT,
        "platform": TEXT,
        "max_activations": nullable(number(1)),
        "previous": PREVIOUS,
        "admitted_by": TEXT,
    }
)
_IMAGE = {
    "launch_document": TEXT,
    "manifest": BASE64,
    "signature": closed({"payload": BASE64, "signature": BASE64}),
    "statement": {"type": "object"},
}
_GRANTED = {"policy": _DEMANDS, "resources": array(URI, 256), "previous": PREVIOUS}
_WORKLOADS: Final[Mapping[str, _Schema]] = {
    "Workload": {**_SUMMARY, "description": "Which enclaves get which secrets."},
    "WorkloadDigest": opened({"digest": matching(DIGEST)}, description="Hex SHA-256 of the record."),
    "WorkloadAdmission": {
        "anyOf": [
            closed({"name": _NAME, **_IMAGE}, _GRANTED, title="an image"),
            closed(
                {"name": _NAME, "references": TEXT, "resources": array(URI, 256), "not_after": TIME},
                {"policy": TEXT, "max_activations": nullable(number(1, 1 << 31)), "previous": PREVIOUS},
                title="what the hardware measures",
            ),
            opened({"name": _NAME, "rule": {"type": "object"}}, {"previous": PREVIOUS}, title="a rule"),
        ]
    },
    "WorkloadAdmitted": {
        "allOf": [
            ref("Workload"),
            ref("WorkloadDigest"),
            opened({"generated": array(TEXT), "replaced": nullable(TEXT)}),
        ],
        "description": "The workload, which secrets were made for it, and what it replaced.",
    },
    "WorkloadVersion": {
        "allOf": [ref("Workload"), ref("WorkloadDigest"), opened({"record": number(1), "created": TIME})]
    },
    "StatementRequest": opened({"launch_document": TEXT, "statement": {"type": "object"}}, title="an image"),
    "StatementAdded": opened({"workload": TEXT, "host_data": HEX}),
}

_POLICY = {"kind": ref("PolicyKind"), "name": TEXT, "version": number(1), "digest": matching(DIGEST)}
_TEXT_VERSION = closed(
    {"version": number(1), "digest": matching(DIGEST), "previous": PREVIOUS, "by": TEXT, "created": TIME}
)
_BROKER_POLICY = {**matching(r"^[A-Za-z0-9_+/-]*={0,2}$"), "description": "base64url of the Rego text"}
_POLICIES: Final[Mapping[str, _Schema]] = {
    "PolicyKind": {"enum": ["platform", "attestation", "resource"]},
    "Policy": closed({**_POLICY, "created": TIME}),
    "PolicyText": closed({**_POLICY, "created": TIME, "text": TEXT, "history": array(_TEXT_VERSION)}),
    "PolicyPut": closed({"text": limited(0, 1 << 20)}, {"previous": PREVIOUS}),
    "PolicyWritten": closed(_POLICY),
    "BrokerAttestationPolicy": closed(
        {"policy": _BROKER_POLICY}, {"policy_id": limited(1, 64), "type": limited(0, 64)}
    ),
    "BrokerResourcePolicy": closed({"policy": _BROKER_POLICY}, {"type": limited(0, 64)}),
    "BrokerReference": closed(
        {"type": {"enum": ["sample", "corim"]}, "payload": BASE64}, {"version": {"const": "0.1.0"}}
    ),
    "Reference": closed({"name": TEXT, "value": ANYTHING, "expires": TIME}),
}

_LOG: Final[Mapping[str, _Schema]] = {
    "LogEntries": closed({"entries": array(TEXT), "size": number()}, description="Texts exactly as they were hashed."),
    "LogReceipt": closed(
        {
            "format": {"const": "kokon log receipt v1"},
            "entry": TEXT,
            "index": number(),
            "proof": array(BASE64),
            "checkpoint": TEXT,
        }
    ),
    "LogConsistency": closed({"size": number(), "proof": array(BASE64), "checkpoint": TEXT}),
    "LogCosignature": closed({"checkpoint": limited(1, 1 << 20), "line": limited(1, 4096), "key": limited(1, 1024)}),
    "LogCosigned": closed({"size": number(), "witness": TEXT}),
    "LogHeads": closed({"cosigned": {"type": "object", "additionalProperties": TEXT}}),
    "LogEntry": opened({"time": TIME, "event": TEXT, "project": TEXT}, description="An entry of the log: docs/LOG.md."),
}

_SCOPE = closed({"project": limited(1, 64), "path": limited(1, 2048)})
_END = matching(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")
_ROLE = {"enum": ["owner", "operator", "auditor"]}
_PRINCIPAL = {
    "id": matching(r"^[a-z2-7]{12}$"),
    "name": TEXT,
    "role": _ROLE,
    "scopes": array(_SCOPE),
    "created": _END,
    "credential": {"enum": ["token", "certificate"]},
}
_PROJECT = matching(r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")
_STATUS_PROJECT = opened(
    {"project": TEXT, "generation": number(), "log_size": number(), "secrets": number(), "workloads": number()}
)
_SERVER: Final[Mapping[str, _Schema]] = {
    "Project": closed({"name": _PROJECT}),
    "Principal": closed(_PRINCIPAL, {"expires": _END}),
    "PrincipalAdd": closed(
        {
            "name": matching(r"^[A-Za-z0-9]([A-Za-z0-9 ._@-]{0,62}[A-Za-z0-9])?$"),
            "role": _ROLE,
            "scopes": {**array(_SCOPE, 64), "minItems": 1, "uniqueItems": True},
        },
        {"expires": _END, "certificate": limited(1, 16 << 10)},
    ),
    "PrincipalAdded": closed(
        _PRINCIPAL, {"expires": _END, "token": TEXT}, description="`token` is shown this once, and kept nowhere."
    ),
    "Status": opened(
        {
            "version": TEXT,
            "time": TIME,
            "owner_key": matching(DIGEST),
            "token_key": TEXT,
            "projects": array(_STATUS_PROJECT),
        }
    ),
    "Jwk": {**_KEY, "description": "A public key (RFC 7517)."},
    "Ready": closed({"ready": FLAG, "checks": {"type": "object", "additionalProperties": {"enum": ["ok", "failed"]}}}),
}

SCHEMAS: Final[Mapping[str, _Schema]] = {
    **_ERRORS,
    **_PROTOCOL,
    **_SECRETS,
    **_WORKLOADS,
    **_POLICIES,
    **_LOG,
    **_SERVER,
}
"""All of them."""
