"""Linux's configfs-tsm, played by a directory of plain files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kokon.errors import HostError, KokonError, MalformedError
from kokon.tee import tsm

DATA = bytes(range(64))


class FakeTree(tsm.Tree):
    """Makes the attributes that the kernel would make, and answers over what was written."""

    def __init__(self, root: Path, answer: Callable[[bytes], bytes], *, provider: str, aux: bytes | None) -> None:
        super().__init__(root)
        root.mkdir()
        self.answer, self.provider, self.aux = answer, provider, aux
        self.strangers = 0
        self.written: list[tuple[str, bytes]] = []

    def make(self, name: str) -> None:
        super().make(name)
        directory = self.root / name
        for attribute in ("inblob", "privlevel", "outblob"):
            (directory / attribute).write_bytes(b"")
        (directory / "provider").write_text(f"{self.provider}\n")
        (directory / "generation").write_text("0\n")
        if self.aux is not None:
            (directory / "auxblob").write_bytes(self.aux)

    def remove(self, name: str) -> None:
        for file in (self.root / name).iterdir():
            file.unlink()
        super().remove(name)

    def _count(self, name: str) -> None:
        file = self.root / name / "generation"
        file.write_text(f"{int(file.read_text()) + 1}\n")

    def write(self, name: str, attribute: str, data: bytes) -> None:
        super().write(name, attribute, data)
        self.written.append((attribute, data))
        self._count(name)

    def read(self, name: str, attribute: str) -> bytes:
        if attribute == "outblob":
            (self.root / name / attribute).write_bytes(self.answer((self.root / name / "inblob").read_bytes()))
            if self.strangers:
                self.strangers -= 1
                self._count(name)
        return super().read(name, attribute)


def make_tree(tmp_path: Path, *, provider: str = "tdx_guest", aux: bytes | None = None) -> FakeTree:
    return FakeTree(tmp_path / "report", lambda inblob: b"quote over " + inblob, provider=provider, aux=aux)


def test_a_report_and_nothing_left_behind(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    assert tsm.read_report(DATA, tree=tree) == tsm.TsmReport("tdx_guest", b"quote over " + DATA, b"")
    assert tree.written == [("inblob", DATA)]
    assert list(tree.root.iterdir()) == []


def test_privilege_level_and_certificates(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, provider="sev_guest", aux=b"table")
    assert tsm.read_report(DATA, privilege=2, tree=tree).auxblob == b"table"
    assert tree.written == [("privlevel", b"2\n"), ("inblob", DATA)]


def test_another_writer_is_noticed(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    tree.strangers = 2
    assert tsm.read_report(DATA, tree=tree).outblob == b"quote over " + DATA
    assert len(tree.written) == 3
    tree.strangers = 3
    with pytest.raises(HostError) as caught:
        tsm.read_report(DATA, tree=tree)
    assert caught.value.code == "tsm-conflict"
    assert list(tree.root.iterdir()) == []


class Broken(FakeTree):
    """A kernel whose attribute `which` holds something else."""

    which, content = "", b""

    def read(self, name: str, attribute: str) -> bytes:
        if attribute == self.which:
            (self.root / name / attribute).write_bytes(self.content)
            return tsm.Tree.read(self, name, attribute)
        return super().read(name, attribute)


@pytest.mark.parametrize(
    ("which", "content"),
    [("generation", b"many"), ("generation", b"1" * 21), ("outblob", b""), ("outblob", bytes((1 << 20) + 1))],
)
def test_answers_that_make_no_sense(tmp_path: Path, which: str, content: bytes) -> None:
    tree = Broken(tmp_path / "report", lambda _inblob: b"", provider="tdx_guest", aux=None)
    tree.which, tree.content = which, content
    with pytest.raises(MalformedError) as caught:
        tsm.read_report(DATA, tree=tree)
    assert caught.value.code == "tsm-answer"
    assert list(tree.root.iterdir()) == []


def test_a_failing_kernel(tmp_path: Path) -> None:
    def fail(_inblob: bytes) -> bytes:
        raise OSError(16, "Device or resource busy")

    tree = FakeTree(tmp_path / "report", fail, provider="tdx_guest", aux=None)
    with pytest.raises(HostError) as caught:
        tsm.read_report(DATA, tree=tree)
    assert (caught.value.code, caught.value.found) == ("tsm-failed", "Device or resource busy")
    assert list(tree.root.iterdir()) == []


def test_short_writes_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_tree(tmp_path)
    monkeypatch.setattr(tsm.os, "write", lambda _descriptor, data: len(data) - 1)
    with pytest.raises(HostError) as caught:
        tsm.read_report(DATA, tree=tree)
    assert caught.value.code == "tsm-failed"


def test_machines_without_it_and_wrong_sizes(tmp_path: Path) -> None:
    with pytest.raises(HostError) as missing:
        tsm.read_report(DATA, tree=tsm.Tree(tmp_path / "nothing"))
    assert missing.value.code == "tsm-missing"
    with pytest.raises(KokonError) as size:
        tsm.read_report(DATA[1:], tree=make_tree(tmp_path))
    assert size.value.code == "report-data-size"
