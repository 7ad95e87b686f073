"""Sessions with PKCS#11 tokens, for whoever keeps a key in one. [machine's edge: a library; needs the extra `pkcs11`]

Where the library is, is the operator's to say and never read from a file that could have been replaced: it is code. A
wrong PIN is tried once only, since tokens count.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final

from kokon.errors import DeniedError, HostError, UntrustedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

LABEL_LIMIT: Final = 64
PIN_LIMIT: Final = 256
_LOCK: Final = threading.Lock()
"""A token's login is the whole process's: two sessions at once would share one."""


@contextlib.contextmanager
def session(
    library: Path, token: str, key: str, pin: bytes, *, write: bool = False
) -> Iterator[tuple[ModuleType, Any]]:
    """The library's module and a session after login to the token labelled `token`, which the PKCS#11 module `library`
    reaches; `key` is the label of the key that will be asked for, `pin` the user's (UTF-8). `Any`: the library's types
    are its own.

    Raises `UsageError` (`pkcs11-label`, `pin-malformed`), `HostError` (`pkcs11-missing`), and what `named` makes of
    what goes wrong inside.
    """
    for label in (token, key):
        if not 0 < len(label.encode()) <= LABEL_LIMIT:
            raise UsageError("pkcs11-label", f"labels have 1 to {LABEL_LIMIT} bytes", found=repr(label))
    word = _pin(pin)
    api = _module()
    with _LOCK, named(api), _token(api, library, token).open(rw=write, user_pin=word) as opened:
        yield api, opened


def only(found: Sequence[Any], expected: str, hint: str | None = None) -> Any:
    """The one key among those `found`. Raises `HostError` (`pkcs11-key-missing`), `UntrustedError`
    (`pkcs11-key-ambiguous`)."""
    if not found:
        raise HostError("pkcs11-key-missing", "the token has no such key", expected=expected, hint=hint)
    if len(found) > 1:
        raise UntrustedError(
            "pkcs11-key-ambiguous",
            "the token has several keys of this label",
            expected="one",
            found=len(found),
            hint="remove or rename those that do not belong there",
        )
    return found[0]


@contextlib.contextmanager
def named(api: ModuleType) -> Iterator[None]:
    """The library's errors as ours: `DeniedError` (`pin-wrong`, `pin-locked`), `HostError` (`pkcs11-token-missing`,
    `pkcs11-failed`). Their texts may hold anything, so only their names are told."""
    try:
        yield
    except (api.PinIncorrect, api.PinInvalid, api.PinLenRange) as error:
        raise DeniedError(
            "pin-wrong", "the token refuses the PIN", hint="it was tried once; tokens lock after a few wrong ones"
        ) from error
    except api.PinLocked as error:
        raise DeniedError(
            "pin-locked", "the token's PIN is locked", hint="the token's security officer unlocks it"
        ) from error
    except (api.NoSuchToken, api.MultipleTokensReturned) as error:
        raise HostError(
            "pkcs11-token-missing",
            "there is not exactly one token of this label",
            found=type(error).__name__,
            hint="is the token plugged in, and its configuration (for SoftHSM: SOFTHSM2_CONF) right?",
        ) from error
    except api.PKCS11Error as error:
        raise HostError(
            "pkcs11-failed",
            "the PKCS#11 library or the token failed",
            found=type(error).__name__,
            hint="check the path of the library, and the token with its own tools",
        ) from error


def _pin(pin: bytes) -> str:
    """Without a PIN the session would be public, and a key that anyone may use would be taken."""
    try:
        word = pin.decode()
    except UnicodeDecodeError:
        word = ""
    if not 0 < len(word) <= PIN_LIMIT or "\0" in word:
        raise UsageError("pin-malformed", "the PIN is empty, too long or not UTF-8")
    return word


def _token(api: ModuleType, library: Path, label: str) -> Any:
    return api.lib(str(library)).get_token(token_label=label)


def _module() -> ModuleType:
    try:
        import pkcs11
    except ImportError as error:
        raise HostError(
            "pkcs11-missing",
            "PKCS#11 is not installed",
            expected="python-pkcs11",
            hint="pip install 'kokon[pkcs11]'",
        ) from error
    return pkcs11
