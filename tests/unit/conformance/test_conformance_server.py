"""The suite over TLS against this repository's own server, and what it must find there at the least."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kokon.cli.main import main
from kokon.conformance.case import Outcome
from kokon.conformance.evidence import Snp, fitted_digest
from kokon.conformance.options import DEFAULT_MEASUREMENT, Options, parse_target
from kokon.conformance.run import Report, run
from kokon.errors import UntrustedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.simulated.keys import load_processor, root_fingerprint
from kokon.tee.simulated.processor import Processor

README = Path(__file__).parents[3] / "README.md"
SECRET = "clinic/secret/db-password"


@pytest.fixture(scope="module")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    return load_processor(tmp_path_factory.mktemp("chip"))


@pytest.fixture(scope="module")
def server(provisioning: Any, chip: Processor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    accepted = Endorsements(accepted_simulated=frozenset({root_fingerprint(chip.certificates[-1])}))
    with provisioning.serving(tmp_path_factory.mktemp("server") / "state", accepted) as server:
        yield server


@pytest.fixture(scope="module")
def report(server: Any, chip: Processor) -> Report:
    document = server.admit().decode()
    options = Options(
        parse_target(server.url),
        certificate=server.certificate,
        admin_token=server.token,
        tee="snp",
        init_data=document,
        resource=SECRET,
    )
    return run(options, Snp(chip, fitted_digest(document), DEFAULT_MEASUREMENT))


def test_the_run_comes_to_its_end(report: Report, server: Any) -> None:
    assert report.unfinished is None
    assert report.remarks == ()
    assert report.requests < 600
    assert SECRET not in {one["path"] for one in server.admin.secrets()}, "what was set is deleted"


@pytest.mark.parametrize(
    "name",
    [
        "auth-0.4.0", "auth-version-unknown", "auth-tee-unknown", "auth-malformed", "auth-duplicate-members",
        "auth-too-large", "challenge-nonce", "challenge-unique", "challenge-form", "cookie-form", "cookie-scope",
        "cookie-attributes", "attest-0.4.0", "attest-no-cookie", "attest-garbage-cookie", "attest-altered-cookie",
        "attest-foreign-cookie", "attest-form", "attest-init-data-absent", "attest-init-data-wrong", "attest-malformed",
        "attest-member-missing", "evidence-truncated", "evidence-altered", "evidence-foreign", "evidence-empty",
        "key-malformed", "key-rsa15", "key-rsa-weak", "attest-refused-session", "replay-other-session",
        "binding-nonce", "binding-report-data", "binding-prefix", "binding-key", "binding-algorithm",
        "binding-additional", "binding-old-hash", "binding-hash-downgrade", "token-form", "token-times", "token-ear",
        "token-status", "token-tee-key", "token-nonce", "token-id", "token-signature", "bearer-altered",
        "bearer-alg-none", "bearer-unsigned", "bearer-stranger", "bearer-hmac", "resource-cookie",
        "resource-bearer", "jwe-p-256", "jwe-p-384", "jwe-p-521", "jwe-rsa", "jwe-members", "jwe-header", "jwe-fresh",
        "resource-unattested", "resource-half-session", "resource-garbage-cookie", "resource-missing", "path-segments",
        "path-dots", "path-long", "path-octets", "path-encoded-slash", "token-size",
        "admin-resource-closed", "admin-token-wrong", "admin-token-guest",
        "admin-guest-secret", "admin-resource", "admin-too-large", "error-documents", "error-variants", "no-faults",
        "tls-version", "health",
    ],
)  # fmt: skip
def test_what_the_server_keeps_to(name: str, report: Report) -> None:
    result = next(result for result in report.results if result.case.name == name)
    assert result.outcome is Outcome.PASS, result.found


def test_a_head_of_60_kb_is_too_large(report: Report) -> None:
    """It is refused before anybody looks at the token in it."""
    result = next(result for result in report.results if result.case.name == "bearer-garbage")
    assert (result.outcome, "431" in result.found) == (Outcome.TOLERATED, True)


def test_nothing_fails_that_is_not_known(report: Report) -> None:
    found = {result.case.name: result.found for result in report.results if result.outcome is Outcome.FAIL}
    assert found == {}


def test_another_certificate_is_not_trusted(server: Any, chip: Processor, tmp_path: Path, provisioning: Any) -> None:
    with provisioning.serving(tmp_path / "other", Endorsements()) as other:
        options = Options(parse_target(server.url), certificate=other.certificate, tee="snp")
        with pytest.raises(UntrustedError) as caught:
            run(options, Snp(chip, bytes(32), DEFAULT_MEASUREMENT))
    assert caught.value.code == "conformance-certificate"


def test_the_readmes_lines(provisioning: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's section on any guest, as it stands there, in a home of its own."""
    section = README.read_text().partition("\n## Any key broker, any guest\n")[2].partition("\n## ")[0]
    block = section.partition("```sh\n")[2].partition("```")[0]
    lines = [line.partition("  #")[0].split()[1:] for line in block.splitlines()]
    assert [words[0] for words in lines] == ["workload", "conformance"]
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    root = root_fingerprint(load_processor(tmp_path / "processor").certificates[-1])
    state = tmp_path / "provision"
    with provisioning.serving(state, Endorsements(accepted_simulated=frozenset({root}))) as server:
        access = {"url": server.url, "token": server.token, "certificate": server.certificate}
        (state / "admin.json").write_text(json.dumps(access))
        (tmp_path / "tls.pem").write_text(server.certificate)
        measurement = DEFAULT_MEASUREMENT.hex()
        (tmp_path / "billing.toml").write_text(f'[[reference]]\ntee = "snp"\nmeasurement = "{measurement}"\n')
        for words in lines:
            assert main([word.replace("https://127.0.0.1:8443", server.url) for word in words]) == 0
