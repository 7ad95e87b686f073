"""Every reason belongs to a code that a guest can really end with, and is a sentence for people."""

import json

from kokon.host.reasons import REASONS
from kokon.host.status import guest_error, parse_status
from support.codes import raised


def test_reasons_belong_to_codes() -> None:
    assert set(REASONS) <= set(raised())


def test_a_code_gets_its_words() -> None:
    line = json.dumps(
        {"t": 1, "phase": "failed", "kind": "denied", "code": "provisioning-denied", "found": "debug-enabled"}
    )
    status = parse_status(line.encode())
    assert status is not None
    error = guest_error(status)
    assert error.message == REASONS["provisioning-denied"]
    assert error.found == "debug-enabled"


def test_an_unknown_code_is_shown_as_it_is() -> None:
    status = parse_status(b'{"t": 1, "phase": "failed", "code": "never-heard-of"}')
    assert status is not None
    assert guest_error(status).code == "never-heard-of"
