"""Operations on logs: a project's, and the server's own. docs/LOG.md has the formats. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kokon.provisioning.web.api.common import ADMIN, BYTES, KOKON, PLAIN, absent, admin, conflict, matching, number, ok
from kokon.provisioning.web.table import Answer, Content, Operation, Parameter, ref

TAG: Final = "log"
_FROM: Final = Parameter("from", "size of the smaller log", schema=number())
_PAGING: Final = (
    Parameter("start", "number of the first, 0 if not given", schema=number()),
    Parameter("limit", "at most so many; never more than 1000", schema=number()),
)
_TILE: Final = Parameter(
    "path", "as `0/x001/234.p/56` or `entries/000`: C2SP tlog-tiles", "path", matching(r"^[0-9a-z/.]{3,64}$")
)


def _log(prefix: str, base: str, *, project: bool) -> tuple[Operation, ...]:
    """The operations of one log: their names begin with `prefix`, their paths with `base`."""

    def reading(
        name: str, path: str, summary: str, answer: Answer, *more: Answer, parameters: tuple[Parameter, ...] = ()
    ) -> Operation:
        return Operation(
            f"{prefix}-{name}",
            "GET",
            base + path,
            summary,
            admin(answer, *more, project=project),
            parameters=parameters,
            security=ADMIN,
            tags=(TAG,),
            project=project,
        )

    return (*_reading(reading, project=project), _cosigning(prefix, base, project=project))


def _reading(reading: Callable[..., Operation], *, project: bool) -> tuple[Operation, ...]:
    def lacks(what: str) -> Answer:
        return absent(what) if project else Answer(404, what, Content(ref("Error")))

    return (
        reading("entries", "", "Entries, from one on.", ok("entries", ref("LogEntries")), parameters=_PAGING),
        reading("checkpoint", "/checkpoint", "The latest signed checkpoint.", ok("a signed note", None, PLAIN)),
        reading(
            "tile",
            "/tile/{path:path}",
            "A tile of hashes, or a bundle of entries.",
            ok("its bytes", None, BYTES),
            lacks("the log is not that long"),
            parameters=(_TILE,),
        ),
        reading("key", "/key", "The key that checkpoints are verified with.", ok("a verifier key", None, PLAIN)),
        reading(
            "receipt",
            "/receipt/{index}",
            "An entry with the proof that it is in the log.",
            ok("the receipt", ref("LogReceipt")),
            lacks("there is no such entry"),
            parameters=(Parameter("index", "the entry's number", "path", number()),),
        ),
        reading(
            "consistency",
            "/consistency",
            "The proof that a smaller log is the beginning of this one.",
            ok("the proof", ref("LogConsistency")),
            parameters=(_FROM,),
        ),
        reading(
            "cosigned", "/cosigned", "The latest checkpoint that each witness cosigned.", ok("notes", ref("LogHeads"))
        ),
        reading("export", "/export", "The whole log, for `kokon audit verify`.", ok("lines", None, PLAIN)),
    )


def _cosigning(prefix: str, base: str, *, project: bool) -> Operation:
    return Operation(
        f"{prefix}-cosignature",
        "POST",
        f"{base}/cosignature",
        "Keep a witness' cosignature of a checkpoint.",
        admin(ok("kept", ref("LogCosigned")), conflict(), body=True, project=project),
        request=Content(ref("LogCosignature")),
        security=ADMIN,
        tags=(TAG,),
        project=project,
    )


OPERATIONS: Final = (
    *_log("log", f"{KOKON}/log", project=True),
    Operation(
        "show-denial",
        "GET",
        f"{KOKON}/denials/{{identity}}",
        "Why something was denied: each check, what was expected and what was found.",
        admin(ok("the log's entry", ref("LogEntry")), absent("there is no such denial")),
        parameters=(Parameter("identity", "the id that the guest was told", "path", matching(r"^[0-9a-f]{16}$")),),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
)
SERVER_OPERATIONS: Final = _log("server-log", f"{KOKON}/server/log", project=False)
