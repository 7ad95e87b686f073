"""Whether a launch document keeps to what the image's author allows: asked by the owner's server and by users. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kokon.errors import DeniedError

if TYPE_CHECKING:
    from kokon.image.statement import Statement
    from kokon.launch.document import LaunchDocument


def check_fit(document: LaunchDocument, statement: Statement) -> None:
    """Raise `DeniedError` if the document withholds a secret that the author declares (`statement-secret-missing`) or
    sets a variable that the author does not let vary (`env-not-allowed`)."""
    missing = set(statement.secrets) - {secret.name for secret in document.secrets}
    if missing:
        raise DeniedError(
            "statement-secret-missing",
            "the image needs secrets that the launch document does not give",
            expected=", ".join(sorted(statement.secrets)),
            found=", ".join(secret.name for secret in document.secrets) or "none",
            hint=" ".join(f"--secret {name}" for name in sorted(missing)),
        )
    fixed = {name for name, _ in document.env} - set(statement.env)
    if fixed:
        raise DeniedError(
            "env-not-allowed",
            "the author did not allow a launch to set these environment variables",
            expected=", ".join(statement.env) or "none",
            found=", ".join(sorted(fixed)),
            hint="the author names them with `kokon seal --vary NAME`",
        )
