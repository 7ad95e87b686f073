"""Principals, scopes and strategies for the tests of access."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from kokon.provisioning.access.principal import Credential, Principal, make_principal
from kokon.provisioning.access.roles import Role
from kokon.provisioning.access.scope import EVERYTHING, Grant

NOW = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)
CREDENTIAL = Credential("token", b"d" * 32)


def principal(role: Role = Role.OWNER, *scopes: Grant, **changes: Any) -> Principal:
    """A principal of that role and scope (everything, if none is given)."""
    parts: dict[str, Any] = {
        "id": "abcdefgh2345",
        "name": "Ada",
        "created": NOW,
        "expires": None,
        "credential": CREDENTIAL,
    }
    return make_principal(role=role, scopes=scopes or (EVERYTHING,), **{**parts, **changes})


SEGMENTS = st.sampled_from(["a", "b", "secret", "db-1"])
"""Few, so that patterns meet paths."""
PROJECTS = st.sampled_from(["default", "bank", "clinic"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)
PATTERNS = st.lists(SEGMENTS | st.just("*"), min_size=1, max_size=4).map("/".join)
GRANTS = st.builds(Grant, PROJECTS | st.just("*"), PATTERNS)
SCOPES = st.lists(GRANTS, min_size=1, max_size=3, unique=True).map(tuple)
EXPIRIES = st.none() | st.integers(1, 5).map(lambda days: NOW + timedelta(days=days))
PRINCIPALS = st.builds(
    lambda role, scopes, expires: principal(role, *scopes, expires=expires), st.sampled_from(Role), SCOPES, EXPIRIES
)
PLACES = st.tuples(PROJECTS | st.just(""), PATHS | st.none())
