"""Operations on secrets. Nobody reads a value here. Pure."""

from __future__ import annotations

from typing import Final

from kokon.provisioning.web.api.common import (
    ADMIN,
    BYTES,
    KBS,
    KOKON,
    SECRET_PATH,
    absent,
    admin,
    broker_admin,
    conflict,
    number,
    ok,
)
from kokon.provisioning.web.api.schemas import TEXT, array, closed
from kokon.provisioning.web.table import Answer, Content, Operation, Parameter, ref

TAG: Final = "secrets"
_BROKER: Final = f"{KBS}/resource/{{repository}}/{{type}}/{{tag}}"
_OURS: Final = f"{KOKON}/secrets/{{repository}}/{{type}}/{{tag}}"
_GONE: Final = Answer(404, "there is no such secret, version or project", Content(ref("BrokerError")))

OPERATIONS: Final = (
    Operation(
        "put-resource",
        "POST",
        _BROKER,
        "Put a secret there, as the key broker's clients do.",
        broker_admin(ok("a new version", ref("SecretWritten")), conflict("BrokerError"), body=True),
        parameters=SECRET_PATH,
        request=Content(None, BYTES, "the secret itself"),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "delete-resource",
        "DELETE",
        _BROKER,
        "Delete a secret for good, as the key broker's clients do.",
        broker_admin(ok("it is gone", closed({"deleted": TEXT})), _GONE, conflict("BrokerError")),
        parameters=SECRET_PATH,
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "list-secrets",
        "GET",
        f"{KOKON}/secrets",
        "All secrets in the scope, without their values.",
        admin(ok("by path", closed({"secrets": array(ref("Secret"))}))),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "put-secret",
        "PUT",
        _OURS,
        "Put, generate or derive a secret.",
        admin(ok("a new version", ref("SecretWritten")), conflict(), body=True),
        description=(
            "`previous`: only if the newest version is that (0: there is none). `keep`: so many versions stay. "
            "`generate`: `bytes:N`, `hex:N`, `base64:N`, `password:N` (N from 16 to 1024, 256 of passwords), "
            "`uuid`, `ed25519`, `x25519`, `p256`, `p384`, `rsa3072`, `rsa4096`."
        ),
        parameters=SECRET_PATH,
        request=Content(ref("SecretPut")),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "rotate-secret",
        "POST",
        f"{_OURS}/rotate",
        "A new value by the same recipe.",
        admin(ok("a new version", ref("SecretWritten")), absent("there is no such secret"), conflict(), body=True),
        parameters=SECRET_PATH,
        request=Content(ref("SecretRotate")),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "delete-secret",
        "DELETE",
        _OURS,
        "Delete a secret, or one of its versions, for good.",
        admin(ok("it is gone", closed({"deleted": TEXT})), absent("there is no such secret or version"), conflict()),
        parameters=(*SECRET_PATH, Parameter("version", "only this version", schema=number(1))),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
)
