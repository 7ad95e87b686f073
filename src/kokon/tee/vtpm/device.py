"""Quotes from this machine's TPM, by its character device. [machine's edge: device and files]

`/dev/tpmrm0` takes one command per write and gives its answer to one read (Linux, drivers/char/tpm). Tested against
swtpm; UNTESTED ON HARDWARE AND IN THE CLOUDS, whose handles and indexes are from their documentation: Azure keeps the
attestation key at 0x81000003 and the HCL report at index 0x01400001, which is made anew when index 0x01400002 is
written; Google Cloud keeps the key's certificate at index 0x01c10000 and its template at 0x01c10001.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kokon.errors import HostError, MalformedError, UnreachableError, UsageError
from kokon.tee.evidence import Evidence
from kokon.tee.vtpm import commands, hcl
from kokon.tee.vtpm.formats import AZURE_SNP, AZURE_TDX, TPM
from kokon.tee.vtpm.quote import encode_pcrs, pcr_digest
from kokon.tee.vtpm.tpm import parse_attest, parse_signature

DEVICE: Final = Path("/dev/tpmrm0")
EVENT_LOG: Final = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
EVENT_LOG_LIMIT: Final = 1 << 20
NONCE_LIMIT: Final = 64

AZURE_AK: Final = 0x81000003
AZURE_REPORT: Final = 0x01400001
AZURE_USER_DATA: Final = 0x01400002
GOOGLE_CERTIFICATE: Final = 0x01C10000
GOOGLE_TEMPLATE: Final = 0x01C10001

_ALL: Final = tuple(range(24))
_AT_ONCE: Final = 8
_ATTEMPTS: Final = 5
Transport = Callable[[bytes], bytes]
"""Sends one command and returns its answer."""


@contextmanager
def open_device(path: Path = DEVICE) -> Iterator[Transport]:
    """The kernel's device as a transport. Raises `HostError` (`tpm-missing`); sending, `UnreachableError`
    (`tpm-unreachable`)."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        hint = "run as root or in the group tss, and give the machine a TPM"
        raise HostError(
            "tpm-missing", "no TPM can be opened", expected=path, found=error.strerror, hint=hint
        ) from error

    def send(command: bytes) -> bytes:
        try:
            os.write(descriptor, command)
            return os.read(descriptor, commands.ANSWER_LIMIT)
        except OSError as error:
            raise UnreachableError("tpm-unreachable", "the TPM does not answer", found=error.strerror) from error

    try:
        yield send
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Machine:
    """A TPM and where its firmware's event log is."""

    transport: Transport
    event_log: Path = EVENT_LOG

    def send(self, command: bytes) -> bytes:
        """The answer to a command, which is repeated while the TPM asks for it."""
        for _ in range(_ATTEMPTS):
            data = self.transport(command)
            if commands.refused(data) != commands.RETRY:
                return data
        return data

    def read_index(self, index: int) -> bytes | None:
        """All of an NV index, None if there is none. Raises `HostError` (`tpm-command`), `MalformedError`."""
        try:
            size, owner = commands.nv_public(self.send(commands.nv_read_public(index)))
        except HostError as error:
            if error.code == "tpm-handle":
                return None
            raise
        found = bytearray()
        while len(found) < size:
            part = min(commands.NV_CHUNK, size - len(found))
            data = self.send(commands.nv_read(index, part, len(found), owner=owner))
            found += _check_part(commands.nv_data(data), part)
        return bytes(found)

    def write_user_data(self, data: bytes) -> None:
        """Have Azure's paravisor make its report for up to 64 bytes, which then stand in the runtime data.

        Raises `UsageError` (`tpm-nonce`), `HostError` (`tpm-command`).
        """
        _check_nonce(data)
        if self.read_index(AZURE_USER_DATA) is None:
            commands.answer(self.send(commands.nv_define(AZURE_USER_DATA, NONCE_LIMIT)))
        commands.answer(self.send(commands.nv_write(AZURE_USER_DATA, data.ljust(NONCE_LIMIT, b"\0"))))

    def pcrs(self, bank: str) -> dict[int, bytes]:
        """All PCRs of a bank at one moment, none if the TPM has no such bank. Raises `HostError` (`tpm-busy`)."""
        for _ in range(_ATTEMPTS):
            values: dict[int, bytes] = {}
            counters = set()
            for start in range(0, len(_ALL), _AT_ONCE):
                data = self.send(commands.pcr_read(bank, _ALL[start : start + _AT_ONCE]))
                counter, part = commands.pcr_values(data, bank)
                counters.add(counter)
                values |= part
            if len(counters) == 1:
                return values
        raise HostError("tpm-busy", "the PCRs change faster than they can be read", found=f"{_ATTEMPTS} attempts")

    @contextmanager
    def attestation_key(self) -> Iterator[tuple[int, bytes]]:
        """Handle and TPMT_PUBLIC of the key: the cloud's if there is one, else a primary key of the owner's hierarchy,
        which nobody vouches for."""
        template = self.read_index(GOOGLE_TEMPLATE)
        if template is None and self.read_index(AZURE_REPORT) is not None:
            yield AZURE_AK, commands.public_area(self.send(commands.read_public(AZURE_AK)))
            return
        hierarchy = commands.ENDORSEMENT if template else commands.OWNER
        made = self.send(commands.create_primary(hierarchy, template or commands.RSA_AK))
        handle, public = commands.created(made)
        try:
            yield handle, public
        finally:
            self.send(commands.flush(handle))

    def read_log(self) -> bytes | None:
        """The firmware's event log, None if the kernel shows none."""
        try:
            with self.event_log.open("rb") as file:
                return file.read(EVENT_LOG_LIMIT + 1)
        except OSError:
            return None


def attest(
    nonce: bytes, *, banks: tuple[str, ...] = ("sha256",), device: Path = DEVICE, event_log: Path = EVENT_LOG
) -> Evidence:
    """Evidence from this machine's TPM over up to 64 bytes of the caller's choice.

    Raises as `collect` does, `HostError` (`tpm-missing`) and `UnreachableError` (`tpm-unreachable`).
    """
    _check_nonce(nonce)
    with open_device(device) as transport:
        return collect(Machine(transport, event_log), nonce, banks)


def collect(machine: Machine, nonce: bytes, banks: tuple[str, ...] = ("sha256",)) -> Evidence:
    """Evidence over all 24 PCRs of each bank with up to 64 bytes of the caller's choice.

    On Azure it is of the kind of the machine, without VCEK and TD quote: those come from the host's metadata service,
    over a network. Raises `UsageError` (`tpm-nonce`), `HostError` (`tpm-command`, `tpm-bank`, `tpm-busy`),
    `MalformedError` (`tpm-malformed`).
    """
    _check_nonce(nonce)
    report = machine.read_index(AZURE_REPORT)
    parts: dict[str, bytes] = {}
    values: dict[str, dict[int, bytes]] = {}
    with machine.attestation_key() as (handle, public):
        for number, bank in enumerate(banks, 1):
            suffix = "" if number == 1 else f"-{number}"
            quoted, values[bank] = _quote(machine, handle, nonce, bank)
            parts |= {f"quote{suffix}": quoted.message, f"signature{suffix}": quoted.signature}
    message = parts.pop("quote")
    parts["pcrs"] = encode_pcrs(values)
    log = machine.read_log()
    if log is not None:
        parts["event-log"] = log
    if report is not None:
        parts["hcl-report"] = report
        tee = AZURE_SNP if hcl.parse_hcl(report).type == hcl.SNP else AZURE_TDX
        return Evidence(tee, message, parts=parts)
    certificate = machine.read_index(GOOGLE_CERTIFICATE)
    return Evidence(TPM, message, (certificate,) if certificate else (), {**parts, "ak-public": public})


def _quote(machine: Machine, handle: int, nonce: bytes, bank: str) -> tuple[commands.Quoted, dict[int, bytes]]:
    """A quote and the values it was made over: PCRs may be extended between the two."""
    for _ in range(_ATTEMPTS):
        quoted = commands.quoted(machine.send(commands.quote(handle, nonce, bank, _ALL)))
        values = machine.pcrs(bank)
        if not values:
            raise HostError("tpm-bank", "the TPM has no such PCR bank", found=bank, hint="try another bank")
        attest = parse_attest(quoted.message)
        if pcr_digest(attest, {bank: values}, parse_signature(quoted.signature).hash) == attest.pcr_digest:
            return quoted, values
    raise HostError("tpm-busy", "PCRs change between quote and reading", found=f"{_ATTEMPTS} attempts")


def _check_part(data: bytes, size: int) -> bytes:
    """What was read of an index must be what was asked for. Raises `MalformedError` (`tpm-malformed`)."""
    if len(data) != size:
        raise MalformedError("tpm-malformed", "the TPM gave another part of an index", expected=size, found=len(data))
    return data


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) > NONCE_LIMIT:
        raise UsageError("tpm-nonce", "the nonce is too long", expected=f"<= {NONCE_LIMIT} bytes", found=len(nonce))
