import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import DeniedError, HostError, InternalError, UntrustedError
from kokon.host.status import (
    FILE_LIMIT,
    LINE_LIMIT,
    StatusReader,
    guest_error,
    last_status,
    parse_status,
    relayed_error,
)


def line(**members: object) -> bytes:
    return json.dumps({"t": 1.25} | members).encode()


def test_reads_a_line() -> None:
    status = parse_status(line(phase="failed", kind="untrusted", code="layer-digest-mismatch", found="x" * 900))
    assert status is not None
    assert (status.seconds, status.phase, status.code, status.final) == (1.25, "failed", "layer-digest-mismatch", True)
    assert status.found == "x" * 500


def test_a_guest_does_not_draw_on_the_terminal() -> None:
    status = parse_status(line(phase="failed", code="x", message="\x1b[2Jfine\r\u202e", hint="ok \u00fc"))
    assert status is not None
    assert (status.message, status.hint) == ("\ufffd[2Jfine\ufffd\ufffd", "ok \u00fc")


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"\xff", b'{"t":1}', b'{"t":true,"phase":"x"}', b'{"t":-1,"phase":"x"}', b'{"t":1,"phase":7}',
     b'{"t":1,"t":2,"phase":"x"}', b'{"t":1e99,"phase":"x"}', b'{"t":NaN,"phase":"x"}',
     line(phase="x", p="y" * LINE_LIMIT)],
)  # fmt: skip
def test_passes_over_what_is_no_status(data: bytes) -> None:
    assert parse_status(data) is None


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (255, 255), (256, None), (-1, None), ("0", None), (True, None)]
)
def test_exit_code_is_bounded(value: object, expected: int | None) -> None:
    status = parse_status(line(phase="exited", exit=value))
    assert status is not None
    assert status.exit == expected


@given(st.binary(max_size=200))
def test_any_bytes_are_read(data: bytes) -> None:
    parse_status(data)


@given(st.lists(st.one_of(st.binary(max_size=40), st.just(line(phase="pulled"))), max_size=6), st.integers(1, 9))
def test_reader_gets_the_same_however_it_arrives(
    tmp_path_factory: pytest.TempPathFactory, parts: list, step: int
) -> None:
    data = b"\n".join(parts) + b"\n"
    whole = [parse_status(part) for part in data.split(b"\n")[:-1]]
    path = tmp_path_factory.mktemp("s") / "status"
    reader, seen = StatusReader(path), []
    for at in range(0, len(data), step * 8):
        with path.open("ab") as file:
            file.write(data[at : at + step * 8])
        seen += list(reader.read())
    assert seen == [status for status in whole if status is not None]


def test_reader_waits_for_whole_lines_and_survives_floods(tmp_path: Path) -> None:
    path = tmp_path / "status"
    reader = StatusReader(path)
    assert list(reader.read()) == []
    path.write_bytes(line(phase="attested"))
    assert list(reader.read()) == []
    path.write_bytes(line(phase="attested") + b"\n")
    assert [status.phase for status in reader.read()] == ["attested"]
    with path.open("ab") as file:
        file.write(b"x" * (LINE_LIMIT + 1))
    assert list(reader.read()) == []
    with path.open("ab") as file:
        file.write(b"x\n" + line(phase="pulled") + b"\n")
    assert [status.phase for status in reader.read()] == ["pulled"]
    with path.open("ab") as file:
        file.write(b"\n" * FILE_LIMIT + line(phase="exited") + b"\n")
    assert list(reader.read()) == []
    assert list(reader.read()) == []


def test_reader_does_not_read_directories(tmp_path: Path) -> None:
    assert list(StatusReader(tmp_path).read()) == []


def test_a_final_status_stays_the_last(tmp_path: Path) -> None:
    path = tmp_path / "status"
    path.write_bytes(
        line(phase="serving") + b"\n" + line(phase="exited", exit=3) + b"\n" + line(phase="serving") + b"\n"
    )
    status = last_status(path)
    assert status is not None
    assert (status.phase, status.exit) == ("exited", 3)
    assert last_status(tmp_path / "absent") is None


def test_guest_errors_keep_the_guests_code_and_kind() -> None:
    status = parse_status(line(phase="failed", kind="untrusted", code="image-unsigned"))
    assert status is not None
    error = guest_error(status)
    assert isinstance(error, UntrustedError)
    assert (error.code, error.exit_status) == ("image-unsigned", 4)
    unknown = parse_status(line(phase="failed", code="some-code", kind="?"))
    assert unknown is not None
    assert isinstance(guest_error(unknown), InternalError)
    silent = parse_status(line(phase="failed"))
    assert silent is not None
    error = guest_error(silent)
    assert isinstance(error, DeniedError)
    assert error.code == "guest-failed"


def test_relayed_errors_take_only_texts() -> None:
    error = relayed_error({"kind": "host", "code": "disk-full", "message": "full", "found": 7, "hint": "free some"})
    assert isinstance(error, HostError)
    assert (error.code, error.found, error.hint) == ("disk-full", None, "free some")
    assert relayed_error({"kind": [], "code": 1}).code == "internal-error"
