"""`kokon endorsements`: what chip vendors say about their chips, fetched, packed up, and listed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from kokon.cli.output import emit, note, progress
from kokon.errors import HostError, KokonError, UsageError

if TYPE_CHECKING:
    from kokon.endorsements.gather import Gathered, Wishes
    from kokon.endorsements.inventory import Item
    from kokon.endorsements.service import Outcome
    from kokon.endorsements.sources import Online, Source
    from kokon.tee.evidence import Evidence, Need


def _help(text: str, *names: str) -> Parameter:
    return Parameter(name=names or None, help=text)


_Evidence = Annotated[Path, _help("Files of evidence whose endorsements are wanted.")]
_Products = Annotated[
    tuple[str, ...], _help("AMD product line, as Milan: its chains and revocation list.", "--product")
]
_Chips = Annotated[
    tuple[str, ...], _help("PRODUCT:CHIP-ID:bootloader=N,tee=N,snp=N,microcode=N[,fmc=N]: a VCEK.", "--vcek")
]
_Platforms = Annotated[tuple[str, ...], _help("FMSPC of an Intel platform, 12 hex digits.", "--fmspc")]
_Tees = Annotated[tuple[str, ...], _help("For Intel platforms: sgx or tdx; default: both.", "--tee")]
_Kds = Annotated[str | None, _help("Where AMD's key service is; default: $KOKON_KDS_URL, else AMD's own.")]
_Pcs = Annotated[str | None, _help("Where Intel's service or a PCCS is; default: $KOKON_PCS_URL, else Intel's own.")]
_Update = Annotated[
    Literal["standard", "early"], _help("Which of Intel's TCB infos: early ones know of what was published just now.")
]
_Simulated = Annotated[tuple[str, ...], _help("Fingerprint of a simulated root whose endorsements are kept, too.")]
_Files = Annotated[tuple[Path, ...], _help("Endorsements that are at hand: files or folders.", "--endorsements")]
_Json = Annotated[bool, _help("Print JSON.")]


def fetch(
    *evidence: _Evidence,
    product: _Products = (),
    vcek: _Chips = (),
    fmspc: _Platforms = (),
    tee: _Tees = (),
    kds: _Kds = None,
    pcs: _Pcs = None,
    update: _Update = "standard",
    accept_simulated: _Simulated = (),
    again: Annotated[bool, _help("Ask even for what is in the cache and fresh.")] = False,
    json: _Json = False,
) -> None:
    """Fetch endorsements from the chip vendors' services into the cache.

    Name files of evidence, or product lines, chips and platforms. AMD's service gives one chip's certificate in ten
    seconds; what is in the cache and fresh is not asked for again. Whether the evidence holds is not checked.

    Example: kokon endorsements fetch report.bin --product Milan
    """
    from kokon.endorsements.gather import Wishes

    wishes = Wishes(product, vcek, fmspc, tee)
    source = _online(kds, pcs, update, accept_simulated, again=again)
    gathered = _gather(evidence, wishes, (), accept_simulated, source)
    emit({"endorsements": _outcomes(gathered)}, _outcome_text(gathered), json)
    gathered.require()
    if source.problem is not None:
        raise HostError(
            "endorsement-cache-failed", "what was fetched cannot be kept", found=source.problem, hint="see KOKON_HOME"
        )


def bundle(
    *evidence: _Evidence,
    output: Annotated[Path, _help("Where the bundle goes.", "--output", "-o")],
    endorsements: _Files = (),
    product: _Products = (),
    vcek: _Chips = (),
    fmspc: _Platforms = (),
    tee: _Tees = (),
    kds: _Kds = None,
    pcs: _Pcs = None,
    update: _Update = "standard",
    accept_simulated: _Simulated = (),
    offline: Annotated[bool, _help("Use the cache and the files that are named; fetch nothing.")] = False,
    json: _Json = False,
) -> None:
    """Write endorsements to one file, for machines without a network.

    What is in files and folders is taken as it is; what the evidence and the other options want is fetched beside it.
    The bundle needs no protection: all in it is signed by chip vendors, and is checked when it is used.

    Example: kokon endorsements bundle quote.bin -o bundle.json
    """
    from kokon.endorsements.bundle import encode_bundle
    from kokon.endorsements.gather import Wishes
    from kokon.endorsements.inventory import inventory
    from kokon.endorsements.pcs import Choice
    from kokon.endorsements.sources import CacheOnly, default_cache

    source: Source
    if offline:
        source = CacheOnly(default_cache(), choice=Choice(update), accepted=_fingerprints(accept_simulated))
    else:
        source = _online(kds, pcs, update, accept_simulated)
    gathered = _gather(evidence, Wishes(product, vcek, fmspc, tee), endorsements, accept_simulated, source)
    gathered.require()
    now = datetime.now(UTC)
    _write(output, encode_bundle(gathered.endorsements, now))
    items = inventory(gathered.endorsements)
    if gathered.endorsements.enrolled_keys:
        note("enrolled keys are not put into bundles: nobody signed them")
    ends = min((item.ends for item in items if item.ends is not None), default=None)
    until = "" if ends is None else f"; the first of them ends {ends:%Y-%m-%d %H:%M} UTC"
    pool = gathered.endorsements
    count = len(pool.certificates) + len(pool.crls) + len(pool.documents)
    answer = {"file": str(output), "items": count, "first_end": None if ends is None else _time(ends)}
    emit(answer | {"endorsements": _outcomes(gathered)}, f"{output}: {count} endorsements{until}", json)


def list_endorsements(
    *file: Annotated[Path, _help("Bundles, other files of endorsements, folders; default: the cache.")],
    json: _Json = False,
) -> None:
    """List endorsements: what is in the cache, or in files. Nothing is verified.

    Example: kokon endorsements list bundle.json
    """
    from kokon.endorsements.files import load_counted
    from kokon.endorsements.inventory import inventory
    from kokon.endorsements.sources import default_cache

    skipped = 0
    if file:
        loaded = load_counted(file)
        pool, skipped = loaded.endorsements, loaded.skipped
    else:
        pool = default_cache().everything()
    now = datetime.now(UTC)
    items = inventory(pool)
    emit({"items": [item.as_dict(now) for item in items], "skipped": skipped}, _table(items, now), json)
    if skipped:
        note(f"{skipped} other files were passed over")


def _online(kds: str | None, pcs: str | None, update: str, accepted: tuple[str, ...], *, again: bool = False) -> Online:
    from kokon.endorsements.pcs import Choice
    from kokon.endorsements.sources import connect

    choice = Choice("early" if update == "early" else "standard")
    fingerprints = _fingerprints(accepted)
    return connect(kds=kds, pcs=pcs, choice=choice, accepted=fingerprints, again=again, waiting=_waiting)


def _waiting(seconds: float) -> None:
    note(f"waiting {seconds:.0f} s for our turn: AMD's service answers one request in ten seconds")


def _fingerprints(texts: tuple[str, ...]) -> frozenset[str]:
    from kokon.cli.output import simulated_root
    from kokon.wire import unhex

    return frozenset(unhex(simulated_root(text), what="fingerprint", size=32).hex() for text in texts)


def _gather(
    files: tuple[Path, ...],
    wishes: Wishes,
    endorsements: tuple[Path, ...],
    accepted: tuple[str, ...],
    source: Source,
) -> Gathered:
    from kokon.endorsements.files import load
    from kokon.endorsements.gather import Wishes, gather
    from kokon.tee.endorsements import Endorsements

    if not files and not endorsements and wishes == Wishes():
        raise UsageError(
            "endorsements-not-named",
            "nothing was named to have the endorsements of",
            expected="files of evidence, or --product, --vcek, --fmspc, --tee",
        )
    pool = load(endorsements) | Endorsements(accepted_simulated=_fingerprints(accepted))
    evidence = tuple(map(_evidence, files))
    with _counting() as count:
        return gather(evidence, wishes, pool, datetime.now(UTC), source, count)


@contextlib.contextmanager
def _counting() -> Iterator[Any]:
    with progress("endorsements") as update:
        done = 0

        def count(_need: Need, _outcome: Outcome) -> None:
            nonlocal done
            done += 1
            update(done, None)

        yield count


def _evidence(path: Path) -> Evidence:
    from kokon.tee.recognise import EVIDENCE_LIMIT, recognise

    try:
        with path.open("rb") as file:
            data = file.read(EVIDENCE_LIMIT + 1)
    except OSError as error:
        raise UsageError("endorsements-unreadable", f"cannot read {path}", found=error.strerror) from error
    found = recognise(data)
    if found is None:
        raise UsageError(
            "endorsements-not-evidence",
            f"{path.name} is no evidence of any kind known here",
            hint="endorsements that are at hand are named with --endorsements",
        )
    return found


def _outcomes(gathered: Gathered) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for need, outcome in gathered.outcomes.items():
        about = {"kind": need.kind, **dict(need.parameters), "required": need.required}
        if isinstance(outcome, KokonError):
            found.append(about | {"fetched": False, "error": outcome.as_dict()})
        else:
            found.append(about | {"fetched": True, "evaluation": outcome.minimum_evaluation or None})
    return found


def _outcome_text(gathered: Gathered) -> str:
    lines = []
    for need, outcome in gathered.outcomes.items():
        text = str(need) if len(str(need)) <= 100 else f"{str(need)[:97]}..."
        if isinstance(outcome, KokonError):
            lines.append(f"{'FAILED' if need.required else 'none':<7} {text}: {outcome}")
        else:
            lines.append(f"{'have':<7} {text}")
    return "\n".join(lines) or "nothing was lacking"


def _table(items: tuple[Item, ...], now: datetime) -> str:
    rows = [("KIND", "SUBJECT", "FOR", "FROM", "UNTIL", "TCB", "")]
    for item in items:
        state = item.state(now)
        rows.append(
            (
                item.kind,
                item.subject[:48],
                item.about[:80],
                f"{item.begins:%Y-%m-%d}" if item.begins.year > 1 else "",
                "" if item.ends is None else f"{item.ends:%Y-%m-%d}",
                str(item.evaluation or ""),
                "" if state == "valid" else state.upper(),
            )
        )
    if len(rows) == 1:
        return "no endorsements"
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise HostError("bundle-not-written", f"cannot write {path}", found=error.strerror) from error
