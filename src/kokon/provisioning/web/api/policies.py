"""Operations on policies and reference values, ours and those of the key broker's admin clients. Pure."""

from __future__ import annotations

from typing import Final

from kokon.provisioning.web.api.common import (
    ADMIN,
    KBS,
    KOKON,
    PLAIN,
    absent,
    admin,
    broker_admin,
    conflict,
    matching,
    ok,
)
from kokon.provisioning.web.api.schemas import TEXT, array, closed
from kokon.provisioning.web.table import Answer, Content, Operation, Parameter, ref

TAG: Final = "policies"
BROKER: Final = "key broker administration"
_ONE: Final = f"{KOKON}/policies/{{kind}}/{{name}}"
_NAME: Final = matching(r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$")
_PLACE: Final = (
    Parameter("kind", "`platform`, `attestation` or `resource`", "path", ref("PolicyKind")),
    Parameter("name", "its name; of kind `platform` there is only `default`", "path", _NAME),
)
_ABSENT: Final = absent("there is no such policy")
_IDENTITY: Final = Parameter("identity", "the policy's id", "path", _NAME)
_NO_POLICY: Final = Answer(404, "there is no such policy or project", Content(ref("BrokerError")))

_OURS: Final = (
    Operation(
        "list-policies",
        "GET",
        f"{KOKON}/policies",
        "All policies, without their texts.",
        admin(ok("by kind and name", closed({"policies": array(ref("Policy"))}))),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "show-policy",
        "GET",
        _ONE,
        "A policy and its history.",
        admin(ok("the policy", ref("PolicyText")), _ABSENT),
        parameters=_PLACE,
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "put-policy",
        "PUT",
        _ONE,
        "Set a policy: of kind `platform` in TOML (docs/POLICY.md), else in Rego.",
        admin(ok("set", ref("PolicyWritten")), conflict(), body=True),
        parameters=_PLACE,
        request=Content(ref("PolicyPut")),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "delete-policy",
        "DELETE",
        _ONE,
        "Remove a policy: the server's own holds again.",
        admin(ok("it is gone", closed({"deleted": TEXT})), _ABSENT, conflict()),
        parameters=_PLACE,
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "list-references",
        "GET",
        f"{KOKON}/references",
        "All reference values that Rego policies ask for.",
        admin(ok("by name", closed({"references": array(ref("Reference"))}))),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "delete-reference",
        "DELETE",
        f"{KOKON}/references/{{name:path}}",
        "Delete a reference value.",
        admin(ok("it is gone", closed({"deleted": TEXT})), absent("there is no such reference value"), conflict()),
        parameters=(Parameter("name", "its name, which may have slashes", "path", matching(r"^[!-~]{1,512}$")),),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
)


def _broker_policy(kind: str, schema: str) -> tuple[Operation, ...]:
    """Operations on the Rego policies of a kind, with the id in the path, and without."""
    path, what = f"{KBS}/{kind}-policy", f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} policy"

    def setting(name: str, path: str, parameters: tuple[Parameter, ...], which: str) -> Operation:
        return Operation(
            name,
            "POST",
            path,
            f"Set {what}, {which}.",
            broker_admin(Answer(200, "set"), conflict("BrokerError"), body=True),
            parameters=parameters,
            request=Content(ref(schema)),
            security=ADMIN,
            tags=(BROKER,),
            project=True,
            handler=f"set-{kind}-policy",
        )

    return (
        setting(f"set-{kind}-policy", path, (), "the default one or the one that the body names"),
        setting(f"set-{kind}-policy-named", f"{path}/{{identity}}", (_IDENTITY,), "by its id"),
        Operation(
            f"list-{kind}-policies",
            "GET",
            path,
            f"The ids of all policies of this kind: {kind}.",
            broker_admin(ok("ids", array(TEXT))),
            security=ADMIN,
            tags=(BROKER,),
            project=True,
            handler=f"get-{kind}-policy",
        ),
        Operation(
            f"get-{kind}-policy",
            "GET",
            f"{path}/{{identity}}",
            f"The text of {what}.",
            broker_admin(ok("Rego", None, PLAIN), _NO_POLICY),
            parameters=(_IDENTITY,),
            security=ADMIN,
            tags=(BROKER,),
            project=True,
        ),
    )


_BROKERS: Final = (
    *_broker_policy("attestation", "BrokerAttestationPolicy"),
    *_broker_policy("resource", "BrokerResourcePolicy"),
    Operation(
        "set-reference-value",
        "POST",
        f"{KBS}/reference-value",
        "Register reference values.",
        broker_admin(Answer(200, "registered"), conflict("BrokerError"), body=True),
        description="`sample`: base64 of a JSON object of names and values. `corim`: base64 of a signed CoRIM.",
        request=Content(ref("BrokerReference")),
        security=ADMIN,
        tags=(BROKER,),
        project=True,
    ),
    Operation(
        "list-reference-values",
        "GET",
        f"{KBS}/reference-value",
        "All reference values.",
        broker_admin(ok("by name", {"type": "object"})),
        security=ADMIN,
        tags=(BROKER,),
        project=True,
        handler="get-reference-value",
    ),
    Operation(
        "get-reference-value",
        "GET",
        f"{KBS}/reference-value/{{name:path}}",
        "A reference value.",
        broker_admin(
            ok("any JSON value", {}),
            Answer(404, "there is no such reference value or project", Content(ref("BrokerError"))),
        ),
        parameters=(Parameter("name", "its name, which may have slashes", "path", matching(r"^[!-~]{1,512}$")),),
        security=ADMIN,
        tags=(BROKER,),
        project=True,
    ),
)

OPERATIONS: Final = (*_OURS, *_BROKERS)
