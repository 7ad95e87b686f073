"""All cases, in the order in which they are tried: what others build on first, what changes policies last."""

from __future__ import annotations

from typing import Final

from kokon.conformance.case import Case
from kokon.conformance.cases import (
    admin,
    attest,
    auth,
    binding,
    expiry,
    guest_token,
    host,
    paths,
    policies,
    release,
    session,
)

ALL: Final[tuple[Case, ...]] = (
    *auth.CASES,
    *session.CASES,
    *attest.CASES,
    *binding.CASES,
    *guest_token.CASES,
    *release.CASES,
    *paths.CASES,
    *admin.CASES,
    *policies.CASES,
    *expiry.CASES,
    *host.CASES,
)
