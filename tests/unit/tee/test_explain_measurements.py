"""A measurement that differs is explained by the input that differs."""

import hashlib
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.launch.image import GuestImage
from kokon.launch.image import Part as GuestPart
from kokon.tee.eventlog.log import Event, EventLog
from kokon.tee.explanation import Explanation, Finding, first_difference
from kokon.tee.sgx.explain import SgxIdentity, compare_manifests, compare_steps, explain_sgx, identity_of
from kokon.tee.sgx.gramine import parse_manifest
from kokon.tee.sgx.measure import Add, Create, Extend
from kokon.tee.sgx.sigstruct import Sigstruct
from kokon.tee.simulated.explain import explain_simulated
from kokon.tee.simulated.measure import measure_guest
from kokon.tee.snp.explain import Alternatives, Firmware, Part, SnpLaunch, cpu_name, explain_snp, launch_digest
from kokon.tee.snp.ovmf import parse_ovmf
from kokon.tee.snp.vmsa import cpu_signature
from kokon.tee.tdx.explain import TdxAlternatives, TdxReference, explain_tdx
from kokon.tee.tdx.measure import DirectBoot, ExpectedEvent, measure_boot, mrtd, replayed
from kokon.tee.tdx.tdvf import parse_tdvf
from unit.tee.measure_kit import bzimage, firmware

KERNEL, OTHER_KERNEL = Part("vmlinuz", b"k" * 32), Part("vmlinuz.new", b"n" * 32)
INITRD, OTHER_INITRD = Part("initrd", b"i" * 32), Part("initrd.new", b"j" * 32)
FIRMWARE = Firmware("OVMF.fd", parse_ovmf(firmware()))
OTHER_FIRMWARE = Firmware("OVMF.old.fd", parse_ovmf(firmware(fill=3)))
LAUNCH = SnpLaunch(FIRMWARE, KERNEL, INITRD, "console=ttyS0", 2, cpu_signature("EPYC-v4"))
KNOWN = Alternatives((OTHER_FIRMWARE,), (OTHER_KERNEL,), (OTHER_INITRD,), ("console=ttyS0 debug",), vcpus=64)


def found(launch: SnpLaunch) -> dict[str, tuple[str, str]]:
    explanation = explain_snp(LAUNCH, launch_digest(launch), KNOWN)
    assert not explanation.matches
    return {finding.what: (finding.expected, finding.found) for finding in explanation.findings}


def test_a_measurement_that_is_as_expected() -> None:
    assert explain_snp(LAUNCH, launch_digest(LAUNCH)) == Explanation(matches=True)


@pytest.mark.parametrize(
    ("change", "what", "expected", "seen"),
    [
        ({"vcpus": 4}, "vcpus", "2", "4"),
        ({"vcpus": 1}, "vcpus", "2", "1"),
        ({"signature": cpu_signature("EPYC-Milan")}, "cpu model", "EPYC", "EPYC-Milan"),
        ({"features": 0x21}, "guest features", "0x1", "0x21"),
        ({"vmm": "gce"}, "hypervisor", "qemu", "gce"),
        ({"vmm": "ec2"}, "hypervisor", "qemu", "ec2"),
        ({"kernel": None}, "kernel hashes", "measured", "left out of the measurement"),
        ({"cmdline": ""}, "cmdline", "'console=ttyS0'", "''"),
        ({"cmdline": "console=ttyS0\n"}, "cmdline", "'console=ttyS0'", "'console=ttyS0\\n'"),
        ({"cmdline": "console=ttyS0 debug"}, "cmdline", "'console=ttyS0'", "'console=ttyS0 debug'"),
        ({"firmware": OTHER_FIRMWARE}, "firmware", "OVMF.fd", "OVMF.old.fd"),
    ],
)
def test_one_input_that_differs(change: dict[str, Any], what: str, expected: str, seen: str) -> None:
    assert found(replace(LAUNCH, **change)) == {what: (expected, seen)}


def test_kernels_and_initrds_are_named() -> None:
    assert found(replace(LAUNCH, kernel=OTHER_KERNEL)) == {
        "kernel": ("vmlinuz (sha256:6b6b6b6b6b6b6b6b)", "vmlinuz.new (sha256:6e6e6e6e6e6e6e6e)")
    }
    assert found(replace(LAUNCH, initrd=OTHER_INITRD))["initrd"][1].startswith("initrd.new")
    assert found(replace(LAUNCH, initrd=None))["initrd"][1] == "none"


@pytest.mark.parametrize(
    "change",
    [
        {"vcpus": 7, "signature": cpu_signature("EPYC-Genoa")},
        {"vcpus": 3, "cmdline": ""},
        {"initrd": OTHER_INITRD, "features": 0x21},
        {"kernel": OTHER_KERNEL, "initrd": OTHER_INITRD},
        {"firmware": OTHER_FIRMWARE, "vmm": "gce"},
        {"features": 5, "signature": cpu_signature("EPYC-Rome")},
    ],
)
def test_two_inputs_that_differ(change: dict[str, Any]) -> None:
    assert len(found(replace(LAUNCH, **change))) == 2


def test_what_nothing_explains() -> None:
    explanation = explain_snp(LAUNCH, launch_digest(replace(LAUNCH, cmdline="something else")), KNOWN)
    assert not explanation.matches
    assert explanation.findings == ()
    assert "1 to 64 CPUs" in explanation.tried
    three = replace(LAUNCH, vcpus=3, cmdline="", features=0x21)
    assert explain_snp(LAUNCH, launch_digest(three), KNOWN).findings == ()


def test_a_launch_without_kernel_and_firmware_without_further_cpus() -> None:
    bare = replace(LAUNCH, kernel=None, vcpus=1)
    image = parse_ovmf(firmware())
    alone = replace(bare, firmware=Firmware("alone", replace(image, reset_eip=None)))
    assert explain_snp(alone, launch_digest(alone)).matches
    assert explain_snp(alone, bytes(48)).findings == ()
    assert explain_snp(bare, launch_digest(replace(bare, vcpus=2))).findings == (Finding("vcpus", "1", "2"),)
    assert cpu_name(0x123) == "0x00000123"


def test_an_expected_launch_that_is_impossible() -> None:
    with pytest.raises(MalformedError) as caught:
        explain_snp(replace(LAUNCH, vmm="xen"), bytes(48))
    assert caught.value.code == "vmm-unknown"


@given(st.text(max_size=200), st.text(max_size=200))
def test_differences_of_texts_are_short(first: str, second: str) -> None:
    left, right = first_difference(first, second)
    assert len(left) < 900
    assert (left == right) == (first == second) or max(len(first), len(second)) > 60


def test_differences_of_long_texts_show_their_place() -> None:
    left, right = first_difference("a" * 100 + "b" * 50, "a" * 100 + "c")
    assert left == "..." + repr("a" * 30 + "b" * 30) + "..."
    assert right == "..." + repr("a" * 30 + "c")
    assert first_difference("x" * 100, "x" * 99)[0] != first_difference("x" * 100, "x" * 99)[1]
    assert Finding("vcpus", "2", "4").text == "vcpus: found 4, expected 2"


SECTIONS = parse_tdvf(firmware())
BOOT = DirectBoot(bzimage(), b"initrd", "quiet", memory=1 << 30)


def registers(boot: DirectBoot = BOOT, data: bytes | None = None) -> dict[str, bytes]:
    values = {name: replayed(events) for name, events in measure_boot(boot).items()}
    return {"mrtd": mrtd(parse_tdvf(data or firmware())), **values}


def log_of(boot: DirectBoot = BOOT, *, volume: bytes = b"", action: bytes = b"x") -> EventLog:
    digest = hashlib.sha384(volume or firmware()[:4096]).digest()
    events = [Event(0, 1, 0x8000000A, {"sha384": digest}, b""), Event(1, 1, 3, {"sha384": bytes(48)}, b"")]
    for register, expected in zip((2, 3), measure_boot(boot).values(), strict=True):
        events += [Event(0, register, 0x80000007, {"sha384": event.digest}, action) for event in expected]
    numbered = tuple(replace(event, index=index) for index, event in enumerate(events))
    return EventLog(numbered, ("sha384",))


def with_log(boot: DirectBoot = BOOT, **options: bytes) -> tuple[dict[str, bytes], EventLog]:
    log = log_of(boot, **options)
    first = replayed([ExpectedEvent("", event.digests["sha384"]) for event in log.events if event.index == 0])
    return registers(boot) | {"rtmr0": first}, log


REFERENCE = TdxReference(firmware=SECTIONS, boot=BOOT)


def test_a_td_as_expected() -> None:
    assert explain_tdx(registers(), REFERENCE).matches
    values, log = with_log()
    assert explain_tdx(values, replace(REFERENCE, log=log), log).matches
    assert explain_tdx({}, TdxReference()).matches


def test_a_tds_firmware() -> None:
    other = firmware(fill=9)
    values = registers(data=other)
    assert explain_tdx(values, REFERENCE).findings[0].what == "firmware (mrtd)"
    alternatives = TdxAlternatives(firmwares=(("OVMF.old.fd", parse_tdvf(other)),))
    (finding,) = explain_tdx(values, REFERENCE, None, alternatives).findings
    assert (finding.what, finding.found) == ("firmware", "OVMF.old.fd")


def test_a_tds_variables() -> None:
    values, log = with_log(volume=b"other variables")
    (finding,) = explain_tdx(values, REFERENCE, log).findings
    assert finding.what == "firmware variables (configuration volume)"


@pytest.mark.parametrize(
    ("boot", "what", "seen"),
    [
        (replace(BOOT, kernel=bzimage(fill=7)), "kernel", "vmlinuz.new"),
        (replace(BOOT, memory=None), "kernel header", "as in the file"),
        (replace(BOOT, memory=4 << 30), "kernel header", "as QEMU changes it for 4096 MiB of memory"),
        (replace(BOOT, separator=False), "separator", "in rtmr0"),
        (replace(BOOT, cmdline="quiet "), "cmdline", "'quiet '"),
        (replace(BOOT, cmdline="quiet debug"), "cmdline", "'quiet debug'"),
        (replace(BOOT, initrd=b"other!"), "initrd", "initrd.new"),
    ],
)
@pytest.mark.parametrize("logged", [True, False])
def test_a_tds_boot(boot: DirectBoot, what: str, seen: str, *, logged: bool) -> None:
    values, log = with_log(boot)
    alternatives = TdxAlternatives(
        kernels=(("not a kernel", b""), ("vmlinuz.new", bzimage(fill=7))),
        initrds=(("initrd.new", b"other!"),),
        cmdlines=("quiet debug", "\0"),
    )
    (finding,) = explain_tdx(values, REFERENCE, log if logged else None, alternatives).findings
    assert (finding.what, finding.found) == (what, seen)


def test_a_td_without_initrd() -> None:
    values = registers(replace(BOOT, initrd=None))
    findings = {finding.what: finding.found for finding in explain_tdx(values, REFERENCE).findings}
    assert findings["initrd"] == "none"


def test_what_only_the_log_can_tell() -> None:
    boot = replace(BOOT, cmdline="never seen", kernel=bzimage(fill=9))
    values, log = with_log(boot)
    kernel, cmdline = explain_tdx(values, REFERENCE, log).findings
    assert kernel.what == "rtmr1, kernel"
    assert cmdline.what == "rtmr2, cmdline"
    assert measure_boot(boot)["rtmr2"][0].digest.hex()[:16] in cmdline.found
    plain = explain_tdx(values, REFERENCE).findings
    assert [finding.what.split()[0] for finding in plain] == ["rtmr1", "rtmr2"]


def shortened(log: EventLog, register: int) -> tuple[bytes, EventLog]:
    events = [event for event in log.events if event.register == register][:-1]
    kept = tuple(event for event in log.events if event.register != register or event in events)
    return replayed([ExpectedEvent("", event.digests["sha384"]) for event in events]), replace(log, events=kept)


def test_events_that_are_missing_or_left_over() -> None:
    values, log = with_log()
    value, short = shortened(log, 2)
    (finding,) = explain_tdx(values | {"rtmr1": value}, REFERENCE, short).findings
    assert (finding.what, finding.found) == ("rtmr1, boot services left", "nothing measured")
    more = Event(99, 2, 0x80000007, {"sha384": b"m" * 48}, b"more")
    longer = replace(log, events=(*log.events, more))
    value = replayed((*measure_boot(BOOT)["rtmr1"], ExpectedEvent("", b"m" * 48)))
    (finding,) = explain_tdx(values | {"rtmr1": value}, REFERENCE, longer).findings
    assert (finding.what, finding.expected) == ("rtmr1, end", "no further event")
    (finding,) = explain_tdx(values | {"rtmr1": value}, TdxReference(log=log), longer).findings
    assert (finding.what, finding.expected) == ("rtmr1, extension 5", "no further event")


def test_logs_that_do_not_lead_to_the_registers() -> None:
    values, log = with_log()
    findings = explain_tdx(values | {"rtmr2": bytes(48)}, TdxReference(log=log), log).findings
    assert [finding.what for finding in findings] == ["event log, rtmr2"]
    old = replace(log, algorithms=("sha1",))
    assert explain_tdx(values, TdxReference(firmware=SECTIONS), old).findings != ()


def test_two_logs() -> None:
    values, log = with_log()
    reference = log_of(replace(BOOT, cmdline="other"), action=b"y")
    (finding,) = explain_tdx(values, TdxReference(log=reference), log).findings
    assert finding.what == "rtmr2, extension 0"
    assert finding.expected != finding.found
    (finding,) = explain_tdx(values, TdxReference(log=log_of(replace(BOOT, cmdline="other"))), log).findings
    assert "sha384:" in finding.expected


IDENTITY = SgxIdentity(b"e" * 32, b"s" * 32, 7, 3, debug=False)


def test_an_enclave_as_expected() -> None:
    assert explain_sgx(IDENTITY, IDENTITY).matches
    assert explain_sgx(SgxIdentity(), IDENTITY).matches


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"mrenclave": b"f" * 32}, "mrenclave"),
        ({"mrsigner": None}, "mrsigner (another key signed it)"),
        ({"product_id": 8}, "product id"),
        ({"security_version": 2}, "security version"),
        ({"debug": True}, "debug"),
    ],
)
def test_an_enclaves_identity(change: dict[str, Any], what: str) -> None:
    explanation = explain_sgx(IDENTITY, replace(IDENTITY, **change), (Finding("setting a", "1", "2"),))
    assert [finding.what for finding in explanation.findings][:1] == [what]
    assert len(explanation.findings) == (2 if what == "mrenclave" else 1)


def test_the_identity_of_a_sigstruct() -> None:
    sigstruct = Sigstruct(mrenclave=b"e" * 32, date=date(2026, 11, 23), product_id=7, security_version=3)
    assert identity_of(sigstruct) == SgxIdentity(b"e" * 32, None, 7, 3, debug=False)
    assert identity_of(replace(sigstruct, flags=6)).debug is True
    assert identity_of(replace(sigstruct, flags_mask=~2 & 0xFF)).debug is None
    assert identity_of(replace(sigstruct, modulus=3)).mrsigner == hashlib.sha256(b"\3" + bytes(383)).digest()


def test_the_first_page_that_differs() -> None:
    steps = (Create(0x10000, 1), Add(0, 0x100), Add(0x1000, 0x203), Extend(0x1000, bytes(256)))
    silent = (*steps, Extend(0x1100, b"x" * 256, measured=False))
    assert compare_steps(steps, silent) == ()
    (finding,) = compare_steps(steps, (*steps[:2], Add(0x1000, 0x205), steps[3]))
    assert finding.what == "enclave build, after the page at 0x0"
    assert finding.found == "a page at 0x1000 with flags 0x205"
    (finding,) = compare_steps(steps, (*steps[:3], Extend(0x1000, b"x" * 256)))
    assert finding.what == "enclave build, after the page at 0x1000"
    (finding,) = compare_steps(steps, steps[:3])
    assert finding.found == "the end"
    (finding,) = compare_steps(steps, (Create(0x20000, 1), *steps[1:]))
    assert finding.what == "enclave build, before the first page"


def test_manifests_that_differ() -> None:
    expected = parse_manifest(b"[sgx]\ntrusted_files=[{uri='file:a',sha256='1'},'file:b']\n[loader]\nlog='none'")
    other = parse_manifest(b"[sgx]\ntrusted_files=[{uri='file:a',sha256='2'}]\ndebug=true\n[loader]\nlog='none'")
    assert [(f.what, f.expected, f.found) for f in compare_manifests(expected, other)] == [
        ("trusted file file:a", "1", "2"),
        ("trusted file file:b", "without digest", "absent"),
        ("setting sgx.debug", "absent", "True"),
    ]
    assert compare_manifests(expected, expected) == ()
    (finding,) = compare_manifests(expected, parse_manifest(expected.data + b" # comment"))
    assert finding.what == "manifest text"
    many = parse_manifest("".join(f"a{n} = 1\n" for n in range(50)).encode())
    findings = compare_manifests(parse_manifest(b""), many)
    assert len(findings) == 21
    assert findings[-1].found == "30 more differences"


def guest(tmp_path: Path, name: str) -> GuestImage:
    firmware_file = tmp_path / "firmware"
    firmware_file.write_bytes(b"f" * 4096)
    digest = hashlib.sha256(b"f" * 4096).hexdigest()
    parts = {
        "firmware": GuestPart("firmware", digest, 4096),
        "kernel": GuestPart("kernel", hashlib.sha256(name.encode()).hexdigest(), 1),
        "initrd": GuestPart("initrd", digest, 1),
    }
    return GuestImage(tmp_path, "6.12", "quiet", parts, name)


def test_a_simulated_guest(tmp_path: Path) -> None:
    expected, other = guest(tmp_path, "expected"), guest(tmp_path, "other")
    assert explain_simulated(expected, 2, measure_guest(expected, 2)).matches
    explanation = explain_simulated(expected, 2, measure_guest(expected, 4))
    assert explanation.findings == (Finding("vcpus", "2", "4"),)
    explanation = explain_simulated(expected, 2, measure_guest(other, 4), (expected, other))
    assert explanation.findings == (Finding("guest image", "expected", "other"), Finding("vcpus", "2", "4"))
    explanation = explain_simulated(expected, 2, bytes(48), (other,))
    assert explanation == Explanation(matches=False, tried="1 to 64 CPUs with 2 guest images")
    assert explanation.as_dict()["findings"] == []
