"""A canary that leaks on purpose is found, wherever and however it lies; one that does not leak is not."""

import base64
import gzip
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.demo import canaries as module
from kokon.demo.canaries import KINDS, Search, forms, plant, search_bytes, search_memory, search_tree
from kokon.demo.capture import Relay, loopback

CANARIES = plant()
SEARCH = Search(CANARIES)
NOISE = st.binary(max_size=64)


def test_each_run_plants_its_own() -> None:
    assert set(CANARIES.texts) == set(KINDS)
    assert len(set(CANARIES.texts.values())) == len(KINDS)
    assert plant().stem != CANARIES.stem


@settings(deadline=None)
@given(st.sampled_from(KINDS), NOISE, NOISE, st.sampled_from(["plain", "utf16", "hex", "HEX", "b64", "b64url"]))
def test_a_leak_is_found_in_any_form(kind: str, before: bytes, after: bytes, form: str) -> None:
    raw = CANARIES.texts[kind].encode()
    data = {
        "plain": before + raw + after,
        "utf16": before + raw.decode().encode("utf-16-le") + after,
        "hex": before + raw.hex().encode() + after,
        "HEX": before + raw.hex().upper().encode() + after,
        "b64": base64.b64encode(before + raw + after),
        "b64url": base64.urlsafe_b64encode(before + raw + after),
    }[form]
    assert search_bytes(SEARCH, "x", data).kinds == {kind}


@given(NOISE)
def test_noise_is_clean(noise: bytes) -> None:
    assert not search_bytes(SEARCH, "x", noise).kinds


def test_found_across_chunks() -> None:
    raw = CANARIES.texts["data"].encode()
    assert SEARCH.kinds_in([b"x" * 100 + raw[:9], raw[9:] + b"y"]) == {"data"}


def test_found_in_files_their_names_holes_and_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"0" * 5000 + CANARIES.texts["program"].encode()))
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(50 << 20)
        file.write(CANARIES.texts["data"].encode())
        file.truncate(90 << 20)
    (tmp_path / CANARIES.texts["log"]).write_bytes(b"")
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8bbroken")
    finding = search_tree(SEARCH, [tmp_path])
    assert finding.kinds == {"program", "data", "log"}
    assert finding.size < 40 << 20
    assert not finding.unread


def test_a_place_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"x")

    def refused(_path: Path) -> Iterator[bytes]:
        yield b"x"
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "_file", refused)
    assert search_tree(SEARCH, [tmp_path]).unread


def test_found_in_memory_of_a_process() -> None:
    code = "import sys; s = sys.stdin.read(); print('ready', flush=True); import time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as stdin:
        stdin.write(CANARIES.texts["request"].encode())
    process.stdout.readline()
    finding = search_memory(SEARCH, process.pid)
    process.kill()
    process.wait()
    process.stdout.close()
    assert finding.kinds == {"request"}


@pytest.mark.skipif(os.geteuid() != 0, reason="CAPTURING THE LOOPBACK INTERFACE NEEDS ROOT")
def test_found_on_the_wire(tmp_path: Path) -> None:
    path = tmp_path / "lo"
    with loopback(path) as capture, socket.create_server(("127.0.0.1", 0)) as server:
        assert capture.possible
        with socket.create_connection(server.getsockname()) as client:
            client.sendall(CANARIES.texts["answer"].encode())
            server.accept()[0].close()
    assert search_tree(SEARCH, [path]).kinds == {"answer"}
    assert capture.lost == 0


def test_no_capture_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: int) -> socket.socket:
        raise PermissionError

    monkeypatch.setattr(socket, "socket", refused)
    with loopback(tmp_path / "lo") as capture:
        assert not capture.possible
    assert not (tmp_path / "lo").exists()


def test_forms_are_distinct() -> None:
    assert len(forms("canary0123456789")) >= 7


def test_a_relay_records_both_directions(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(server.getsockname()[1], tmp_path / "c")
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            client.sendall(CANARIES.texts["request"].encode())
            client.shutdown(socket.SHUT_WR)
            inside = server.accept()[0]
            assert inside.recv(1000) == CANARIES.texts["request"].encode()
            inside.sendall(CANARIES.texts["answer"].encode())
            inside.close()
            assert client.recv(1000) == CANARIES.texts["answer"].encode()
        relay.close()
    assert search_tree(SEARCH, [tmp_path / "c"]).kinds == {"request", "answer"}
