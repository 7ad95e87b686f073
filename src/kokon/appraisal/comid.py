"""Reference values in a CoMID, the part of a CoRIM that describes modules (draft-ietf-rats-corim, section 5). Pure.

Read are reference triples: an environment and what its measurements must be. One triple is one acceptable launch.

environment    class: class-id (OID, UUID, bytes), vendor, model. The kind of TEE is taken from AMD's class-ids or from
               a model (or vendor) that names it: "snp", "sev-snp", "tdx", "sgx", "nitro", "tpm".
mkey           a register's name, as Kokon spells them ("measurement", "mrtd", "rtmr1", "pcr11"); absent: the
               measurement; an integer: AMD's numbers, or a PCR of Nitro and TPMs.
mval           digests (2), raw value (4: tag 560), integrity registers (14), SVN (1: plain, tag 552 or 553, all as the
               lowest that is good enough); of Intel's profile MRTEE (-83), MRSIGNER (-84), ISVSVN (-73) and ISVPRODID
               (-85), plain, as a set's members, the SVN also as "greater or equal".

Whatever else a triple says is listed in `Comid.not_compared`, or refused (`corim-unsupported`) where leaving it out
would make a value match more than its author meant: masks, ranges, negations.
(AMD: draft-deeglaze-amd-sev-snp-corim-profile; Intel: draft-cds-rats-intel-corim-profile.)
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kokon.appraisal.reference import ReferenceValues, register_name
from kokon.errors import MalformedError
from kokon.tee.cbor import Tag

TRIPLES_LIMIT: Final = 1024
MEASUREMENTS_LIMIT: Final = 256
VALUE_LIMIT: Final = 1024

UUID_TAG: Final = 37
OID_TAG: Final = 111
SVN_TAG: Final = 552
MINIMUM_SVN_TAG: Final = 553
BYTES_TAG: Final = 560
NUMERIC_TAG: Final = 60010
SET_TAGS: Final = (60010, 60020)

_DIGEST_SIZES: Final[Mapping[int | str, int]] = {
    1: 32,
    7: 48,
    8: 64,
    "sha-256": 32,
    "sha-384": 48,
    "sha-512": 64,
}
"""By number and name in IANA's named information registry."""

_AMD_CLASSES: Final = ("d05e6d1b-9f46-4ae2-a610-ce3e6ee7e153", "89a7a1f0-e704-4faa-acbd-81c86df8a961")
_AMD_KEYS: Final[Mapping[int, str]] = {
    0: "measurement",
    3: "report_id",
    4: "report_id_ma",
    5: "signer",
    6: "author_key_digest",
    8: "host_data",
}
_MODELS: Final[Mapping[str, str]] = {
    "snp": "snp",
    "sev-snp": "snp",
    "amd-sev-snp": "snp",
    "tdx": "tdx",
    "sgx": "sgx",
    "nitro": "nitro",
    "tpm": "tpm",
}
_PCRS: Final = ("nitro", "tpm")
_IMAGE: Final = ("measurement", "mrtd", "mrenclave", "mrtee")
_SIGNER: Final = ("signer", "mrsigner", "idkeydigest")

_MRTEE, _MRSIGNER, _ISVSVN, _ISVPRODID = -83, -84, -73, -85
_GREATER_OR_EQUAL, _MEMBER = 2, 6
_SVN, _DIGESTS, _RAW, _REGISTERS = 1, 2, 4, 14
_NOTED: Final[Mapping[int, str]] = {
    0: "version",
    3: "flags",
    6: "mac-addr",
    7: "ip-addr",
    8: "serial-number",
    9: "ueid",
    10: "uuid",
    11: "name",
    13: "cryptokeys",
    -70: "tee.vendor",
    -71: "tee.model",
    -72: "tee.tcbdate",
    -77: "tee.instance-id",
    -80: "tee.pceid",
    -81: "tee.miscselect",
    -82: "tee.attributes",
    -86: "tee.tcb-eval-num",
    -88: "tee.tcbstatus",
    -89: "tee.advisory-ids",
    -90: "tee.epoch",
    -91: "tee.cryptokeys",
    -125: "tee.tcb-comp-svn",
}


@dataclass(frozen=True, slots=True)
class Comid:
    """What was read: `values` in the order of the triples, and what was passed over, for people."""

    values: tuple[ReferenceValues, ...]
    not_compared: tuple[str, ...]


@dataclass(slots=True)
class _Launch:
    """A reference value in the making."""

    tee: str
    name: str
    registers: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    product_id: int | None = None
    security_version: int | None = None

    def add(self, name: str, values: tuple[bytes, ...]) -> None:
        plain = register_name(name)
        self.registers[plain] = tuple(dict.fromkeys(self.registers.get(plain, ()) + values))

    def finish(self) -> ReferenceValues | None:
        registers = dict(self.registers)
        measurements = tuple(value for name in _IMAGE for value in registers.pop(name, ()))
        signers = tuple(value for name in _SIGNER for value in registers.pop(name, ()))
        host_data = registers.pop("hostdata", ())
        if len(host_data) > 1:
            raise unsupported("several values of host data", len(host_data))
        if not (measurements or signers or host_data or registers):
            return None
        return ReferenceValues(
            measurements=measurements,
            signers=signers,
            host_data=host_data[0] if host_data else None,
            registers=registers,
            product_id=self.product_id,
            security_version=self.security_version,
            tee=self.tee,
            name=self.name,
        )


def malformed(message: str, found: object = None) -> MalformedError:
    """The error for what no CoRIM may look like."""
    return MalformedError("corim-malformed", message, found=found)


def unsupported(what: str, found: object = None) -> MalformedError:
    """The error for what a CoRIM may say and Kokon cannot compare."""
    return MalformedError(
        "corim-unsupported",
        f"the CoRIM uses {what}, which cannot be compared here",
        found=found,
        hint="leaving it out would accept more than the author meant; state such rules in the policy",
    )


def read_comid(value: Any) -> Comid:
    """Reference values of a CoMID's map (section 5.1).

    Raises `MalformedError` (`corim-malformed`, `corim-unsupported`).
    """
    triples = table(table(value, "a CoMID").get(4), "a CoMID's triples")
    notes = [f"triples {kind}" for kind in triples if kind != 0]
    values = []
    for triple in array(triples.get(0, []), "reference triples", TRIPLES_LIMIT):
        record = array(triple, "a reference triple", 2)
        if len(record) != 2:
            raise malformed("a reference triple must be an environment and measurements", len(record))
        launch = _environment(table(record[0], "an environment"), notes)
        for measurement in array(record[1], "measurements", MEASUREMENTS_LIMIT):
            _measurement(table(measurement, "a measurement"), launch, notes)
        found = launch.finish()
        if found is None:
            notes.append(f"{launch.name or 'an environment'} without measurements of a launch")
        else:
            values.append(found)
    return Comid(tuple(values), tuple(dict.fromkeys(notes)))


def table(value: Any, what: str) -> dict[Any, Any]:
    """`value` if it is a map. Raises `corim-malformed`."""
    if not isinstance(value, dict):
        raise malformed(f"{what} must be a map", type(value).__name__)
    return value


def array(value: Any, what: str, limit: int) -> list[Any]:
    """`value` if it is an array of at most `limit` members. Raises `corim-malformed`."""
    if not isinstance(value, list) or len(value) > limit:
        raise malformed(f"{what} must be an array of at most {limit}", type(value).__name__)
    return value


def text(value: Any, what: str) -> str:
    """`value` if it is a text of reasonable size. Raises `corim-malformed`."""
    if not isinstance(value, str) or len(value) > VALUE_LIMIT:
        raise malformed(f"{what} must be a text", type(value).__name__)
    return value


def identifier(value: Any) -> str:
    """An identifier as text: a text, or an OID, a UUID or bytes with or without their tag."""
    if isinstance(value, str):
        return text(value, "an identifier")
    content = value.value if isinstance(value, Tag) else value
    if isinstance(value, Tag) and value.number == OID_TAG and isinstance(content, bytes):
        return _dotted(content)
    uuid_wanted = not isinstance(value, Tag) or value.number == UUID_TAG
    if isinstance(content, bytes) and len(content) == 16 and uuid_wanted:
        return str(uuid.UUID(bytes=content))
    if isinstance(content, bytes) and len(content) <= VALUE_LIMIT:
        return content.hex()
    raise malformed("an identifier has an unknown form", type(content).__name__)


def _dotted(content: bytes) -> str:
    """An object identifier from its BER content (RFC 9090 section 2, X.690 section 8.19)."""
    arcs, arc = [], 0
    for octet in content[:64]:
        arc = arc << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(arc)
            arc = 0
    if not arcs or len(content) > 64 or content[-1] & 0x80:
        raise malformed("an object identifier is cut short", content[:64].hex())
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def _environment(value: dict[Any, Any], notes: list[str]) -> _Launch:
    notes += [f"environment {name}" for number, name in ((1, "instance"), (2, "group")) if number in value]
    described = table(value.get(0, {}), "a class")
    words = [text(described[number], "vendor or model") for number in (1, 2) if number in described]
    class_id = identifier(described[0]) if 0 in described else ""
    kinds = (
        ["snp"] if class_id in _AMD_CLASSES else [_MODELS[word.lower()] for word in words if word.lower() in _MODELS]
    )
    return _Launch(kinds[-1] if kinds else "", " ".join(words) or class_id)


def _measurement(value: dict[Any, Any], launch: _Launch, notes: list[str]) -> None:
    if 2 in value:
        notes.append("authorized-by")
    name = _register(value.get(0), launch)
    for key, content in table(value.get(1), "measurement values").items():
        if key == _RAW and isinstance(content, int):  # AMD's VMPL, which appraisal wants to be zero anyway
            notes.append(f"{name}: raw-value")
        elif key in (_DIGESTS, _RAW):
            launch.add(name, tuple(_digests(content)) if key == _DIGESTS else (_raw(content),))
        elif key == _REGISTERS:
            _integrity_registers(content, name, launch)
        elif key in (_SVN, _ISVSVN):
            _version(content, name, launch, notes)
        elif key in (_MRTEE, _MRSIGNER):
            launch.add("mrtee" if key == _MRTEE else "mrsigner", tuple(_members(content)))
        elif key == _ISVPRODID:
            launch.product_id = _number(content, "tee.isvprodid")
        elif key in _NOTED:
            notes.append(f"{name}: {_NOTED[key]}")
        else:
            raise unsupported("a measurement value", repr(key)[:80])


def _register(mkey: Any, launch: _Launch) -> str:
    if mkey is None:
        return "measurement"
    if isinstance(mkey, bool) or not isinstance(mkey, int):
        return identifier(mkey)
    if launch.tee == "snp":
        return _AMD_KEYS.get(mkey, f"amd-{mkey}")
    if launch.tee in _PCRS:
        return f"pcr{mkey}"
    raise unsupported("a measurement with a number for a name", mkey)


def _digests(value: Any) -> Iterator[bytes]:
    found = array(value, "digests", MEASUREMENTS_LIMIT)
    if not found:
        raise malformed("there must be a digest")
    for digest in found:
        yield _digest(digest)


def _digest(value: Any) -> bytes:
    """An algorithm and its digest (RFC 9393, hash-entry)."""
    pair = array(value, "a digest", 2)
    if len(pair) != 2 or isinstance(pair[0], bool) or not isinstance(pair[0], int | str):
        raise malformed("a digest must be an algorithm and a value")
    if pair[0] not in _DIGEST_SIZES:
        raise unsupported("a digest algorithm", repr(pair[0])[:80])
    if not isinstance(pair[1], bytes) or len(pair[1]) != _DIGEST_SIZES[pair[0]]:
        raise malformed("a digest has a wrong size", f"algorithm {pair[0]}")
    return pair[1]


def _raw(value: Any) -> bytes:
    content = value.value if isinstance(value, Tag) and value.number == BYTES_TAG else value
    if isinstance(content, bytes) and len(content) <= VALUE_LIMIT:
        return content
    raise unsupported("a raw value that is not plain bytes", f"tag {value.number}" if isinstance(value, Tag) else None)


def _integrity_registers(value: Any, name: str, launch: _Launch) -> None:
    for key, digests in table(value, "integrity registers").items():
        if isinstance(key, int):
            prefix = name if name in ("pcr", "rtmr") else "rtmr" if launch.tee == "tdx" else "pcr"
            launch.add(f"{prefix}{key}", tuple(_digests(digests)))
        else:
            launch.add(text(key, "an integrity register's name"), tuple(_digests(digests)))


def _version(value: Any, name: str, launch: _Launch, notes: list[str]) -> None:
    content = value.value if isinstance(value, Tag) and value.number in (SVN_TAG, MINIMUM_SVN_TAG) else value
    if isinstance(content, Tag) and content.number == NUMERIC_TAG:
        operator, content = _expression(content)
        if operator != _GREATER_OR_EQUAL:
            raise unsupported("a comparison of security versions", operator)
    number = _number(content, "a security version")
    if register_name(name) in _IMAGE:
        launch.security_version = max(number, launch.security_version or 0)
    else:
        notes.append(f"{name}: svn")


def _expression(value: Tag) -> tuple[int, Any]:
    """Operator and operand (Intel profile, section 8.1)."""
    pair = array(value.value, "an expression", 3)
    if len(pair) != 2 or isinstance(pair[0], bool) or not isinstance(pair[0], int):
        raise unsupported("an expression")
    return pair[0], pair[1]


def _members(value: Any) -> Iterator[bytes]:
    """One digest, several, or a set of them of which evidence must be a member."""
    if isinstance(value, Tag):
        if value.number not in SET_TAGS:
            raise unsupported("an expression", value.number)
        operator, value = _expression(value)
        if operator != _MEMBER:
            raise unsupported("a set of digests that is not of members", operator)
    found = array(value, "digests", MEASUREMENTS_LIMIT)
    single = len(found) == 2 and not isinstance(found[0], list)
    yield from [_digest(found)] if single else _digests(found)


def _number(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise malformed(f"{what} must be a number", type(value).__name__)
    return value
