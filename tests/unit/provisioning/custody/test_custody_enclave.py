"""The holder by enclave, with the simulated security processor."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest
from custody_kit import HOST_DATA, MASTER, MEASUREMENT, POLICY, Device, cheap_holder, launched, refused

from kokon.errors import KokonError, MalformedError, UntrustedError, UsageError
from kokon.provisioning.custody import here, vault
from kokon.provisioning.custody.enclave import Derive, EnclaveHolder, processor_key
from kokon.provisioning.state import Settings, holder_of
from kokon.tee.simulated.device import SimulatedDevice
from kokon.tee.simulated.keys import load_processor
from kokon.tee.simulated.processor import GuestContext, KeyRequest
from kokon.tee.simulated.service import Requests, answer


def holder(guest: GuestContext, host_data: bytes = HOST_DATA) -> EnclaveHolder:
    return EnclaveHolder(processor_key(Device(guest), host_data))


FILE = holder(launched()).wrap(MASTER)


def test_the_same_enclave_opens_it_after_a_new_start() -> None:
    assert holder(launched()).open(FILE).same_as(MASTER)
    assert holder(launched()).name == "enclave"
    assert repr(holder(launched())) == "EnclaveHolder()"


@pytest.mark.parametrize(
    "guest",
    [launched(chip=b"d" * 32), launched(measurement=b"n" * 48), launched(policy=POLICY | 1 << 19)],
    ids=["another processor", "another image", "debugging allowed"],
)
def test_another_enclave_does_not(guest: GuestContext) -> None:
    with refused("enclave-mismatch", UntrustedError):
        holder(guest).open(FILE)


def test_the_same_image_with_another_launch_document_does_not() -> None:
    """HOST_DATA is not part of SNP's derived key: that it counts is our doing."""
    assert Device(launched()).derived_key(fields=9) == Device(launched(host_data=b"i" * 32)).derived_key(fields=9)
    with refused("enclave-mismatch", UntrustedError):
        holder(launched(), b"i" * 32).open(FILE)


def test_fields_left_out_make_another_key() -> None:
    weak = EnclaveHolder(processor_key(Device(launched()), HOST_DATA, fields=0))
    with refused("enclave-mismatch", UntrustedError):
        weak.open(FILE)
    other = processor_key(Device(launched(measurement=b"n" * 48)), HOST_DATA, fields=0)
    assert EnclaveHolder(other).open(weak.wrap(MASTER)).same_as(MASTER), "fields are what binds to the image"


def test_another_context_is_another_key() -> None:
    derive = processor_key(Device(launched()), HOST_DATA)
    assert derive(b"a" * 32) == derive(b"a" * 32) != derive(b"b" * 32)
    members = json.loads(FILE)
    members["parameters"]["context"] = json.loads(holder(launched()).wrap(MASTER))["parameters"]["context"]
    with refused("enclave-mismatch", UntrustedError):
        holder(launched()).open(json.dumps(members).encode())


def test_the_raw_key_of_the_processor_does_not_open_it() -> None:
    """A workload that gets at the processor's key for its own use has not got ours."""
    raw = Device(launched()).derived_key(fields=9)
    with refused("enclave-mismatch", UntrustedError):
        EnclaveHolder(lambda _context: raw).open(FILE)


@pytest.mark.parametrize("derive", [lambda _c: b"", lambda _c: b"x" * 31, lambda _c: b"x" * 65, lambda _c: bytes(32)])
def test_useless_keys(derive: Derive) -> None:
    with refused("enclave-key-size", MalformedError):
        EnclaveHolder(derive).wrap(MASTER)
    with refused("enclave-key-size", MalformedError):
        EnclaveHolder(derive).open(FILE)


def test_useless_processors() -> None:
    class Dead:
        def derived_key(self, *, fields: int) -> bytes:
            return bytes(32)

    with refused("enclave-key-size", MalformedError):
        EnclaveHolder(processor_key(Dead(), HOST_DATA)).wrap(MASTER)
    with refused("enclave-key-size", MalformedError):
        processor_key(Dead(), b"short")


def test_malformed_parameters() -> None:
    for parameters, code in (({"context": ""}, "size-mismatch"), ({}, "field-missing")):
        with refused(code, MalformedError):
            cheap_holder().open(json.dumps({**json.loads(FILE), "parameters": parameters}).encode())
    extra = {**json.loads(FILE)["parameters"], "more": 1}
    with refused("field-unknown", MalformedError):
        cheap_holder().open(json.dumps({**json.loads(FILE), "parameters": extra}).encode())


def test_through_the_guests_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device of `kokon.tee.simulated` fits as it is, and speaks over a socket to the processor."""
    host, guest = socket.socketpair()
    guest.setblocking(False)
    descriptor = guest.detach()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_: descriptor)
        device = SimulatedDevice(Path("/dev/vport0p1"))

    def serve() -> None:
        requests, context = Requests(), launched(measurement=MEASUREMENT)
        while data := host.recv(4096):
            for request in requests.feed(data):
                host.sendall(answer(context, request))

    thread = threading.Thread(target=serve)
    thread.start()
    assert EnclaveHolder(processor_key(device, HOST_DATA)).open(FILE).same_as(MASTER)
    device.close()
    thread.join(5)
    host.close()
    assert not thread.is_alive()


def test_the_enclave_that_this_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Played by a simulated chip: a key sealed in one launch opens in the same one, and in no other."""
    with pytest.raises(UsageError) as caught:
        holder_of("enclave", Settings(), lambda what: what.encode())
    assert caught.value.code == "custody-no-enclave"
    chip = load_processor(tmp_path)

    def inside(document: bytes) -> None:
        guest = chip.launch(bytes(48), document, 0x30000, bytes(32))
        monkeypatch.setattr(here.device, "attest", lambda data: guest.evidence(data))
        monkeypatch.setattr(
            here.device, "derived_key", lambda *, fields: guest.derived_key(KeyRequest(0, fields, 0, 0, bytes(8)))
        )

    inside(bytes(32))
    master = vault.create(tmp_path / "state", holder_of("enclave", Settings(), lambda what: what.encode()))
    again = vault.open_master(tmp_path / "state", holder_of("enclave", Settings(), lambda what: what.encode()))
    assert again.same_as(master)
    inside(bytes([1]) + bytes(31))
    with pytest.raises(KokonError):
        vault.open_master(tmp_path / "state", holder_of("enclave", Settings(), lambda what: what.encode()))
