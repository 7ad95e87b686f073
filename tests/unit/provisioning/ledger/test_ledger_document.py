"""The examples of docs/LOG.md are what it says they are."""

from pathlib import Path

from ledger_kit import KEY, WITNESSES

from kokon.provisioning.ledger.audit import verify_export
from kokon.provisioning.ledger.checkpoint import verify_checkpoint
from kokon.provisioning.ledger.keys import parse_verifier_key
from kokon.provisioning.ledger.receipt import parse_receipt, verify_receipt

PAGE = (Path(__file__).parents[4] / "docs" / "LOG.md").read_text()


def block(heading: str) -> str:
    """The first indented block after this text."""
    lines = PAGE.split(heading, 1)[1].lstrip("\n").split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("    "))
    taken = []
    for line in lines[start:]:
        if line and not line.startswith("    "):
            break
        taken.append(line[4:])
    return "\n".join(taken).rstrip("\n") + "\n"


KEYS = [parse_verifier_key(text) for text in block("verifier key, and a witness's:").split()]


def test_the_keys() -> None:
    assert [KEY.verifier, WITNESSES[0].verifier] == KEYS


def test_the_export_and_the_checkpoint() -> None:
    lines = block("Its export:").encode().splitlines(keepends=True)
    head = verify_checkpoint(block("## Checkpoints").encode(), KEYS)
    audit = verify_export(lines, KEYS, head, KEYS[1:], 1)
    assert audit.checkpoint == head
    assert head.size == 3


def test_the_receipt() -> None:
    proven = verify_receipt(parse_receipt(block("receipt of its second entry:").strip().encode()), KEYS, KEYS[1:], 1)
    assert (proven.index, proven.entry.event, proven.entry.details["path"]) == (1, "secret.put", "db/key")
