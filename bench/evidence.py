"""Verification and appraisal of evidence beside its floor: bare signature checks, and dcap-qvl. One core, medians."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from bench.setting import Setting
from bench.table import Row, against, median
from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy
from kokon.appraisal.reference import ReferenceValues
from kokon.errors import HostError
from kokon.tee.certificates import parse_certificate
from kokon.tee.endorsements import Endorsements
from kokon.tee.eventlog.log import parse_event_log
from kokon.tee.eventlog.replay import replay
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.intel.collateral import read_collateral
from kokon.tee.registry import verify
from kokon.tee.snp.report import SIGNED_SIZE, parse_report
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.eventlog import CC_BOOT, encode_log

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
INTEL = (("TDX", "tdx", "tdx/v4_dcapqvl"), ("SGX", "sgx", "sgx/v3_dcapqvl"))
EVENTS = 1000
FLOOR = "bare P-384 signature check"


def evidence(setting: Setting) -> list[Row]:
    """Rows in microseconds, beside what cannot be avoided; then two processes, and imports."""
    with one_core():
        rows = [*_snp(setting), *_intel(setting), *_event_log(setting)]
    return [*rows, *_processes(setting), *_imports(setting)]


@contextmanager
def one_core() -> Iterator[None]:
    """On the first core that we may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def caches() -> tuple[Any, ...]:
    """Every cache of `kokon.tee`: emptied, a process has seen no endorsement yet."""
    found = {
        id(member): member
        for name, module in tuple(sys.modules.items())
        if name.startswith("kokon.tee")
        for member in vars(module).values()
        if hasattr(member, "cache_clear")
    }
    return tuple(found.values())


def forgetting(step: Callable[[], object]) -> tuple[Callable[[], object], Callable[[], object]]:
    """`step`, and what makes it cold, which is not measured."""
    known = caches()

    def forget() -> None:
        for member in known:
            member.cache_clear()

    return step, forget


def micros(
    setting: Setting, count: int, step: Callable[[], object], before: Callable[[], object] | None = None
) -> float:
    """Median of `count` single runs, in microseconds; `before` each run something that is not measured."""
    times = []
    for _ in range(5 if setting.quick else count):
        if before is not None:
            before()
        begin = time.perf_counter_ns()
        step()
        times.append((time.perf_counter_ns() - begin) / 1000)
    return round(median(times), 1)


def pairs(
    setting: Setting,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    count: int,
    before: Callable[[], object] = lambda: None,
) -> tuple[float, float]:
    """Medians of both, run in turn, so that what else happens on the machine hits them alike; `before` each turn
    something that is not measured."""
    first, second = [], []
    for _ in range(5 if setting.quick else count):
        before()
        for step, times in ((ours, first), (theirs, second)):
            begin = time.perf_counter_ns()
            step()
            times.append((time.perf_counter_ns() - begin) / 1000)
    return round(median(first), 1), round(median(second), 1)


def _snp(setting: Setting) -> list[Row]:
    vendor = FakeVendor(NOW)
    subject = vendor.snp()
    known = vendor.endorsements(subject)
    report, leaf = parse_report(subject.report), parse_certificate((*subject.certificates, *known.certificates)[0])
    signature = encode_dss_signature(report.r, report.s)
    if not isinstance(leaf.key, ec.EllipticCurvePublicKey):
        raise HostError("bench-not-verified", "the leaf has no P-384 key")
    key, signed = leaf.key, subject.report[:SIGNED_SIZE]

    def floor() -> None:
        key.verify(signature, signed, ec.ECDSA(SHA384()))

    claims = _good(verify(subject, known, NOW))
    warm, bare = pairs(setting, lambda: verify(subject, known, NOW), floor, 1000)
    other = vendor.snp(chip="second")
    step, forget = forgetting(lambda: verify(subject, known, NOW))
    cold = micros(setting, 200, step, lambda: (forget(), verify(other, known, NOW)))
    first = micros(setting, 200, step, forget)
    bare_of_lists = replace(known, crls=())
    chain = micros(setting, 200, *forgetting(lambda: verify(subject, bare_of_lists, NOW)))
    base = Row(FLOOR, bare, "us")
    return [
        base,
        against(Row("SNP verified, warm endorsements (aim 1.25)", warm, "us"), base),
        against(Row("SNP verified, chip never seen, AMD's chain known", cold, "us"), base),
        *_amd(setting, floor),
        against(Row("SNP verified, cold chain of another vendor", chain, "us"), base),
        against(Row("SNP verified, cold chain of another vendor and revocation list", first, "us"), base),
        _appraised(setting, "SNP", claims),
    ]


def _amd(setting: Setting, floor: Callable[[], object]) -> list[Row]:
    """A real report with nothing but its VCEK, every cache empty: the chain of AMD that the program carries."""
    folder = _vectors(setting, "no cold chain of AMD's")
    if folder is None:
        return []
    stem = folder / "snp/genoa_v3_vcek_tav"
    vcek = stem.with_suffix(".vcek.der").read_bytes()
    subject, nothing = Evidence("snp", stem.with_suffix(".report.bin").read_bytes(), (vcek,)), Endorsements()
    now = datetime.fromisoformat(_entries(folder)["snp/genoa_v3_vcek_tav.report.bin"]["at_time"])
    _good(verify(subject, nothing, now))
    step, forget = forgetting(lambda: verify(subject, nothing, now))
    taken, bare = pairs(setting, step, floor, 500, forget)
    return [against(Row("SNP verified, cold chain of AMD's (aim 2)", taken, "us"), Row(FLOOR, bare, "us"))]


def _vectors(setting: Setting, lacking: str) -> Path | None:
    """The folder of the vectors, or None, which is said loudly."""
    folder = Path(os.environ.get("KOKON_VECTORS") or "../shared/vectors")
    if (folder / "manifest.json").is_file():
        return folder
    setting.note(f"evidence: VECTORS ARE MISSING (KOKON_VECTORS): {lacking}")
    return None


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    """What is expected of each file."""
    return {entry["file"]: entry["expected"] for entry in json.loads((folder / "manifest.json").read_text())}


def _appraised(setting: Setting, name: str, claims: Claims) -> Row:
    registers = {register: (value,) for register, value in claims.registers.items() if register.startswith("rtmr")}
    reference = ReferenceValues((claims.measurement,), host_data=claims.host_data, registers=registers)
    taken = micros(setting, 2000, lambda: appraise(claims, reference, Policy(), NOW))
    return Row(f"{name} appraised (aim 100 us)", taken, "us")


def _intel(setting: Setting) -> list[Row]:
    try:
        import dcap_qvl
    except ImportError:
        setting.note("evidence: DCAP-QVL IS MISSING: no comparison for TDX and SGX")
        return []
    folder = _vectors(setting, "no comparison for TDX and SGX")
    if folder is None:
        return []
    times = {file: expected.get("now") for file, expected in _entries(folder).items()}
    rows = []
    for name, tee, stem in INTEL:
        quote, text = (folder / f"{stem}.quote.bin").read_bytes(), (folder / f"{stem}.collateral.json").read_text()
        at, theirs = times[f"{stem}.quote.bin"], dcap_qvl.QuoteCollateralV3.from_json(text)
        subject, known = Evidence(tee, quote), read_collateral(text.encode())
        now = datetime.fromtimestamp(at, UTC)
        claims = _good(verify(subject, known, now))
        mine, yours = pairs(setting, *_both(subject, known, now, dcap_qvl, quote, theirs, at), 1000)
        base = Row(f"{name}: dcap-qvl", yours, "us")
        rows += [base, against(Row(f"{name} verified, warm endorsements (aim 1.25)", mine, "us"), base)]
        cold = micros(setting, 200, *forgetting(_both(subject, known, now, dcap_qvl, quote, theirs, at)[0]))
        rows += [against(Row(f"{name} verified, cold", cold, "us"), base), _appraised(setting, name, claims)]
    return rows


def _both(
    subject: Evidence, known: Endorsements, now: datetime, oracle: Any, quote: bytes, collateral: Any, at: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    return lambda: verify(subject, known, now), lambda: oracle.verify(quote, collateral, at)


def _good(claims: Claims) -> Claims:
    """What is measured must be a success."""
    if not claims.ok:
        codes = [check.code for check in claims.failures]
        raise HostError("bench-not-verified", "the evidence does not verify", found=codes)
    return claims


def _event_log(setting: Setting) -> list[Row]:
    log = encode_log((CC_BOOT * (EVENTS // len(CC_BOOT) + 1))[:EVENTS], ("sha384",))
    parsed = parse_event_log(log)
    return [
        Row("event log of 1,000 events parsed", micros(setting, 50, lambda: parse_event_log(log)), "us"),
        Row("event log of 1,000 events replayed", micros(setting, 50, lambda: replay(parsed, "sha384")), "us"),
    ]


def work(seconds: float) -> float:
    """Verifications a second in this process."""
    vendor = FakeVendor(NOW)
    subject = vendor.sgx()
    known, count = vendor.endorsements(subject), 0
    _good(verify(subject, known, NOW))
    begin = time.perf_counter()
    while (taken := time.perf_counter() - begin) < seconds:
        verify(subject, known, NOW)
        count += 1
    return count / taken


def _processes(setting: Setting) -> list[Row]:
    """One process beside two; of each the best of several tries, since other people's work only makes it worse."""
    seconds = 0.3 if setting.quick else 2.0
    context = multiprocessing.get_context("spawn")
    tries = []
    with context.Pool(2) as pool:
        pool.map(work, [0.1, 0.1], 1)
        for _ in range(1 if setting.quick else 3):
            one = pool.apply(work, (seconds,))
            tries.append((sum(pool.map(work, [seconds, seconds], 1)), one))
    two, one = max(pair[0] for pair in tries), max(pair[1] for pair in tries)
    base = Row("SGX verified, one process", round(one, 1), "1/s")
    return [base, against(Row("SGX verified, two processes (aim 1.8)", round(two, 1), "1/s"), base)]


def _imports(setting: Setting) -> list[Row]:
    """Fresh interpreters, isolated; less what an empty one takes."""
    programs = {
        "import cryptography.x509": "import cryptography.x509",
        "import kokon.tee (aim 1.5)": "import kokon.tee",
        "from kokon.tee import verify": "from kokon.tee import verify",
        "import what verifies SNP reports": "from kokon.tee.registry import tee; tee('snp')",
    }
    empty = _started(setting, "pass")
    base, *others = (
        Row(name, round(max(_started(setting, program) - empty, 0.01), 2), "ms") for name, program in programs.items()
    )
    return [base, *(against(row, base) for row in others)]


def _started(setting: Setting, program: str) -> float:
    times = []
    for _ in range(2 if setting.quick else 15):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        times.append((time.perf_counter() - begin) * 1000)
    return median(times)
