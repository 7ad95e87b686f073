"""The SNP launch digest as the security processor computes it: a SHA-384 chain over one PAGE_INFO for each page.

AMD SEV-SNP firmware ABI (56860), SNP_LAUNCH_UPDATE: PAGE_INFO is 0x70 bytes: digest so far (48), contents (48:
SHA-384 of the page, or zeros for pages whose contents are not measured), length u16, page type u8, is-IMI u8, VMPL
permissions (4 bytes), guest physical address u64.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from kokon.errors import MalformedError

PAGE: Final = 4096
NORMAL: Final = 1
VMSA: Final = 2
ZERO: Final = 3
UNMEASURED: Final = 4
SECRETS: Final = 5
CPUID: Final = 6

VMSA_ADDRESS: Final = 0xFFFF_FFFF_F000
"""Where KVM says that every VMSA page lies: the page below the top of the 48-bit address space."""

_INFO = struct.Struct("<48s48sHBBIQ")


class LaunchDigest:
    """The running digest of one launch, starting at zero or at `start`. Addresses are guest physical, sizes in
    bytes."""

    def __init__(self, start: bytes = bytes(48)) -> None:
        self._digest = start

    @property
    def value(self) -> bytes:
        """The digest so far, 48 bytes."""
        return self._digest

    def _extend(self, kind: int, address: int, contents: bytes) -> None:
        info = _INFO.pack(self._digest, contents, _INFO.size, kind, 0, 0, address)
        self._digest = hashlib.sha384(info).digest()

    def add(self, address: int, data: bytes) -> None:
        """Measure whole pages of data. Raises `MalformedError` (`measure-unaligned`)."""
        _aligned(address, len(data))
        view = memoryview(data)
        for offset in range(0, len(data), PAGE):
            contents = hashlib.sha384(view[offset : offset + PAGE]).digest()
            self._extend(NORMAL, address + offset, contents)

    def add_vmsa(self, page: bytes) -> None:
        """Measure the register page of one virtual CPU. Raises `MalformedError` (`measure-unaligned`)."""
        _aligned(0, len(page))
        self._extend(VMSA, VMSA_ADDRESS, hashlib.sha384(page).digest())

    def add_unmeasured(self, kind: int, address: int, size: int = PAGE) -> None:
        """Pages of which only the kind and the address count: ZERO, UNMEASURED, SECRETS or CPUID.

        Raises `MalformedError` (`measure-unaligned`).
        """
        _aligned(address, size)
        for offset in range(0, size, PAGE):
            self._extend(kind, address + offset, bytes(48))


def _aligned(address: int, size: int) -> None:
    if address % PAGE or size % PAGE or not 0 <= address < 1 << 52:
        raise MalformedError(
            "measure-unaligned", "launch memory is not made of whole pages", found=f"{size} bytes at {address:#x}"
        )
