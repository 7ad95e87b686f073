"""AMD's key distribution service: VCEKs by chip and TCB, the product lines' chains, their revocation lists.

AMD document 57230, section 4. The service hands out about one VCEK in ten seconds to an address and then says 429; so
VCEKs wait for their turn at a `Gate` that all processes share. The rest is not counted that way (as far as is known)
and is only asked for again, later, when the service says so.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from kokon.endorsements.http import Gate, Getter, check_url
from kokon.endorsements.needs import COMPONENTS, chip, parameter, product
from kokon.errors import MalformedError, UnreachableError
from kokon.tee.certificates import CERTIFICATE_LIMIT
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Need
from kokon.tee.intel.pem import CERTIFICATE, read_blocks
from kokon.tee.revocation import CRL_LIMIT

URL: Final = "https://kdsintf.amd.com"
CHAIN_LIMIT: Final = 4 * CERTIFICATE_LIMIT
CHAIN_LENGTH: Final = 2


def path(need: Need) -> str:
    """Path and query for a need. Raises `UsageError` (`endorsement-parameters`)."""
    if need.kind == "vcek":
        wanted = chip(need)
        query = urlencode({COMPONENTS[name]: f"{number:02d}" for name, number in wanted.tcb.items()})
        return f"/vcek/v1/{wanted.product}/{wanted.hardware_id.hex()}?{query}"
    if need.kind == "amd-chain":
        return f"/{parameter(need, 'kind', 'vcek', 'vlek')}/v1/{product(need)}/cert_chain"
    return f"/vcek/v1/{product(need)}/crl"


class Kds:
    """The service at `url`. What it answers is not examined here; raises what `Getter` raises."""

    kinds: Final = frozenset({"vcek", "amd-chain", "amd-crl"})

    def __init__(self, getter: Getter, gate: Gate, url: str = URL) -> None:
        self._getter = getter
        self._gate = gate
        self._url = check_url(url)

    def variant(self, _need: Need) -> str:
        """What, beside the need, an answer depends on: nothing."""
        return ""

    def fetch(self, need: Need) -> Endorsements:
        """The answer to a need of one of `kinds`; of a chain, the intermediate comes first."""
        url = self._url + path(need)
        if need.kind == "vcek":
            return Endorsements((self._getter.get(url, limit=CERTIFICATE_LIMIT, gate=self._gate).body,))
        if need.kind == "amd-crl":
            return Endorsements(crls=(self._getter.get(url, limit=CRL_LIMIT).body,))
        return Endorsements(_chain(self._getter.get(url, limit=CHAIN_LIMIT).body))


def _chain(body: bytes) -> tuple[bytes, ...]:
    try:
        found = read_blocks(body, CERTIFICATE)
    except MalformedError as error:
        raise _no_chain(error) from error
    if len(found) != CHAIN_LENGTH:
        raise _no_chain(len(found))
    return found


def _no_chain(found: object) -> UnreachableError:
    return UnreachableError(
        "endorsement-answer-malformed",
        "AMD's service gives a chain that is none",
        expected=f"{CHAIN_LENGTH} certificates in PEM",
        found=found,
    )
