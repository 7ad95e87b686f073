"""Every command has help with an example, and speaks JSON."""

import pytest

from kokon.cli.main import build_app

COMMANDS = (
    "admit", "audit checkpoint", "audit export", "audit keygen", "audit receipt", "audit verify", "audit witness",
    "block make", "block verify", "certify", "compare", "conformance", "connect", "copy", "decrypt", "demo", "doctor",
    "encrypt", "endorsements bundle", "endorsements fetch", "endorsements list", "evidence show", "evidence verify",
    "explain", "guest build", "guest show", "inspect", "keygen", "log", "logs", "measure sgx", "measure snp",
    "measure tdx", "policy list", "policy rm", "policy set", "policy show", "project add", "project list",
    "project rm", "provision backup", "provision init", "provision recover", "provision restore", "provision rotate",
    "provision serve", "provision status", "ps", "recipients add", "recipients list", "recipients remove",
    "reference list", "reference rm", "reference set", "rm", "run", "sbom", "scan", "seal", "secret derive",
    "secret generate", "secret list", "secret put", "secret rm", "secret rotate", "sign", "sigstruct assemble",
    "sigstruct make", "sigstruct show", "stop", "token list", "token new", "token rm", "trust author", "trust list",
    "trust owner", "trust simulated", "verify", "verify-image", "workload add", "workload allow", "workload history",
    "workload list", "workload release", "workload revoke", "workload rm", "workload show",
)  # fmt: skip
PROTOCOLS = {"keyprovider"}
"""Commands that speak to programs, in those programs' words."""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*command.split(), "--help"]
    build_app(words)(words, exit_on_error=False, result_action="return_value")
    text = capsys.readouterr().out
    assert "Example: " in text
    assert f"kokon {command}" in " ".join(text.split())
    assert "--json" in text


def test_no_command_is_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    build_app(["--help"])(["--help"], exit_on_error=False, result_action="return_value")
    listed = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line[:2] == "│ " and line[2] != " "]
    known = {command.split()[0] for command in COMMANDS} | PROTOCOLS
    assert {word for word in listed if not word.startswith("-")} == known
