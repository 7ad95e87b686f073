"""Which input explains a simulated measurement that is not the expected one. Pure apart from `read`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.tee.explanation import Explanation, Finding
from kokon.tee.simulated.measure import VCPUS_LIMIT, measure_guest

if TYPE_CHECKING:
    from kokon.launch.image import GuestImage


def explain_simulated(
    expected: GuestImage,
    vcpus: int,
    measured: bytes,
    others: Sequence[GuestImage] = (),
    *,
    read: Callable[[Path], bytes] = Path.read_bytes,
) -> Explanation:
    """What differs between a launch of the image `expected` with `vcpus` CPUs and the one that led to `measured`: the
    number of CPUs, another guest image, or both. Raises as `measure_guest`.
    """
    contents: dict[Path, bytes] = {}

    def once(path: Path) -> bytes:
        if path not in contents:
            contents[path] = read(path)
        return contents[path]

    for image in (expected, *(other for other in others if other.digest != expected.digest)):
        for count in sorted(range(1, VCPUS_LIMIT + 1), key=lambda n: n != vcpus):
            if measure_guest(image, count, read=once) == measured:
                findings = []
                if image.digest != expected.digest:
                    findings.append(Finding("guest image", expected.digest, image.digest))
                if count != vcpus:
                    findings.append(Finding("vcpus", str(vcpus), str(count)))
                return Explanation(matches=not findings, findings=tuple(findings))
    tried = f"1 to {VCPUS_LIMIT} CPUs with {1 + len(others)} guest images"
    return Explanation(matches=False, tried=tried)
