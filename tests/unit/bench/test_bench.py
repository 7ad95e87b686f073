"""The benchmarks' own logic: rows, table, JSON, registry, arguments, and what is read from a guest. No timings."""

import importlib
import json
import os
import tarfile
from pathlib import Path

import pytest
from bench import __main__ as program
from bench.benchmarks import BENCHMARKS
from bench.images import PAGE, busybox_image
from bench.launching import Launched
from bench.memory import megabytes
from bench.probe import MARK, read_samples
from bench.sealing_task import prepare
from bench.setting import Setting
from bench.table import Row, against, median, show, write

from kokon.errors import HostError
from kokon.image.source import open_source
from kokon.launch.image import GuestImage

BASE = Row("plain", 2.0, "s")


def setting(area: Path, *, quick: bool = False) -> Setting:
    guest = GuestImage.__new__(GuestImage)
    return Setting(area, area, guest, "tcg", quick, lambda _text: None)


def test_a_ratio_names_what_it_is_a_ratio_to() -> None:
    assert against(Row("ours", 5.0, "s"), BASE) == Row("ours", 5.0, "s", "plain", 2.5)


def test_ratios_of_different_units_or_to_nothing_are_refused() -> None:
    with pytest.raises(HostError) as unit:
        against(Row("ours", 5.0, "MB"), BASE)
    with pytest.raises(HostError) as nothing:
        against(Row("ours", 5.0, "s"), Row("plain", 0.0, "s"))
    assert unit.value.code == nothing.value.code == "bench-no-ratio"


def test_the_table_has_a_line_per_row_and_aligned_values() -> None:
    lines = show([BASE, against(Row("ours, with a long name", 5.0, "s"), BASE)]).splitlines()
    assert len(lines) == 2
    assert lines[0].index("2.00") == lines[1].index("5.00")
    assert lines[1].endswith("2.50 x plain")
    assert lines[0] == lines[0].rstrip()


def test_json_is_a_list_of_objects_with_the_five_members(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write([BASE, against(Row("ours", 5.0, "s"), BASE)], path)
    rows = json.loads(path.read_text())
    assert [list(row) for row in rows] == [["name", "value", "unit", "ratio_to", "ratio"]] * 2
    assert rows[0]["ratio"] is None
    assert rows[1] == {"name": "ours", "value": 5.0, "unit": "s", "ratio_to": "plain", "ratio": 2.5}


def test_median() -> None:
    assert median([9.0, 1.0, 2.0]) == 2.0


def test_every_benchmark_is_a_file_with_a_function_of_its_name() -> None:
    assert list(BENCHMARKS) == [
        "cold-start",
        "memory",
        "sealing",
        "encryption",
        "attestation",
        "evidence",
        "provisioning",
    ]
    for name, benchmark in BENCHMARKS.items():
        word = name.replace("-", "_")
        assert getattr(importlib.import_module(f"bench.{word}"), word) is benchmark


def test_arguments() -> None:
    options = program.arguments(["--quick", "--only", "memory", "sealing", "--out", "x.json"])
    assert (options.quick, options.only, options.out) == (True, ["memory", "sealing"], Path("x.json"))
    with pytest.raises(SystemExit):
        program.arguments(["--only", "nonsense"])


def test_a_benchmark_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    def broken(_setting: Setting) -> list[Row]:
        raise HostError("bench-tool-missing", "no such tool")

    rows, failed = program.measure(setting(tmp_path), {"broken": broken, "good": lambda _setting: [BASE]})
    assert rows == [BASE]
    assert {name: error.code for name, error in failed.items()} == {"broken": "bench-tool-missing"}


def test_without_a_guest_image_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    with pytest.raises(HostError) as caught:
        program.main(["--quick"])
    assert caught.value.code == "guest-image-missing"


def test_quick_means_one_repetition(tmp_path: Path) -> None:
    assert (setting(tmp_path, quick=True).runs, setting(tmp_path).runs) == (1, 3)


def test_the_steps_of_a_launch_add_up_to_the_whole() -> None:
    from bench.cold_start import breakdown

    phases = ("agent-ready", "attested", "pulled", "unsealed", "provisioned", "started", "serving")
    run = Launched.__new__(Launched)
    run.machine, run.answered = 0.25, 9.5
    run.seen = {phase: 4.0 + number / 2 for number, phase in enumerate(phases)}
    run.said = {phase: seen - 1.0 for phase, seen in run.seen.items()}
    rows = breakdown(run)
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.value >= 0 and row.unit == "s" for row in rows)
    assert sum(row.value for row in rows) == pytest.approx(9.5)


def test_samples_are_found_among_other_lines_and_an_unfinished_one_is_passed_over() -> None:
    console = f'[    0.1] kernel\r\n{MARK}{json.dumps({"Pss": 7})}\r\nnoise\n{MARK}{{"Ps'.encode()
    assert list(read_samples(console)) == [{"Pss": 7}]


def test_kibibytes_become_megabytes() -> None:
    assert megabytes(1000) == 1.0


def test_the_small_image_can_be_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "busybox"
    tool.write_bytes(b"\x7fELF")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with open_source(f"oci:{busybox_image(tmp_path / 'image')}") as image:
        assert image.config.command[0] == "/bin/busybox"
        (layer,) = image.layers
        content = tmp_path / "layer"
        content.write_bytes(b"".join(layer.read()))
    with tarfile.open(content) as archive:
        page = archive.extractfile("srv/index.html")
        assert page is not None
        assert page.read() == PAGE


def test_without_busybox_there_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as caught:
        busybox_image(tmp_path / "image")
    assert caught.value.code == "bench-tool-missing"
    assert "busybox-static" in str(caught.value.hint)


def test_the_large_layer_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    prepare(tmp_path, 3 << 20)
    with open_source(f"oci:{tmp_path / 'image'}") as image:
        (layer,) = image.layers
        assert layer.gzip
        assert 3 << 20 <= layer.size < 4 << 20
        assert sum(len(chunk) for chunk in layer.read()) == layer.size


def test_evidence_rows_and_their_yardsticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import evidence as module

    monkeypatch.setattr(module, "_processes", lambda _setting: [])
    rows = {row.name: row for row in module.evidence(setting(tmp_path, quick=True))}
    assert all(row.value > 0 for row in rows.values())
    bare = rows["bare P-384 signature check"]
    for name, row in rows.items():
        if name.startswith("SNP verified"):
            assert row.ratio_to == bare.name
    assert {"event log of 1,000 events replayed", "SNP appraised (aim 100 us)"} <= set(rows)


def test_what_is_measured_must_verify() -> None:
    from dataclasses import replace

    from bench import evidence as module

    from kokon.tee.registry import verify
    from kokon.testing.vendor import FakeVendor

    vendor = FakeVendor(module.NOW)
    subject = vendor.sgx()
    claims = verify(subject, vendor.endorsements(subject), module.NOW)
    assert module._good(claims) is claims
    with pytest.raises(HostError, match="bench-not-verified"):
        module._good(replace(claims, checks=()))
    with pytest.raises(HostError, match="bench-not-verified"):
        module._good(verify(subject, vendor.endorsements(subject), module.NOW.replace(year=2040)))


def test_caches_are_found_and_emptied() -> None:
    from bench import evidence as module

    from kokon.tee.certificates import _parse

    step, forget = module.forgetting(lambda: None)
    assert _parse in module.caches()
    forget()
    assert _parse.cache_info().currsize == 0
    assert step() is None


def test_one_core_only_for_a_while() -> None:
    from bench import evidence as module

    before = os.sched_getaffinity(0)
    with module.one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
