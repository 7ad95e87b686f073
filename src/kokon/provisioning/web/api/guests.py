"""What guests ask for: the key broker protocol, and events. Pure."""

from __future__ import annotations

from typing import Final

from kokon.provisioning.web.api.common import (
    ATTESTED,
    KBS,
    KOKON,
    SECRET_PATH,
    guests,
    number,
    ok,
)
from kokon.provisioning.web.api.schemas import FLAG, TEXT, closed
from kokon.provisioning.web.table import JSON, Answer, Content, Operation, Parameter, ref

TAG: Final = "guests"
_SESSION: Final = {"Set-Cookie": "`kbs-session-id`: the sealed session, which the guest carries"}

OPERATIONS: Final = (
    Operation(
        "auth",
        "POST",
        f"{KBS}/auth",
        "Begin a handshake.",
        guests(
            Answer(200, "a challenge to make evidence for", Content(ref("Challenge")), _SESSION),
            attested=False,
            body=True,
        ),
        request=Content(ref("Request")),
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "attest",
        "POST",
        f"{KBS}/attest",
        "Show evidence, get a token.",
        guests(Answer(200, "an attestation token (EAR, ES256)", Content(closed({"token": TEXT})), _SESSION), body=True),
        description="The body has the form of the protocol version that the session began with.",
        request=Content(ref("Attestation")),
        security=("session",),
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "get-resource",
        "GET",
        f"{KBS}/resource/{{repository}}/{{type}}/{{tag}}",
        "Get a secret.",
        guests(ok("the secret, encrypted to the enclave's key", ref("Jwe"), JSON)),
        parameters=(*SECRET_PATH, Parameter("version", "that version instead of the newest", schema=number(1))),
        security=ATTESTED,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "event",
        "POST",
        f"{KOKON}/events",
        "Have something that happened in the guest logged.",
        guests(ok("it is in the log", closed({"logged": FLAG})), body=True),
        request=Content(ref("Event")),
        security=("attestation",),
        tags=(TAG,),
        project=True,
    ),
)
