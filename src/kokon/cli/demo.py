"""`kokon demo`: the whole way, on this machine, with what the cloud saw and what its attacks came to."""

from __future__ import annotations

from kokon.cli.output import emit, kokon_home


def demo(*, json: bool = False) -> None:
    """Run a confidential container end to end, show what the cloud saw of it, and attack it.

    Everything is started on this machine and stopped at the end: a registry, a provisioning server, a virtual machine.

    Example: kokon demo

    Parameters
    ----------
    json
        Print what was observed as JSON after the story.
    """
    from kokon.demo.story import tell
    from kokon.launch.image import current_guest, read_guest_image

    observed = tell(kokon_home(), read_guest_image(current_guest(kokon_home())))
    if json:
        emit(observed, "", json)
