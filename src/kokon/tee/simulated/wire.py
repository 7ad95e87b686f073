"""The words between a guest and the simulated processor, over a byte stream. [G]

A request is u32 length, u8 kind, body; an answer u32 length, u8 status, body; lengths are little-endian and count
what follows them. Bodies are those of the SNP ABI's guest messages (document 56860): kind 1 is MSG_REPORT_REQ (report
data 64, VMPL u32, 28 bytes zero) and is answered with report and certificate table; kind 2 is MSG_KEY_REQ (root u32,
u32 zero, fields u64, VMPL u32, guest SVN u32, TCB 8) and is answered with the 32-byte key. Status 0 is success, 0x16
the ABI's INVALID_PARAM.
"""

from __future__ import annotations

import struct
from typing import Final

REQUEST_LIMIT: Final = 4096
ANSWER_LIMIT: Final = 64 << 10
KIND_REPORT: Final = 1
KIND_KEY: Final = 2
STATUS_OK: Final = 0
STATUS_INVALID: Final = 0x16
PORT_NAME: Final = "kokon.psp"

LENGTH: Final = struct.Struct("<I")
REPORT_BODY: Final = struct.Struct("<64sI28s")
KEY_BODY: Final = struct.Struct("<IIQII8s")


def frame(kind: int, body: bytes) -> bytes:
    """A request or an answer with its length."""
    return LENGTH.pack(1 + len(body)) + bytes([kind]) + body
