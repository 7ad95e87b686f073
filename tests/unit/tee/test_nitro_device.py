"""The security module's protocol against a fake device: a file for the path, a function for the ioctl."""

import ctypes
import errno
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nitro_kit import aws

from kokon.errors import HostError, MalformedError, UsageError
from kokon.tee.cbor import read_cbor, write_cbor
from kokon.tee.evidence import Evidence
from kokon.tee.nitro.device import NSM_IOCTL_RAW, RESPONSE_LIMIT, Register, attest, describe_register


class Module:
    """Answers each request with what `answer` makes of it, through the addresses in the message as a kernel would."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer
        self.requests: list[Any] = []

    def __call__(self, descriptor: int, number: int, message: bytearray) -> int:
        assert descriptor >= 0
        assert number == NSM_IOCTL_RAW
        address, size, target, room = struct.unpack("=QQQQ", message)
        request = read_cbor(ctypes.string_at(address, size), limit=1 << 16, what="request")
        self.requests.append(request)
        answer = self.answer(request)
        response = answer if isinstance(answer, bytes) else write_cbor(answer)
        assert room == RESPONSE_LIMIT
        ctypes.memmove(target, response, min(room, len(response)))
        message[24:32] = struct.pack("=Q", len(response))
        return 0


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "nsm"
    path.touch()
    return path


def test_the_ioctl_is_the_kernels() -> None:
    write, read, size = 1, 2, 32
    assert (write | read) << 30 | size << 16 | 0x0A << 8 == NSM_IOCTL_RAW


def test_attestation(device: Path) -> None:
    document = aws().document()
    module = Module(lambda request: {"Attestation": {"document": document}})
    evidence = attest(nonce=b"n" * 300, user_data=b"u", device=device, ioctl=module)
    assert evidence == Evidence("nitro", document)
    assert module.requests == [{"Attestation": {"user_data": b"u", "nonce": b"n" * 300, "public_key": None}}]


def test_registers(device: Path) -> None:
    module = Module(lambda request: {"DescribePCR": {"lock": True, "data": bytes(48)}})
    assert describe_register(16, device=device, ioctl=module) == Register(True, bytes(48))
    assert module.requests == [{"DescribePCR": {"index": 16}}]
    for index in (-1, 32):
        with pytest.raises(UsageError) as caught:
            describe_register(index, device=device, ioctl=module)
        assert caught.value.code == "nitro-register-index"


def test_data_that_is_too_large_is_not_sent(device: Path) -> None:
    module = Module(lambda request: {})
    with pytest.raises(UsageError) as caught:
        attest(nonce=bytes(1025), device=device, ioctl=module)
    assert caught.value.code == "nitro-data-too-large"
    assert module.requests == []


def test_no_device(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        attest(device=tmp_path / "none")
    assert caught.value.code == "nitro-device-missing"


def test_a_file_that_is_no_device(device: Path) -> None:
    with pytest.raises(HostError) as caught:
        attest(device=device)
    assert caught.value.code == "nitro-device-failed"


def test_the_ioctl_fails(device: Path) -> None:
    def broken(descriptor: int, number: int, message: bytearray) -> int:
        raise OSError(errno.EMSGSIZE, "Message too long")

    with pytest.raises(HostError) as caught:
        attest(device=device, ioctl=broken)
    assert caught.value.code == "nitro-device-failed"
    assert caught.value.found == "Message too long"


def test_the_module_refuses(device: Path) -> None:
    with pytest.raises(HostError) as caught:
        attest(device=device, ioctl=Module(lambda request: {"Error": "InputTooLarge"}))
    assert caught.value.code == "nitro-device-refused"
    assert caught.value.found == "InputTooLarge"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"Attestation": []},
        {"Attestation": {}},
        {"Other": {}},
        {"Attestation": {"document": "text"}},
        bytes(20000),
    ],
)
def test_answers_that_make_no_sense(device: Path, answer: Any) -> None:
    with pytest.raises(MalformedError) as caught:
        attest(device=device, ioctl=Module(lambda request: answer))
    assert caught.value.code == "nitro-device-response"


def test_an_answer_that_is_no_document(device: Path) -> None:
    for answer, code in (({"Attestation": {"document": b"\xa0"}}, "cose-malformed"), (b"\xff", "cbor-malformed")):
        with pytest.raises(MalformedError) as caught:
            attest(device=device, ioctl=Module(lambda request, answer=answer: answer))
        assert caught.value.code == code


def test_a_register_without_value(device: Path) -> None:
    with pytest.raises(MalformedError) as caught:
        describe_register(0, device=device, ioctl=Module(lambda request: {"DescribePCR": {"lock": 1, "data": b""}}))
    assert caught.value.code == "nitro-device-response"
