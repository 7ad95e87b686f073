"""`kokon measure`, `kokon sigstruct` and `kokon explain` on files."""

import hashlib
import io
import json
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from kokon.cli import explain as explaining
from kokon.cli.main import main
from kokon.errors import UsageError
from kokon.launch.image import write_description
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.sgx.gramine import gramine_mrenclave, parse_manifest
from kokon.tee.sgx.measure import Add, Create, Extend, encode_sgxs, mrenclave
from kokon.tee.sgx.sigstruct import Sigstruct, encode, parse_sigstruct, verify_sigstruct
from kokon.tee.simulated.measure import measure_guest
from kokon.tee.snp.hashes import kernel_hashes
from kokon.tee.snp.measure import measure_snp
from kokon.tee.snp.ovmf import parse_ovmf
from kokon.tee.snp.vmsa import cpu_signature
from kokon.tee.tdx.measure import DirectBoot, measure_boot, mrtd, replayed
from kokon.tee.tdx.tdvf import parse_tdvf
from unit.tee.measure_kit import bzimage, elf, firmware

KEY = rsa.generate_private_key(3, 3072)
STEPS = (Create(0x10000, 1), Add(0x1000, 0x203), Extend(0x1000, b"x" * 256))
MANIFEST = b'sgx.enclave_size = "4M"\nsgx.max_threads = 1\nsgx.isvsvn = 9\n'


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that can be measured, and a guest image in Kokon's home."""
    home = tmp_path / "home"
    monkeypatch.setenv("KOKON_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    guest = home / "guest" / "abc"
    guest.mkdir(parents=True)
    (home / "guest" / "current").symlink_to("abc")
    (home / "guest" / "broken").mkdir()
    (home / "guest" / "file").write_bytes(b"")
    for name, data in {"kernel": bzimage(), "initrd": b"initrd", "root": b"root", "firmware": b"f" * 4096}.items():
        (guest / name).write_bytes(data)
    write_description(guest, "6.12", "quiet", {name: name for name in ("kernel", "initrd", "root", "firmware")})
    contents = {
        "OVMF.fd": firmware(),
        "old.fd": firmware(fill=3),
        "vmlinuz": bzimage(fill=5),
        "initrd": b"other initrd",
        "app.sgxs": encode_sgxs(STEPS),
        "other.sgxs": encode_sgxs((*STEPS[:2], Extend(0x1000, b"y" * 256))),
        "app.manifest.sgx": MANIFEST,
        "other.manifest.sgx": MANIFEST + b"sgx.debug = true\n",
        "libpal.so": elf(),
        "app.sig": encode(Sigstruct(mrenclave=mrenclave(STEPS), date=date(2026, 11, 23), product_id=1)),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    private = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(private)
    (tmp_path / "key.pub").write_bytes(public)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    assert main([*words, "--json"]) == status
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--json"]) > 1
    code: str = json.loads(capsys.readouterr().err)["error"]["code"]
    return code


def test_snp_of_the_guest_image(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(capsys, "measure", "snp", "--firmware", "OVMF.fd", "--cpus", "1-2,4")
    hashes_ = kernel_hashes(bzimage(), b"initrd", "quiet")
    expected = [
        measure_snp(parse_ovmf(firmware()), hashes_, vcpus=n, signature=cpu_signature("EPYC-v4")).hex()
        for n in (1, 2, 4)
    ]
    assert [one["measurement"] for one in answer["measurements"]] == expected
    assert [one["vcpus"] for one in answer["measurements"]] == [1, 2, 4]
    assert answer["boot"]["cmdline"] == "quiet"
    assert main(["measure", "snp", "--firmware", "OVMF.fd"]) == 0
    assert capsys.readouterr().out.strip() == expected[0]
    assert main(["measure", "snp", "--firmware", "OVMF.fd", "--cpus", "1,4"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"  1 CPUs  {expected[0]}", f"  4 CPUs  {expected[2]}"]


def test_snp_of_own_files(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--kernel", "vmlinuz", "--initrd", "initrd", "--append", "debug", "--guest-features", "33"]
    answer = run(capsys, "measure", "snp", "--firmware", "OVMF.fd", *words, "--cpu-signature", "0x123", "--vmm", "gce")
    hashes_ = kernel_hashes(bzimage(fill=5), b"other initrd", "debug")
    digest = measure_snp(parse_ovmf(firmware()), hashes_, vcpus=1, signature=0x123, features=33, vmm="gce")
    assert answer["measurements"] == [{"vcpus": 1, "measurement": digest.hex()}]
    assert run(capsys, "measure", "snp", "--firmware", "OVMF.fd", "--no-kernel")["boot"] is None
    alone = run(capsys, "measure", "snp", "--firmware", "OVMF.fd", "--kernel", "vmlinuz")["boot"]
    assert (alone["initrd_sha256"], alone["cmdline"]) == (None, "")


def test_tdx(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(capsys, "measure", "tdx", "--firmware", "OVMF.fd", "--memory", "1G", "--separator", "rtmr0")
    boot = DirectBoot(bzimage(), b"initrd", "quiet", memory=1 << 30, separator=False)
    events = measure_boot(boot)
    assert answer["registers"] == {
        "mrtd": mrtd(parse_tdvf(firmware())).hex(),
        "rtmr1": replayed(events["rtmr1"]).hex(),
        "rtmr2": replayed(events["rtmr2"]).hex(),
    }
    assert answer["events"]["rtmr2"][0] == {"event": "cmdline", "digest": events["rtmr2"][0].digest.hex()}
    assert answer["sections"][0] == {"name": "BFV", "address": "0xfffff000", "size": "0x1000", "measured": True}
    assert main(["measure", "tdx", "--firmware", "OVMF.fd", "--no-kernel", "--page-order", "section"]) == 0
    assert capsys.readouterr().out == f"mrtd   {mrtd(parse_tdvf(firmware()), 'section').hex()}\n"


def test_sgx(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = mrenclave(STEPS).hex()
    assert run(capsys, "measure", "sgx", "app.sgxs") == {"tee": "sgx", "mrenclave": expected}
    assert run(capsys, "measure", "sgx", "app.sgxs", "--sigstruct", "app.sig")["matches"] is True
    assert run(capsys, "measure", "sgx", "other.sgxs", "--sigstruct", "app.sig", status=1)["matches"] is False
    assert main(["measure", "sgx", "other.sgxs", "--sigstruct", "app.sig"]) == 1
    assert f"DIFFERS from the SIGSTRUCT: {expected}" in capsys.readouterr().out
    words = ["--manifest", "app.manifest.sgx", "--libpal", "libpal.so"]
    found = run(capsys, "measure", "sgx", *words)["mrenclave"]
    assert found == gramine_mrenclave(parse_manifest(MANIFEST), elf()).hex()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["snp"], "firmware-needed"),
        (["snp", "--firmware", "missing.fd"], "input-unreadable"),
        (["snp", "--firmware", "OVMF.fd", "--initrd", "initrd"], "boot-options"),
        (["snp", "--firmware", "OVMF.fd", "--no-kernel", "--append", "x"], "boot-options"),
        (["snp", "--firmware", "OVMF.fd", "--cpus", "0"], "cpus-malformed"),
        (["snp", "--firmware", "OVMF.fd", "--cpus", "4-2"], "cpus-malformed"),
        (["snp", "--firmware", "OVMF.fd", "--cpus", "1-"], "cpus-malformed"),
        (["snp", "--firmware", "OVMF.fd", "--cpus", "1-9999"], "cpus-malformed"),
        (["snp", "--firmware", "OVMF.fd", "--cpus", "1-500,1-500"], "cpus-malformed"),
        (["snp", "--firmware", "OVMF.fd", "--guest-features", "all"], "number-malformed"),
        (["snp", "--firmware", "OVMF.fd", "--guest", "nowhere"], "guest-image-missing"),
        (["tdx", "--firmware", "OVMF.fd", "--memory", "lots"], "memory-malformed"),
        (["tdx", "--firmware", "app.sgxs"], "tdvf-malformed"),
        (["sgx"], "enclave-options"),
        (["sgx", "app.sgxs", "--manifest", "app.manifest.sgx"], "enclave-options"),
    ],
)
def test_wrong_usage_of_measure(files: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: str) -> None:
    assert refused(capsys, "measure", *words) == code


def test_inputs_are_bounded(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "large.sig").write_bytes(bytes(1809))
    assert refused(capsys, "sigstruct", "show", "large.sig") == "input-too-large"


def test_sizes_of_memory() -> None:
    from kokon.cli.inputs import memory_size

    assert [memory_size(text) for text in ("512", "512M", "4G", "1t")] == [512 << 20, 512 << 20, 4 << 30, 1 << 40]


def test_sigstruct_in_one_step_and_in_two(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--manifest", "app.manifest.sgx", "--libpal", "libpal.so", "--day", "2026-11-23", "--product-id", "4"]
    answer = run(capsys, "sigstruct", "make", "one.sig", *words, "--key", "key.pem")
    signed = parse_sigstruct((files / "one.sig").read_bytes())
    verify_sigstruct(signed)
    assert (signed.security_version, signed.product_id, signed.debug) == (9, 4, False)
    assert answer["mrsigner"] == signed.mrsigner.hex()
    run(capsys, "sigstruct", "make", "two.sig", *words)
    request = (files / "two.sig.tbs").read_bytes()
    (files / "signature").write_bytes(KEY.sign(request, padding.PKCS1v15(), hashes.SHA256()))
    run(capsys, "sigstruct", "assemble", "two.sig", "signature", "--key", "key.pub", "--output", "three.sig")
    assert (files / "three.sig").read_bytes() == (files / "one.sig").read_bytes()
    assert run(capsys, "sigstruct", "show", "three.sig")["signature"] == "valid"
    assert run(capsys, "sigstruct", "show", "two.sig", status=1)["signature"] == "none"
    (files / "bad.sig").write_bytes(
        (files / "one.sig").read_bytes()[:960] + bytes(32) + (files / "one.sig").read_bytes()[992:]
    )
    assert run(capsys, "sigstruct", "show", "bad.sig", status=1)["signature"].startswith("WRONG")
    assert refused(capsys, "sigstruct", "make", "one.sig", *words, "--key", "key.pem") == "output-exists"


def test_sigstruct_of_a_known_mrenclave(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(
        capsys, "sigstruct", "make", "x.sig", "--mrenclave", "ab" * 32, "--key", "key.pem", "--debug", "--svn", "2"
    )
    assert (answer["mrenclave"], answer["debug"], answer["security_version"]) == ("ab" * 32, True, 2)
    answer = run(capsys, "sigstruct", "make", "y.sig", "--sgxs", "app.sgxs", "--key", "key.pem")
    assert answer["mrenclave"] == mrenclave(STEPS).hex()
    assert main(["sigstruct", "show", "y.sig"]) == 0
    assert "valid" in capsys.readouterr().out


def test_wrong_usage_of_sigstruct(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (files / "ec.pem").write_bytes(pem)
    (files / "ec.pub").write_bytes(
        other.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    wide = rsa.generate_private_key(65537, 3072).public_key()
    (files / "wide.pub").write_bytes(
        wide.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (files / "signature").write_bytes(bytes(384))
    make = ("sigstruct", "make", "new.sig", "--sgxs", "app.sgxs")
    assert refused(capsys, *make, "--day", "yesterday") == "date-malformed"
    assert refused(capsys, *make, "--key", "app.sgxs") == "enclave-key"
    assert refused(capsys, *make, "--key", "ec.pem") == "enclave-key"
    assert refused(capsys, "sigstruct", "make", "no/where.sig", "--sgxs", "app.sgxs") == "output-not-written"
    assemble = ("sigstruct", "assemble", "app.sig", "signature", "--output", "new.sig", "--key")
    for key in ("app.sgxs", "ec.pub", "wide.pub"):
        assert refused(capsys, *assemble, key) == "enclave-key"
    assert refused(capsys, *assemble, "key.pub") == "sigstruct-signature"


def claims(tee: str, measurement: bytes, **changes: Any) -> Claims:
    return Claims(
        tee=tee, simulated=False, root="", product="", measurement=measurement, host_data=b"", report_data=b"",
        debug=False, migratable=False, vmpl=0, chip_id=b"", reported_tcb={}, checks=(), **changes,
    )  # fmt: skip


@pytest.fixture
def report(files: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A file that stands for evidence with the claims that a test puts here."""
    (files / "report.bin").write_bytes(b"evidence")
    held = SimpleNamespace(claims=None, evidence=Evidence("", b""))
    monkeypatch.setattr(explaining, "load", lambda _data: (held.evidence, held.claims))
    return held


def explained(capsys: pytest.CaptureFixture[str], *words: str, status: int = 1) -> dict[str, str]:
    answer = run(capsys, "explain", "report.bin", *words, status=status)
    assert answer["matches"] is (status == 0)
    return {finding["input"]: finding["found"] for finding in answer["findings"]}


def test_explain_snp(files: Path, capsys: pytest.CaptureFixture[str], report: SimpleNamespace) -> None:
    image, signature = parse_ovmf(firmware()), cpu_signature("EPYC-v4")
    guest = kernel_hashes(bzimage(), b"initrd", "quiet")
    report.claims = claims("snp", measure_snp(image, guest, vcpus=4, signature=signature))
    assert explained(capsys, "--firmware", "OVMF.fd", "--cpus", "2") == {"vcpus": "4"}
    assert explained(capsys, "--firmware", "OVMF.fd", "--cpus", "4", status=0) == {}
    own = ("--kernel", "vmlinuz", "--initrd", "initrd", "--append", "quiet", "--cpus", "4")
    found = explained(capsys, "--firmware", "OVMF.fd", *own)
    assert found["kernel"].startswith("kernel of guest image ")
    assert found["initrd"].startswith("initrd of guest image ")
    also = ("--also", "OVMF.fd", "--also", "vmlinuz", "--also", "initrd", "--also-append", "x")
    assert explained(capsys, "--firmware", "old.fd", "--cpus", "4", *also) == {"firmware": "OVMF.fd"}
    assert explained(capsys, "--firmware", "OVMF.fd", "--no-kernel", "--cpus", "9") == {}
    assert main(["explain", "report.bin", "--firmware", "OVMF.fd", "--cpus", "2"]) == 1
    assert capsys.readouterr().out == "vcpus\n  expected: 2\n  found: 4\n"
    assert main(["explain", "report.bin", "--firmware", "OVMF.fd", "--cpus", "4"]) == 0
    assert "nothing differs" in capsys.readouterr().out
    report.claims = claims("snp", bytes(48))
    assert main(["explain", "report.bin", "--firmware", "OVMF.fd"]) == 1
    assert "nothing that was tried explains it" in capsys.readouterr().out


def test_explain_a_simulated_guest(files: Path, capsys: pytest.CaptureFixture[str], report: SimpleNamespace) -> None:
    from kokon.launch.image import read_guest_image

    image = read_guest_image(files / "home" / "guest" / "abc")
    report.claims = claims("snp", measure_guest(image, 2))
    object.__setattr__(report.claims, "simulated", True)
    assert explained(capsys, "--cpus", "1") == {"vcpus": "2"}
    assert explained(capsys, "--cpus", "2", status=0) == {}


def test_explain_tdx(files: Path, capsys: pytest.CaptureFixture[str], report: SimpleNamespace) -> None:
    boot = DirectBoot(bzimage(), b"initrd", "quiet", memory=1 << 30)
    registers = {name: replayed(events) for name, events in measure_boot(boot).items()}
    registers["mrtd"] = mrtd(parse_tdvf(firmware()))
    report.claims = claims("tdx", registers["mrtd"], registers=registers)
    guest = ("--guest", str(files / "home" / "guest" / "abc"), "--memory", "1G")
    assert explained(capsys, "--firmware", "OVMF.fd", *guest, status=0) == {}
    assert explained(capsys, "--firmware", "old.fd", "--also", "OVMF.fd") == {"firmware": "OVMF.fd"}
    (files / "junk.fd").write_bytes(b"j" * 4048 + firmware()[-48:])
    assert explained(capsys, "--firmware", "old.fd", "--also", "junk.fd").keys() == {"firmware (mrtd)"}
    assert explained(capsys, *guest, "--append", "quiet debug") == {"cmdline": "'quiet'"}
    assert refused(capsys, "explain", "report.bin") == "reference-missing"
    (files / "junk.log").write_bytes(b"junk")
    assert refused(capsys, "explain", "report.bin", "--reference-log", "junk.log") == "event-log-malformed"
    assert refused(capsys, "explain", "report.bin", *guest, "--event-log", "junk.log") == "event-log-malformed"


def test_explain_sgx(files: Path, capsys: pytest.CaptureFixture[str], report: SimpleNamespace) -> None:
    report.claims = claims("sgx", mrenclave(STEPS), signer=b"s" * 32, product_id=1)
    assert explained(capsys, "--sigstruct", "app.sig", status=0) == {}
    assert explained(capsys, "--sgxs", "app.sgxs", status=0) == {}
    report.claims = claims("sgx", hashlib.sha256(b"").digest(), signer=b"s" * 32, product_id=2)
    found = explained(capsys, "--sigstruct", "app.sig", "--sgxs", "app.sgxs", "--found-sgxs", "other.sgxs")
    assert list(found) == ["mrenclave", "enclave build, after the page at 0x1000", "product id"]
    manifests = ("--manifest", "app.manifest.sgx", "--found-manifest", "other.manifest.sgx")
    assert explained(capsys, "--sigstruct", "app.sig", *manifests)["setting sgx.debug"] == "True"
    assert refused(capsys, "explain", "report.bin") == "reference-missing"


def test_explain_knows_files_from_denials(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("kokon.cli.log.explain_denial", lambda denial, **_options: asked.append(denial))
    assert main(["explain", "6f1c2d3e"]) == 0
    assert asked == ["6f1c2d3e"]
    assert refused(capsys, "explain", "missing.bin") == "evidence-file-missing"


def test_explain_reads_standard_input(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, report: SimpleNamespace
) -> None:
    report.claims = claims("sgx", mrenclave(STEPS), product_id=1)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"evidence")))
    assert main(["explain", "-", "--sgxs", "app.sgxs"]) == 0


def test_load_takes_the_part_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = claims("tdx", b"m" * 48)
    found: list[Claims] = [claims("az-tdx-vtpm", b"", parts=(inner,))]
    monkeypatch.setattr("kokon.tee.recognise.recognise", lambda data: Evidence("x", data) if data else None)
    monkeypatch.setattr("kokon.tee.registry.verify", lambda *_arguments: found[0])
    assert explaining.load(b"evidence") == (Evidence("x", b"evidence"), inner)
    found[0] = claims("nitro", b"")
    for data in (b"evidence", b""):
        with pytest.raises(UsageError) as caught:
            explaining.load(data)
        assert caught.value.code == "evidence-unknown"
