"""Reference values: what a genuine launch measures to. Pure values; `matching.py` holds claims against them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

from kokon.tee.evidence import Claims

_PCR: Final = re.compile(r"((?:sha[0-9]{1,3}:)?)pcr0*([0-9]{1,2})")
_NONE: Final[Mapping[str, bytes]] = {}


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """One acceptable launch: what is None or empty is not compared.

    `measurements` are MEASUREMENT or MRTD (48 bytes), MRENCLAVE (32), PCR0 on Nitro (48), any of which will do, until
    `not_after` (aware). `host_data` is HOST_DATA (32), MRCONFIGID (48) or CONFIGID (64), or a prefix that zeros follow:
    the digest of the launch document. `tee` restricts all this to one kind of TEE ("simulated": to a simulated root),
    `name` and `source` tell people where it comes from and who signed it.
    """

    measurements: tuple[bytes, ...] = ()
    not_after: datetime | None = None
    host_data: bytes | None = None
    registers: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    """Acceptable values by register: "rtmr1", "pcr11", "mrseam"; spelling as `register_name` understands it."""
    report_data: bytes | None = None
    """REPORT_DATA, extraData or nonce. Where the field is longer, zeros must follow, unless `report_data_prefix`."""
    report_data_prefix: bool = False
    """True if anything may follow `report_data`."""
    signers: tuple[bytes, ...] = ()
    """MRSIGNER (32) or ID_KEY_DIGEST (48), any of which will do."""
    product_id: int | None = None
    """ISVPRODID, which must be equal."""
    security_version: int | None = None
    """The lowest ISVSVN or GUEST_SVN that is good enough."""
    minimum_tcb: Mapping[str, int] = field(default_factory=dict)
    """Lowest SNP TCB components, besides those that the policy demands."""
    tee: str = ""
    name: str = ""
    source: str = ""

    @property
    def given(self) -> frozenset[str]:
        """Names of what is said about executables: registers without their bank, "measurement", "signer"."""
        names = {register_name(name).rpartition(":")[2] for name in self.registers}
        names |= {"measurement"} if self.measurements else set()
        return frozenset(names | ({"signer"} if self.signers else set()))

    @property
    def title(self) -> str:
        """How people are told which reference this is."""
        return " of ".join(text for text in (self.name, self.source) if text) or "given values"

    def fits(self, claims: Claims) -> bool:
        """True if this is about the kind of TEE that `claims` come from."""
        return self.tee in ("", claims.tee) or (self.tee == "simulated" and claims.simulated)


@lru_cache(maxsize=1024)
def register_name(name: str) -> str:
    """One spelling for each register: lower case, no separators, PCR numbers without leading zeros. A bank stands
    before a PCR's name; without one it is the strongest that was quoted.

    >>> register_name("RTMR_1"), register_name("SHA-256:pcr07"), register_name("mr_td")
    ('rtmr1', 'sha256:pcr7', 'mrtd')
    """
    plain = name.lower().replace("_", "").replace("-", "")
    pcr = _PCR.fullmatch(plain)
    return f"{pcr[1]}pcr{int(pcr[2])}" if pcr else plain


def registers_of(claims: Claims) -> Mapping[str, bytes]:
    """All registers by `register_name`: those of the claims, then those of the hardware report inside them."""
    if not claims.registers and not claims.parts:
        return _NONE
    found: dict[str, bytes] = {}
    for part in (claims, *claims.parts):
        for name, value in part.registers.items():
            found.setdefault(register_name(name), value)
    return found
