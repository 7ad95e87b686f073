"""The demo's story, once, with a canary that leaks on purpose: the search must find exactly it, and say where."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kokon.demo import story
from kokon.demo.attacks import ATTACKS
from kokon.demo.cloud import PLACES
from kokon.errors import UntrustedError
from support.world import borrow, find_guest, processes_of, run_tool

pytestmark = pytest.mark.vm


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ke-", dir="/tmp"))
    yield path
    # podman, run as root, leaves its storage mounted onto itself.
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{path}/"):
            run_tool("umount", line.split()[1])
    shutil.rmtree(path)


def test_a_leak_on_purpose_is_found_where_it_is(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    guest = find_guest()
    borrow(home, guest)
    with pytest.raises(UntrustedError) as caught:
        story.tell(home, guest, leak="data")
    told = capsys.readouterr().out
    assert (caught.value.code, caught.value.found) == ("demo-leak", "disks and state"), told
    assert not processes_of(home), "the story leaves nothing running"
    for party in ("author", "owner", "host", "user", "what the cloud saw", "attacks"):
        assert re.search(rf"^{party}  ", told, re.MULTILINE), party
    assert "✗" not in told
    assert f"{len(ATTACKS)} of {len(ATTACKS)} attacks ended with nothing released" in told
    for name, _ in ATTACKS:
        assert f"✓ {name}: " in told
    assert "SIMULATION: the host can read the guest's memory" in told
    ordinary, confidential = table(told)
    assert re.match(r"data \(", confidential["disks and state"])
    for place in PLACES[:-1]:
        if place != "disks and state":
            assert confidential[place].startswith("nothing ("), (place, confidential)
    # The ordinary container shows what such a search finds where nobody hides anything.
    assert ordinary["registry storage"].startswith("program, data"), ordinary
    assert "request" in ordinary["network"]
    assert "environment secret" in ordinary["command lines, environment"]


def table(told: str) -> tuple[dict[str, str], dict[str, str]]:
    """The two columns of the table, by place; a cell may go over several lines."""
    ordinary: dict[str, str] = {}
    confidential: dict[str, str] = {}
    place = ""
    for line in told.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) != 3:
            continue
        place = cells[0] if cells[0] in PLACES else place
        for column, cell in ((ordinary, cells[1]), (confidential, cells[2])):
            column[place] = f"{column.get(place, '')} {cell}".strip()
    assert set(ordinary) == set(PLACES), json.dumps(ordinary)
    return ordinary, confidential
