"""What the quotes in evidence prove: which PCRs have which values. Pure; every check is made and recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from kokon.tee.eventlog.events import data_matches
from kokon.tee.eventlog.log import EventLog, parse_event_log
from kokon.tee.eventlog.replay import replay_check
from kokon.tee.evidence import Check, Evidence, Need, failed, not_checked, passed
from kokon.tee.vtpm.formats import QUOTES
from kokon.tee.vtpm.quote import STRENGTH, Banks, Key, parse_pcrs, pcr_digest, read_signature, signed_by, strongest
from kokon.tee.vtpm.tpm import Attest, Signature, parse_attest, ranges

_HASHES: Final = {32: "sha256", 48: "sha384", 64: "sha512", 20: "sha1"}
_ACCEPTED: Final = ("sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True)
class Statement:
    """One quote. `label` is "" for the first, "quote-2: " for the next."""

    label: str
    message: bytes
    attest: Attest
    signature: Signature | None


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of all quotes. `banks` holds the PCR values that a quote covers; `measurement` is SHA-256 over those of
    the strongest bank in order, b"" if they are unknown."""

    statements: tuple[Statement, ...]
    checks: tuple[Check, ...]
    needs: tuple[Need, ...]
    banks: Banks = field(default_factory=dict)
    measurement: bytes = b""

    @property
    def bank(self) -> str:
        """The strongest bank of which values are proven, "" if there is none."""
        return strongest(self.banks)

    @property
    def registers(self) -> dict[str, bytes]:
        """Proven PCRs by name: "pcr0" of the strongest bank, and "sha256:pcr0" of each bank but SHA-1."""
        found = {f"pcr{index}": value for index, value in self.banks.get(self.bank, {}).items()}
        for bank, values in self.banks.items():
            if bank in _ACCEPTED:
                found |= {f"{bank}:pcr{index}": value for index, value in values.items()}
        return found


def read_statements(evidence: Evidence, key: Key | None) -> tuple[Statement, ...]:
    """The quotes of evidence, none if it has none. Raises `MalformedError` (`tpm-malformed`)."""
    statements: list[Statement] = []
    for number in range(1, QUOTES + 1):
        suffix = "" if number == 1 else f"-{number}"
        message = evidence.report if number == 1 else evidence.parts.get(f"quote{suffix}", b"")
        if message:
            raw = evidence.parts.get(f"signature{suffix}")
            signature = read_signature(raw, key) if raw is not None and key is not None else None
            label = f"quote{suffix}: " if suffix else ""
            statements.append(Statement(label, message, parse_attest(message), signature))
    return tuple(statements)


def prove(evidence: Evidence, key: Key | None) -> Proof:
    """Checks of all quotes of evidence with the attestation key, which may be unknown.

    Raises `MalformedError` (`tpm-malformed`) for bytes that do not parse.
    """
    statements = read_statements(evidence, key)
    given = parse_pcrs(evidence.parts.get("pcrs", b""))
    checks: list[Check] = []
    for statement in statements:
        checks.append(_check_signature(statement, key))
        checks.append(_check_selection(statement))
        checks.append(_check_digest(statement, given))
    banks = _proven(statements, given)
    checks += [*_check_banks(statements, given, banks), *_check_together(statements)]
    return Proof(statements, tuple(checks), _needs(statements, key), banks, _measurement(statements, banks))


def _needs(statements: tuple[Statement, ...], key: Key | None) -> tuple[Need, ...]:
    if key is None:
        return (Need("ak"),)
    return (Need("signature"),) if any(statement.signature is None for statement in statements) else ()


def _check_signature(statement: Statement, key: Key | None) -> Check:
    name = f"{statement.label}quote signature"
    signature = statement.signature
    if key is None:
        return not_checked(name, "tpm-ak-missing", "give the attestation key that made the quote")
    if signature is None:
        return not_checked(name, "tpm-signature-missing", "give the signature that was made with the quote")
    found = f"{signature.scheme} with {signature.hash}"
    if signature.hash not in _ACCEPTED:
        hint = "make the attestation key with SHA-256 or better"
        return failed(name, "tpm-signature-algorithm", expected=", ".join(_ACCEPTED), found=found, hint=hint)
    if signed_by(key, signature, statement.message):
        return passed(name, found)
    hint = "the quote was changed, or another key signed it"
    return failed(name, "tpm-signature", expected="signed by the attestation key", found=found, hint=hint)


def _check_selection(statement: Statement) -> Check:
    name = f"{statement.label}PCR selection"
    selected = [selection for selection in statement.attest.selections if selection.pcrs]
    if not selected:
        return failed(name, "tpm-pcr-selection", expected="PCRs", found="none", hint="the quote proves no PCR at all")
    return passed(name, "; ".join(map(str, selected)))


def _algorithm(statement: Statement) -> str:
    """The hash of the PCR digest: that of the signature, which is guessed by size where there is none."""
    if statement.signature is not None:
        return statement.signature.hash
    return _HASHES.get(len(statement.attest.pcr_digest), "sha256")


def _recomputed(statement: Statement, given: Banks) -> bytes | None:
    algorithm = _algorithm(statement)
    return pcr_digest(statement.attest, given, algorithm) if algorithm in _HASHES.values() else None


def _check_digest(statement: Statement, given: Banks) -> Check:
    name = f"{statement.label}PCR digest"
    digest = _recomputed(statement, given)
    if digest is None:
        hint = "values of selected PCRs were not given: only their digest is known"
        return not_checked(name, "tpm-pcrs-missing", hint, found=statement.attest.pcr_digest.hex())
    if digest == statement.attest.pcr_digest:
        return passed(name, digest.hex())
    hint = "the PCR values beside the quote are not those that were quoted"
    return failed(name, "tpm-pcr-digest", expected=statement.attest.pcr_digest.hex(), found=digest.hex(), hint=hint)


def _proven(statements: tuple[Statement, ...], given: Banks) -> dict[str, dict[int, bytes]]:
    """Values that the digest of some quote covers."""
    banks: dict[str, dict[int, bytes]] = {}
    for statement in statements:
        if _recomputed(statement, given) == statement.attest.pcr_digest:
            for selection in statement.attest.selections:
                for index in selection.pcrs:
                    banks.setdefault(selection.bank, {})[index] = given[selection.bank][index]
    return {bank: dict(sorted(values.items())) for bank, values in banks.items()}


def _check_banks(statements: tuple[Statement, ...], given: Banks, banks: Banks) -> Iterator[Check]:
    quoted = {s.bank for statement in statements for s in statement.attest.selections if s.pcrs}
    if quoted and quoted <= {"sha1"}:
        hint = "SHA-1 no longer stops forged logs: quote the SHA-256 bank"
        yield failed("PCR bank", "tpm-sha1-only", expected="sha256 or better", found="sha1", hint=hint)
    elif quoted:
        yield passed("PCR bank", ", ".join(bank for bank in STRENGTH if bank in quoted) or ", ".join(sorted(quoted)))
    spare = {
        bank: tuple(sorted(set(values) - set(banks.get(bank, {}))))
        for bank, values in given.items()
        if set(values) - set(banks.get(bank, {}))
    }
    if spare:
        found = "; ".join(f"{bank}: {ranges(indexes)}" for bank, indexes in spare.items())
        yield not_checked("PCR values", "tpm-pcr-unproven", "no quote covers these values: disregard them", found=found)


def _check_together(statements: tuple[Statement, ...]) -> Iterator[Check]:
    """Several quotes answer one question and are of one boot."""
    if len(statements) < 2:
        return
    nonces = {statement.attest.extra_data for statement in statements}
    if len(nonces) > 1:
        found = ", ".join(nonce.hex() for nonce in sorted(nonces))
        yield failed("nonce of all quotes", "tpm-quotes-nonce", expected="the same", found=found)
    else:
        yield passed("nonce of all quotes", "the same")
    boots = {(statement.attest.reset_count, statement.attest.restart_count) for statement in statements}
    if len(boots) > 1:
        found = ", ".join(f"reset {reset}, restart {restart}" for reset, restart in sorted(boots))
        yield failed("boot of all quotes", "tpm-quotes-boot", expected="one boot", found=found)
    else:
        yield passed("boot of all quotes", "the same")


def _measurement(statements: tuple[Statement, ...], banks: Banks) -> bytes:
    bank = strongest(banks)
    if bank:
        return hashlib.sha256(b"".join(banks[bank].values())).digest()
    for statement in statements:
        selected = [selection for selection in statement.attest.selections if selection.pcrs]
        if len(selected) == 1 and statement.signature is not None and statement.signature.hash == "sha256":
            return statement.attest.pcr_digest
    return b""


def read_log(evidence: Evidence) -> EventLog | None:
    """The event log of evidence, None if it has none. Raises `MalformedError` (`event-log-malformed`)."""
    data = evidence.parts.get("event-log")
    return None if data is None else parse_event_log(data)


def _initial(value: bytes) -> bool:
    """Whether a PCR was never extended: zeros, or ones in those that only a dynamic launch resets (PC Client Platform
    TPM Profile, 4.6.2)."""
    return value in (bytes(len(value)), b"\xff" * len(value))


def check_log(log: EventLog, banks: Banks) -> Iterator[Check]:
    """Whether the log leads to the proven PCR values, in each bank that log and quotes have in common."""
    common = [bank for bank in STRENGTH if bank in log.algorithms and bank in banks]
    if not common:
        found = f"log: {', '.join(log.algorithms)}; quotes: {', '.join(banks) or 'none'}"
        yield not_checked("event log", "event-log-algorithm", "no bank that log and quotes have in common", found=found)
    for bank in common:
        suffix = f" ({bank})" if len(common) > 1 else ""
        names: Mapping[int, str] = {index: f"pcr{index}{suffix}" for index in range(32)}
        touched = {event.register for event in log.events if event.extended}
        used = {index: value for index, value in banks[bank].items() if index in touched or not _initial(value)}
        yield from replay_check(log, bank, used, names)
    wrong = [event.index for event in log.events if data_matches(event) is False]
    if wrong:
        found = "events " + ", ".join(map(str, wrong[:50]))
        hint = "what these events say is not what was measured; old versions of shim write such events"
        yield not_checked("event data", "event-log-data", hint, found=found)
