"""AWS Nitro Enclaves' place in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kokon.tee.evidence import Evidence
from kokon.tee.nitro.document import MESSAGE_LIMIT, read_message
from kokon.tee.nitro.verify import describe_document, verify_nitro
from kokon.tee.registry import Tee
from kokon.wire import Fields, b64, unb64

_STARTS: Final = (bytes.fromhex("8444a1013822"), bytes.fromhex("d28444a1013822"))
"""A COSE_Sign1 message, untagged as AWS makes it or tagged 18, whose protected header names ES384 and nothing else."""


def recognise(data: bytes) -> Evidence | None:
    """A raw document. Raises `MalformedError` for what begins as one and is none (those of `read_message`)."""
    if not data.startswith(_STARTS):
        return None
    read_message(data)
    return Evidence("nitro", data)


def from_envelope(value: Mapping[str, Any]) -> Evidence:
    """From `{"document": base64}`. The KBS protocol knows no Nitro evidence: this object is ours.

    Raises `MalformedError`: those of `Fields`, of base64 and of `read_message`.
    """
    fields = Fields(value, "Nitro evidence")
    text = fields.text("document", limit=2 * MESSAGE_LIMIT)
    fields.finish()
    document = unb64(text, what="the attestation document", limit=MESSAGE_LIMIT)
    read_message(document)
    return Evidence("nitro", document)


def to_envelope(evidence: Evidence) -> dict[str, Any]:
    """The JSON object; inverse of `from_envelope`."""
    return {"document": b64(evidence.report)}


def describe(evidence: Evidence) -> dict[str, Any]:
    """All fields of the document by AWS's names, and the message's header and signature."""
    message, document = read_message(evidence.report)
    return describe_document(document) | {
        "cose": {
            "protected": message.protected.hex(),
            "algorithm": message.algorithm,
            "signature": message.signature.hex(),
        }
    }


NITRO: Final = Tee("nitro", verify_nitro, recognise, from_envelope, describe)
