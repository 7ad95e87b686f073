"""The chip: reports for its guest only, and derived keys that depend on what was asked for."""

import itertools

import pytest
from tee_kit import HOST_DATA, MEASUREMENT, NOW, POLICY, REPORT_DATA, Chip

from kokon.errors import MalformedError
from kokon.tee.evidence import Evidence
from kokon.tee.registry import verify
from kokon.tee.simulated import processor as psp
from kokon.tee.simulated.processor import KeyRequest, Processor
from kokon.tee.snp.report import parse_report


def test_a_report_says_what_was_launched(chip: Chip) -> None:
    report = parse_report(chip.guest().report(REPORT_DATA))
    assert report.measurement == MEASUREMENT
    assert report.host_data == HOST_DATA
    assert report.report_data == REPORT_DATA
    assert report.policy == POLICY
    assert report.chip_id == psp.chip_id(chip.processor.secret)
    assert report.tcb(report.reported_tcb) == psp.TCB
    assert not report.debug
    assert parse_report(chip.guest(POLICY | 1 << 19).report(REPORT_DATA)).debug
    assert parse_report(chip.guest().report(REPORT_DATA, vmpl=3)).vmpl == 3


@pytest.mark.parametrize("policy", [0, 0x10000, POLICY | 1 << 25, POLICY | 1 << 40])
def test_policies_that_the_firmware_refuses(chip: Chip, policy: int) -> None:
    with pytest.raises(MalformedError) as caught:
        chip.guest(policy)
    assert caught.value.code == "launch-policy"


@pytest.mark.parametrize(("data", "vmpl"), [(bytes(63), 0), (bytes(65), 0), (bytes(64), 4), (bytes(64), -1)])
def test_impossible_report_requests(chip: Chip, data: bytes, vmpl: int) -> None:
    with pytest.raises(MalformedError) as caught:
        chip.guest().report(data, vmpl)
    assert caught.value.code == "guest-request"


@pytest.mark.parametrize(
    "request_",
    [
        KeyRequest(root=2),
        KeyRequest(fields=1 << 6),
        KeyRequest(vmpl=4),
        KeyRequest(guest_svn=1),
        KeyRequest(tcb=b"\2" + bytes(7)),
        KeyRequest(tcb=b""),
    ],
)
def test_impossible_key_requests(chip: Chip, request_: KeyRequest) -> None:
    with pytest.raises(MalformedError) as caught:
        chip.guest().derived_key(request_)
    assert caught.value.code == "guest-request"


def test_derived_keys_come_again_and_differ_by_every_choice(chip: Chip) -> None:
    guest = chip.guest()
    requests = [
        KeyRequest(),
        KeyRequest(root=1),
        KeyRequest(vmpl=1),
        *(KeyRequest(fields=1 << bit) for bit in range(6)),
        KeyRequest(fields=psp.FIELD_TCB, tcb=psp.current_tcb()),
    ]
    keys = [guest.derived_key(request) for request in requests]
    assert keys == [chip.guest().derived_key(request) for request in requests]
    assert all(len(key) == 32 for key in keys)
    assert len(set(keys)) == len(keys)


def test_only_chosen_fields_are_mixed_in(chip: Chip) -> None:
    first = chip.processor.launch(b"a" * 48, HOST_DATA, POLICY, bytes(32))
    second = chip.processor.launch(b"b" * 48, HOST_DATA, POLICY | 1 << 19, bytes(32))
    for fields, same in (
        (0, True),
        (psp.FIELD_FAMILY_ID, True),
        (psp.FIELD_MEASUREMENT, False),
        (psp.FIELD_POLICY, False),
    ):
        request = KeyRequest(fields=fields)
        assert (first.derived_key(request) == second.derived_key(request)) is same


def test_another_chip_has_other_keys(chip: Chip) -> None:
    other = Processor(b"another secret of thirty-two byte", chip.processor.certificates)
    guest = other.launch(MEASUREMENT, HOST_DATA, POLICY, bytes(32))
    assert guest.derived_key(KeyRequest()) != chip.guest().derived_key(KeyRequest())
    evidence: Evidence = guest.evidence(REPORT_DATA)
    codes = {check.code for check in verify(evidence, chip.endorsements, NOW).failures}
    assert codes == {"snp-signature-invalid", "snp-chip-id-mismatch"}


def test_another_tcb_has_another_key(chip: Chip) -> None:
    tcbs = [bytes([first]) + bytes(7) for first in range(3)]
    numbers = [psp.vcek_key(chip.processor.secret, tcb).private_numbers().private_value for tcb in tcbs]
    assert all(a != b for a, b in itertools.combinations(numbers, 2))


def test_no_secret_in_any_repr(chip: Chip) -> None:
    for text in (repr(chip.processor), repr(chip.guest())):
        assert chip.processor.secret.hex() not in text
        assert repr(chip.processor.secret) not in text


def test_expansion_is_hkdf_expand() -> None:
    from cryptography.hazmat.primitives.hashes import SHA384
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    for size in (1, 48, 49, 200):
        expected = HKDFExpand(SHA384(), size, b"label\0context").derive(b"k" * 32)
        assert psp.expand(b"k" * 32, "label", b"context", size) == expected
