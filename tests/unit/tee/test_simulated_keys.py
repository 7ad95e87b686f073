"""Keys on disk: made once, private, and broken ones are told apart from missing ones."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tee_kit import ARK, ASK, NOW, Chip

from kokon.errors import HostError, MalformedError
from kokon.tee.simulated import keys
from kokon.tee.simulated.keys import fingerprint, load_processor


@pytest.fixture
def copy(chip: Chip, tmp_path: Path) -> Path:
    directory = tmp_path / "chip"
    shutil.copytree(chip.directory, directory)
    directory.chmod(0o700)
    return directory


def test_private_and_complete(chip: Chip) -> None:
    assert chip.directory.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in chip.directory.iterdir()}
    assert {"ark.pem", "ask.pem", "ark-key.pem", "ask-key.pem", "chip.key", "ark.sha256"} <= names
    assert not any(name.endswith(".new") for name in names)
    for path in chip.directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert keys.are_made(chip.directory)


def test_the_same_chip_every_time(chip: Chip, copy: Path) -> None:
    assert load_processor(copy, NOW) == chip.processor
    assert fingerprint(copy) == chip.root
    assert keys.root_fingerprint(chip.processor.certificates[2]) == chip.root


def test_a_new_tcb_gets_a_new_certificate_from_the_same_authority(chip: Chip, copy: Path) -> None:
    (vcek,) = copy.glob("vcek-*.pem")
    vcek.unlink()
    assert not keys.are_made(copy)
    again = load_processor(copy)
    assert again.certificates[1:] == chip.processor.certificates[1:]
    assert again.certificates[0] != chip.processor.certificates[0]


def test_many_at_the_same_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chip: Chip) -> None:
    made = []
    original = keys._make_authorities

    def copied(directory: Path, now: object) -> None:
        made.append(directory)
        for path in chip.directory.iterdir():
            if path.name not in (ARK, ".lock") and not path.name.startswith("vcek"):
                shutil.copy(path, directory)
        shutil.copy(chip.directory / ARK, directory)

    assert callable(original)
    monkeypatch.setattr(keys, "_make_authorities", copied)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(load_processor, [tmp_path / "new"] * 8))
    assert len(made) == 1
    assert all(processor == found[0] for processor in found)


@pytest.mark.parametrize("name", ["chip.key", ASK, ARK])
@pytest.mark.parametrize("content", [b"", b"x", b"x" * 20000])
def test_damaged_files(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(HostError) as caught:
        load_processor(copy)
    assert caught.value.code == "processor-keys-broken"


def test_missing_secret(copy: Path) -> None:
    (copy / "chip.key").unlink()
    with pytest.raises(HostError) as caught:
        load_processor(copy)
    assert caught.value.code == "processor-keys-broken"


@pytest.mark.parametrize("content", [b"nonsense", None])
def test_damaged_authority_key(copy: Path, chip: Chip, content: bytes | None) -> None:
    next(copy.glob("vcek-*.pem")).unlink()
    if content is None:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = ec.generate_private_key(ec.SECP256R1())
        content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (copy / "ask-key.pem").write_bytes(content)
    with pytest.raises(HostError) as caught:
        load_processor(copy)
    assert caught.value.code == "processor-keys-broken"


def test_damaged_fingerprint_and_root(copy: Path) -> None:
    (copy / "ark.sha256").write_text("short")
    with pytest.raises(HostError) as caught:
        keys.stored_fingerprint(copy)
    assert caught.value.code == "processor-keys-broken"
    with pytest.raises(HostError) as caught:
        keys.root_fingerprint(b"nonsense")
    assert caught.value.code == "processor-keys-broken"


def test_keys_that_others_may_read(copy: Path) -> None:
    copy.chmod(0o750)
    with pytest.raises(HostError) as caught:
        load_processor(copy)
    assert caught.value.code == "processor-keys-exposed"
    assert "chmod 700" in (caught.value.hint or "")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as caught:
        load_processor(tmp_path / "file" / "keys")
    assert caught.value.code == "processor-keys-unwritable"


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----",
        b"-----BEGIN X-----\nAAAA\n-----END X-----",
    ],
)
def test_malformed_pem(pem: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        keys.pem_to_der(pem)
    assert caught.value.code == "pem-malformed"


def test_a_stale_temporary_file_does_no_harm(copy: Path) -> None:
    next(copy.glob("vcek-*.pem")).unlink()
    for path in list(copy.iterdir()):
        (copy / f".{path.name}.new").write_text("left over")
    assert load_processor(copy).certificates
