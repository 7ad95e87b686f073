"""Every fuzz target takes its seeds and what becomes of them; atheris itself runs in `make fuzz`."""

import random
from pathlib import Path

import pytest
from fuzz.__main__ import main
from fuzz.corpus import seed
from fuzz.images import image_targets
from fuzz.services import service_targets
from fuzz.structured import VALUES, changed, places
from fuzz.target import Target
from fuzz.targets import targets

from kokon.errors import MalformedError

TARGETS = targets()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_their_mutations(name: str) -> None:
    target, dice = TARGETS[name], random.Random(name)
    for data in (*target.seeds[:4], b"", b"\0" * 64, b"\xff" * 64):
        target.run(data)
        for _ in range(12):
            mutated = bytearray(data[: dice.randrange(len(data) + 1)] + dice.randbytes(dice.randrange(8)))
            for _ in range(dice.randrange(4)):
                if mutated:
                    mutated[dice.randrange(len(mutated))] = dice.randrange(256)
            target.run(bytes(mutated))


NEW = {**image_targets(), **service_targets()}
UNSEEDED = {"channel-answer", "channel-certificate"}
"""Those whose genuine input takes an enclave to make."""


@pytest.mark.parametrize("name", sorted(NEW.keys() - UNSEEDED))
def test_the_first_seed_is_read(name: str) -> None:
    """A fuzzer that starts from what is refused at once gets nowhere."""
    NEW[name].parse(NEW[name].seeds[0])


def test_a_target_hides_nothing_but_our_own_refusals() -> None:
    def refuses(data: bytes) -> object:
        raise MalformedError("toy-malformed", "no", found=len(data))

    def breaks(data: bytes) -> object:
        return data[9]

    Target(refuses).run(b"")
    with pytest.raises(IndexError):
        Target(breaks).run(b"")


def test_changes_reach_every_place() -> None:
    genuine = {"a": [1, {"b": "text"}], "c": 7}
    assert len(list(places(genuine))) == 5
    assert changed(genuine, b"") == genuine
    seen = {
        repr(changed(genuine, bytes([0, place, what, how])))
        for place in range(5)
        for what in range(24)
        for how in range(5)
    }
    assert len(seen) > 5 * len(VALUES) // 2
    assert genuine == {"a": [1, {"b": "text"}], "c": 7}


def test_corpus_and_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list(seed(tmp_path / "corpus", (b"a", b"b", b"a")).iterdir())) == 2
    assert main(["--list"]) == 0
    assert set(capsys.readouterr().out.split()) == set(TARGETS)
    with pytest.raises(SystemExit):
        main(["--only", "no-such-target"])


def test_atheris_finds_a_planted_fault(tmp_path: Path) -> None:
    """The machinery can fail: a target that breaks ends with status 1 and leaves its input behind."""
    import subprocess
    import sys

    pytest.importorskip("atheris", reason="ATHERIS IS MISSING: the fuzzer itself is not tested in this run")
    program = (
        "import sys, atheris\n"
        "def one(data):\n    if data[:1] == b'K':\n        raise IndexError('planted')\n"
        f"atheris.Setup([sys.argv[0], '-max_total_time=20', '-artifact_prefix={tmp_path}/'], one)\natheris.Fuzz()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert done.returncode != 0
    assert list(tmp_path.glob("crash-*"))
