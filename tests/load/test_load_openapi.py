"""Every operation of the OpenAPI document, with what the document allows and what it does not: no server error, no
answer that the document does not describe, and afterwards every promise holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from bench.load.fleet import fleet
from bench.load.scenarios import prepare
from bench.load.seen import Seen, audit
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
EXAMPLES = int(os.environ.get("LOAD_EXAMPLES", "3"))
"""For each operation, good ones and bad ones each. More: LOAD_EXAMPLES, with LOAD_SEED for others."""
SEED = int(os.environ.get("LOAD_SEED", "4"))
NOTHING_TO_SPOIL = {
    "GET /kokon/v1/owner-key",
    "GET /.well-known/jwks.json",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
}


def run(strategy: Any, test: Callable[[Any], None], most: int = EXAMPLES) -> None:
    """Give `test` a fixed number of cases, the same each time."""
    limits = settings(
        max_examples=most,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    def once(case: Any) -> None:
        test(case)

    hypothesis.seed(SEED)(limits(hypothesis.given(case=strategy)(once)))()


def test_every_operation_keeps_to_the_document(tmp_path: Path) -> None:
    with fleet(tmp_path, 1, None, "--rate", "0") as servers:
        prepare(servers)
        certificate = tmp_path / "certificate.pem"
        certificate.write_text(servers.access.certificate)
        url = f"https://127.0.0.1:{servers.ports[0]}"
        document = schemathesis.openapi.from_url(f"{url}/openapi.json", verify=str(certificate))
        owner = {"Authorization": f"Bearer {servers.access.token}"}
        asked: dict[str, set[int]] = {}

        def ask(headers: dict[str, str], label: str, case: Any) -> None:
            answer = case.call(headers=headers, verify=str(certificate), timeout=30)
            asked.setdefault(label, set()).add(answer.status_code)
            case.validate_response(answer, checks=CHECKS)

        unspoilt = set()
        for found in document.get_all_operations():
            operation = found.ok()
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
                try:
                    run(operation.as_strategy(generation_mode=mode), partial(ask, owner, operation.label))
                except Unsatisfiable:
                    unspoilt.add(operation.label)
        assert unspoilt == NOTHING_TO_SPOIL
        assert len(asked) == len(list(document.get_all_operations()))
        assert sum(200 in statuses for statuses in asked.values()) > len(asked) / 3, "hardly anything was done"
        audit(servers, Seen())


def test_nothing_is_done_without_a_token(tmp_path: Path) -> None:
    """Whatever the document says needs one: 401, and the record is as it was."""
    with fleet(tmp_path, 1, None, "--rate", "0") as servers:
        prepare(servers)
        certificate = tmp_path / "certificate.pem"
        certificate.write_text(servers.access.certificate)
        url = f"https://127.0.0.1:{servers.ports[0]}"
        document = schemathesis.openapi.from_url(f"{url}/openapi.json", verify=str(certificate))
        with servers.admin() as admin:
            before = (admin.secrets(), admin.workloads(), admin.policies(), admin.principals(), admin.projects())
        forged = f"{servers.access.token[:-1]}{'A' if servers.access.token[-1] != 'A' else 'B'}"
        wrong: list[tuple[str, int]] = []

        def ask(headers: dict[str, str], label: str, case: Any) -> None:
            case.headers.pop("Authorization", None)
            answer = case.call(headers=headers, verify=str(certificate), timeout=30)
            if answer.status_code not in (401, 403, 404, 400):
                wrong.append((label, answer.status_code))

        closed = 0
        for found in document.get_all_operations():
            operation = found.ok()
            if not any("certificate" in one for one in operation.definition.raw["security"]):
                continue  # not for principals
            closed += 1
            for headers in ({}, {"Authorization": f"Bearer {forged}"}):
                run(operation.as_strategy(), partial(ask, headers, operation.label), 1)
        assert closed > 30
        assert not wrong
        with servers.admin() as admin:
            after = (admin.secrets(), admin.workloads(), admin.policies(), admin.principals(), admin.projects())
        assert after == before
