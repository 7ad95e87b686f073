"""Whether a launch document keeps to what the image's author allows: asked by the owner's server and by users. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kokon.errors import DeniedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kokon.image.statement import Statement
    from kokon.launch.document import LaunchDocument

_STEERING = frozenset(
    (
        *("PATH", "ENV", "BASH_ENV", "SHELLOPTS", "BASHOPTS", "IFS", "PS4", "LOCPATH"),
        *("NODE_OPTIONS", "NODE_PATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH"),
        *("OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES", "PHPRC", "PHP_INI_SCAN_DIR", "DOTNET_STARTUP_HOOKS"),
    )
)
_STEERING_PREFIXES = ("LD_", "GLIBC_", "GCONV_", "PYTHON", "PERL5", "RUBY", "LUA_", "CORECLR_")
"""Variables by which the dynamic loader, shells and interpreters find or are told what code to run."""


def check_fit(document: LaunchDocument, statement: Statement) -> None:
    """Raise `DeniedError` if the document goes beyond the statement: other arguments (`args-not-allowed`), variables
    that may not vary (`env-not-allowed`), a secret as a variable that decides what code runs
    (`secret-variable-not-allowed`), a declared secret withheld (`statement-secret-missing`), and, where the author
    lists secrets or volumes, others (`secret-not-allowed`, `volume-not-allowed`)."""
    _check_command(document, statement)
    _check_secrets(document, statement)
    declared = [path.rstrip("/") for path in statement.volumes]
    beyond = [volume.path for volume in document.volumes if volume.path not in declared]
    if declared and beyond:
        raise DeniedError(
            "volume-not-allowed",
            "the image does not declare volumes at these paths",
            expected=_listed(declared),
            found=_listed(beyond),
            hint="mount volumes only where the image's configuration declares them",
        )


def _check_command(document: LaunchDocument, statement: Statement) -> None:
    if document.args is not None and not statement.args_may_vary:
        raise DeniedError(
            "args-not-allowed",
            "the author did not allow a launch to replace the image's arguments",
            expected="the image's own arguments",
            found=" ".join(map(repr, document.args)) or "none",
            hint="leave --arg out, or have the author seal the image with `kokon seal --vary-args`",
        )
    fixed = {name for name, _ in document.env} - set(statement.env)
    if fixed:
        raise DeniedError(
            "env-not-allowed",
            "the author did not allow a launch to set these environment variables",
            expected=_listed(statement.env),
            found=_listed(sorted(fixed)),
            hint="the author names them with `kokon seal --vary NAME`",
        )
    variables = {secret.env for secret in document.secrets if secret.env} - set(statement.env)
    if steering := sorted(filter(_steers, variables)):
        raise DeniedError(
            "secret-variable-not-allowed",
            "these variables decide what code runs, and the author did not allow a launch to set them",
            expected=_listed(statement.env),
            found=_listed(steering),
            hint="give the secret under another variable or as a file; the author names them with `kokon seal --vary`",
        )


def _check_secrets(document: LaunchDocument, statement: Statement) -> None:
    given, declared = {secret.name for secret in document.secrets}, set(statement.secrets)
    if missing := sorted(declared - given):
        raise DeniedError(
            "statement-secret-missing",
            "the image needs secrets that the launch document does not give",
            expected=_listed(sorted(declared)),
            found=_listed(sorted(given)),
            hint=" ".join(f"--secret {name}" for name in missing),
        )
    if declared and given - declared:
        raise DeniedError(
            "secret-not-allowed",
            "the author did not declare these secrets",
            expected=_listed(sorted(declared)),
            found=_listed(sorted(given - declared)),
            hint="give only secrets that the author named with `kokon seal --secret NAME`",
        )


def _steers(name: str) -> bool:
    return name in _STEERING or name.startswith(_STEERING_PREFIXES)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
