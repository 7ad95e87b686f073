"""Attestation reports from Linux's configfs-tsm, the same way for SEV-SNP and TDX. [machine's edge: files]

Making a directory makes the attributes of one request; written from Documentation/ABI/testing/configfs-tsm-report and
tested against a fake tree, UNTESTED ON HARDWARE. Standard library only, since guests use it.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kokon.errors import HostError, MalformedError, UsageError

ROOT: Final = Path("/sys/kernel/config/tsm/report")
INBLOB_SIZE: Final = 64
BLOB_LIMIT: Final = 1 << 20
ATTEMPTS: Final = 3
PROVIDERS: Final = {"snp": "sev_guest", "tdx": "tdx_guest"}
"""What the attribute "provider" says, by TEE."""


@dataclass(frozen=True, slots=True)
class TsmReport:
    """`outblob` is the vendor's report or quote; `auxblob` what the host adds (SNP: the certificate table), maybe
    empty; `provider` the name of the kernel's driver."""

    provider: str
    outblob: bytes
    auxblob: bytes


class Tree:
    """The directory of requests and what can be done there."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    def make(self, name: str) -> None:
        """Make a request; the kernel makes its attributes."""
        (self.root / name).mkdir()

    def remove(self, name: str) -> None:
        """Remove a request with its attributes."""
        (self.root / name).rmdir()

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Write an attribute at once: the kernel takes it when the file is closed."""
        descriptor = os.open(self.root / name / attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(0, "an attribute was written in part")
        finally:
            os.close(descriptor)

    def read(self, name: str, attribute: str) -> bytes:
        """An attribute, of at most 1 MiB. Raises `MalformedError` (`tsm-answer`)."""
        with (self.root / name / attribute).open("rb", buffering=0) as file:
            chunks: list[bytes] = []
            while chunk := file.read(1 << 16):
                chunks.append(chunk)
                if len(chunks) * (1 << 16) > BLOB_LIMIT:
                    raise MalformedError("tsm-answer", "the kernel's answer is too large", expected=f"<= {BLOB_LIMIT}")
        return b"".join(chunks)


def available(root: Path = ROOT) -> bool:
    """True if this kernel offers configfs-tsm."""
    return root.is_dir()


def read_report(inblob: bytes, *, privilege: int | None = None, tree: Tree | None = None) -> TsmReport:
    """A report over 64 bytes of the caller's choice; `privilege` is the VMPL (SNP), None for the kernel's own.

    Another request's writes are noticed by the attribute "generation", and the report is asked for again. Raises
    `UsageError` (`report-data-size`), `HostError` (`tsm-missing`, `tsm-failed`, `tsm-conflict`), `MalformedError`
    (`tsm-answer`).
    """
    if len(inblob) != INBLOB_SIZE:
        raise UsageError("report-data-size", "report data have 64 bytes", expected=INBLOB_SIZE, found=len(inblob))
    tree = tree or Tree()
    if not available(tree.root):
        raise HostError(
            "tsm-missing",
            "this kernel offers no configfs-tsm",
            expected=str(tree.root),
            hint="mount configfs and load the driver: modprobe sev-guest or tdx-guest",
        )
    name = f"kokon-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        tree.make(name)
        try:
            return _read(tree, name, inblob, privilege)
        finally:
            tree.remove(name)
    except OSError as error:
        raise HostError("tsm-failed", "the kernel gave no report", found=error.strerror or error) from error


def _read(tree: Tree, name: str, inblob: bytes, privilege: int | None) -> TsmReport:
    for _attempt in range(ATTEMPTS):
        before = _generation(tree, name)
        writes = 1
        if privilege is not None:
            tree.write(name, "privlevel", f"{privilege}\n".encode())
            writes += 1
        tree.write(name, "inblob", inblob)
        provider = tree.read(name, "provider").decode("ascii", "replace").strip()
        report = TsmReport(provider, tree.read(name, "outblob"), _optional(tree, name, "auxblob"))
        if _generation(tree, name) == before + writes:
            if not report.outblob:
                raise MalformedError("tsm-answer", "the kernel gave an empty report")
            return report
    raise HostError(
        "tsm-conflict", "another program keeps changing the request", hint="nobody else should write below the tree"
    )


def _generation(tree: Tree, name: str) -> int:
    text = tree.read(name, "generation").strip()
    if not text.isdigit() or len(text) > 20:
        raise MalformedError("tsm-answer", "the kernel's generation is not a number", found=text[:40])
    return int(text)


def _optional(tree: Tree, name: str, attribute: str) -> bytes:
    """An attribute that drivers without anything to say there do not make."""
    try:
        return tree.read(name, attribute)
    except FileNotFoundError:
        return b""
