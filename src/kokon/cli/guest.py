"""`kokon guest build` and `kokon guest show`: the image that guests boot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kokon.cli.output import emit, kokon_home, note, progress
from kokon.launch.image import GuestImage, current_guest, read_guest_image


def build(
    *,
    output: Path | None = None,
    cache: Path | None = None,
    packages: Path | None = None,
    update: bool = False,
    json: bool = False,
) -> None:
    """Build the guest image from Debian packages; does nothing if what it is made of is unchanged.

    Example: `kokon guest build`

    Parameters
    ----------
    output
        Directory for the image; default: where `kokon run` looks for it.
    cache
        Directory that keeps downloaded packages.
    packages
        packages.json of an image to make again, bit for bit.
    update
        Take today's packages instead of those chosen before.
    json
        Print JSON.
    """
    from kokon.guest.build.image import build as build_image
    from kokon.guest.build.image import build_default
    from kokon.guest.build.record import read_record

    home = kokon_home()
    with progress("guest image") as show_progress:

        def tell(text: str, fraction: float | None) -> None:
            note(text)
            show_progress(int((fraction or 0) * 100), 100)

        if output is None and cache is None and packages is None:
            image = build_default(home, tell, update=update)
        else:
            chosen = read_record(packages).packages if packages else None
            target = (output or current_guest(home)).absolute()
            image = build_image(target, (cache or home / "cache").absolute(), chosen, tell, update=update)
    emit(_described(image), f"guest image {image.digest} is in {image.directory}", json)


def show(*, guest: Path | None = None, cpus: int = 1, json: bool = False) -> None:
    """Show the guest image and what it measures to in a simulated enclave.

    Example: `kokon guest show --json`

    Parameters
    ----------
    guest
        Directory of the guest image.
    cpus
        Number of virtual processors, which the measurement covers.
    json
        Print JSON.
    """
    from kokon.tee.simulated.measure import measure_guest

    image = read_guest_image((guest or current_guest(kokon_home())).absolute())
    measurement = measure_guest(image, cpus).hex()
    data = _described(image) | {"reference": [{"tee": "simulated", "vcpus": cpus, "measurement": measurement}]}
    lines = [
        f"guest image  {image.digest}",
        f"directory    {image.directory}",
        f"kernel       {image.kernel_release}",
        f"cmdline      {image.cmdline}",
        *(f"{role:<12} sha256:{part.sha256}  {part.size} bytes" for role, part in image.parts.items()),
        f"measurement  {measurement} (simulated, {cpus} vCPU)",
    ]
    emit(data, "\n".join(lines), json)


def _described(image: GuestImage) -> dict[str, Any]:
    return {
        "digest": image.digest,
        "directory": str(image.directory),
        "kernel_release": image.kernel_release,
        "cmdline": image.cmdline,
        "files": {role: {"sha256": part.sha256, "size": part.size} for role, part in image.parts.items()},
    }
