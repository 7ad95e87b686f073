"""Countersign an image's identity statement: a certifier puts a signature beside the author's, over the same payload.

The countersigned envelope is attached to the image as one more statement; the author's own stays. What the certifier
vouches for is exactly what the author said. It takes a key that signs nothing else: read by somebody who trusts it as
an author's, the statement would look like that author's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.image.dsse import (
    ENVELOPE_TYPE,
    IN_TOTO_TYPE,
    SIGNATURES_LIMIT,
    Envelope,
    certify_envelope,
    parse_envelope,
    verify_envelope,
)
from kokon.image.ecdsa import key_id, load_public_key
from kokon.image.manifest import MANIFEST_TYPE, check_digest, parse_manifest
from kokon.image.open import check_statement, fetch_envelope, fetch_statement, statement_descriptors
from kokon.image.registry import descriptor_of
from kokon.image.signature import fetch_signature

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from kokon.image.fetch import Fetcher
    from kokon.image.reference import Reference
    from kokon.image.registry import Registry
    from kokon.image.statement import Statement


@dataclass(frozen=True, slots=True)
class Certified:
    """A countersigned statement; `referrer` is the digest of what was attached, None if nothing was to be added."""

    statement: Statement
    envelope: Envelope
    referrer: str | None


def certify(
    fetcher: Fetcher,
    registry: Registry,
    image: Reference,
    author: str,
    key: EllipticCurvePrivateKey,
    now: datetime,
) -> Certified:
    """Countersign with `key` the newest statement of `author` (PEM) about the pinned `image`, and attach it.

    Image signature, statement, dates and subject are checked as a guest checks them. Signatures of other certifiers on
    copies of the same statement are brought together, so that one envelope has them all. Raises `UsageError`
    (`certifier-is-author`, `dsse-full`), `MalformedError` (`digest-malformed`: the image is not pinned), and what
    `fetch_signature`, `fetch_statement`, `check_statement` and the registry raise.
    """
    if key_id(key.public_key()) == key_id(load_public_key(author)):
        raise UsageError(
            "certifier-is-author",
            "an author does not certify what is the author's own",
            expected="the key of somebody else",
            found="the author's key",
        )
    digest = check_digest(image.digest or "", what="image digest")
    data, _ = fetcher.manifest(digest)
    fetch_signature(fetcher, digest, author)
    statement, text = fetch_statement(fetcher, digest, author, now)
    check_statement(statement, parse_manifest(data))
    newest = parse_envelope(text)
    envelope = certify_envelope(gather(newest, _copies(fetcher, digest), author), key)
    if envelope == newest:
        return Certified(statement, envelope, None)
    blob = json.dumps(envelope.as_dict(), separators=(",", ":")).encode()
    subject = descriptor_of(MANIFEST_TYPE, data)
    return Certified(statement, envelope, registry.attach(image.repository, subject, IN_TOTO_TYPE, blob, ENVELOPE_TYPE))


def gather(envelope: Envelope, others: Iterable[Envelope], author: str) -> Envelope:
    """`envelope` with the signatures that `others` have on the same payload, if the author (PEM) signed them too.

    Whose those signatures are is not known here: who counts certifiers checks each of them. Room for one more stays.
    """
    signatures = list(envelope.signatures)
    for other in others:
        if (other.payload_type, other.payload) == (envelope.payload_type, envelope.payload) and _signed(other, author):
            known = {signature for _, signature in signatures}
            signatures += [one for one in other.signatures if one[1] not in known]
    room = max(len(envelope.signatures), SIGNATURES_LIMIT - 1)
    return replace(envelope, signatures=tuple(signatures[:room]))


def _signed(envelope: Envelope, author: str) -> bool:
    try:
        verify_envelope(envelope, author)
    except (UntrustedError, MalformedError):
        return False
    return True


def _copies(fetcher: Fetcher, digest: str) -> Iterator[Envelope]:
    for descriptor in statement_descriptors(fetcher, digest):
        try:
            yield parse_envelope(fetch_envelope(fetcher, descriptor))
        except (UntrustedError, MalformedError):
            continue
