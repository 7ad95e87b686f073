"""`kokon sbom`: which packages an image is made of."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal


def sbom(
    image: str,
    *,
    format: Literal["spdx", "cyclonedx"] = "spdx",  # noqa: A002 -- the option's name
    output: Path | None = None,
    plain_http: bool = False,
    json: bool = False,
) -> None:
    """Write an image's bill of materials, from the databases of dpkg and apk and the metadata of Python's packages.

    What else lies in the image (a program copied in, RPM's packages) is not in it.

    Example: kokon sbom oci:clinic --output clinic.spdx.json

    Parameters
    ----------
    image
        The image: oci:DIR, oci-archive:FILE, docker-archive:FILE or docker://HOST/REPOSITORY.
    format
        SPDX 2.3 or CycloneDX 1.5, both as JSON.
    output
        Where the document goes; default: standard output.
    plain_http
        Speak plain HTTP to a registry that is not on this machine.
    json
        Print JSON.
    """
    from kokon.cli.inputs import write_output
    from kokon.cli.output import emit
    from kokon.cli.seal import registry_login
    from kokon.image.sbom.collect import make_sbom
    from kokon.image.source import open_source

    with open_source(image, plain_http=plain_http, auth=registry_login()) as source:
        made = make_sbom(source, format, image.rpartition("/")[2] or image, datetime.now(UTC))
    if output is None:
        print(made.data.decode(), flush=True)
        return
    write_output(output, made.data)
    answer = {"output": str(output), "format": format, "packages": made.packages}
    emit(answer, f"{output}: {made.packages} packages", json)
