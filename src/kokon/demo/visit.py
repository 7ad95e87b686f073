"""A user's request for a patient's record: over the attested channel, and to the ordinary container."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import httpx2

from kokon.channel.client import AttestedPeer
from kokon.channel.transport import AttestedTransport
from kokon.channel.trust import read_trust

PATH = "/patients/1"


def visit(url: str, home: Path, token: str, mark: str) -> dict[str, Any]:
    """The record, asked for over attested TLS with the trust in `home`; `mark` travels in the request."""
    transport = AttestedTransport(AttestedPeer(url, read_trust(home / "trust.json")))
    with httpx2.Client(transport=transport, timeout=30) as client:
        answer = client.get(f"{url}{PATH}?{mark}", headers={"Authorization": f"Bearer {token}"})
    return dict(answer.raise_for_status().json())


def visit_plain(url: str, token: str, mark: str) -> dict[str, Any]:
    """The same over plain HTTP, as inside most clusters."""
    request = urllib.request.Request(  # noqa: S310
        f"{url}{PATH}?{mark}", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return dict(json.load(answer))
