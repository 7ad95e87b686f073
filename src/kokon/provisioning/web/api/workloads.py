"""Operations on workloads. Pure."""

from __future__ import annotations

from typing import Final

from kokon.provisioning.web.api.common import ADMIN, KOKON, WORKLOAD, absent, admin, conflict, matching, ok
from kokon.provisioning.web.api.schemas import TEXT, array, closed
from kokon.provisioning.web.table import Content, Operation, Parameter, ref

TAG: Final = "workloads"
_ALL: Final = f"{KOKON}/workloads"
_ONE: Final = f"{_ALL}/{{name}}"
_ABSENT: Final = absent("there is no such workload")

OPERATIONS: Final = (
    Operation(
        "list-workloads",
        "GET",
        _ALL,
        "All workloads in the scope.",
        admin(ok("by name", closed({"workloads": array(ref("Workload"))}))),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "admit-workload",
        "POST",
        _ALL,
        "Admit a workload, in the place of one of the same name if there is one.",
        admin(ok("admitted", ref("WorkloadAdmitted")), conflict(), body=True),
        description="`previous`: only in the place of the record with that digest (empty: of none).",
        request=Content(ref("WorkloadAdmission")),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "show-workload",
        "GET",
        _ONE,
        "One workload.",
        admin(ok("the workload", {"allOf": [ref("Workload"), ref("WorkloadDigest")]}), _ABSENT),
        parameters=(WORKLOAD,),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "workload-history",
        "GET",
        f"{_ONE}/history",
        "All that a workload ever was.",
        admin(ok("the oldest first", closed({"history": array(ref("WorkloadVersion"))})), _ABSENT),
        parameters=(WORKLOAD,),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "withdraw-workload",
        "DELETE",
        _ONE,
        "Forget a workload: its enclaves get nothing any more.",
        admin(ok("withdrawn", closed({"withdrawn": TEXT})), _ABSENT, conflict()),
        parameters=(WORKLOAD,),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "workload-log-token",
        "POST",
        f"{_ONE}/log-token",
        "The token that opens the log of a workload's containers.",
        admin(ok("the token", closed({"token": TEXT})), _ABSENT),
        description="That it was asked for is logged. It has no body.",
        parameters=(WORKLOAD,),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "add-statement",
        "POST",
        f"{_ONE}/statements",
        "Add an image that the workload's rule lets in.",
        admin(ok("added", ref("StatementAdded")), _ABSENT, conflict(), body=True),
        request=Content(ref("StatementRequest")),
        parameters=(WORKLOAD,),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
    Operation(
        "delete-statement",
        "DELETE",
        f"{_ONE}/statements/{{host_data}}",
        "Take an image back that was added.",
        admin(ok("it is gone", closed({"deleted": TEXT})), absent("there is no such workload or image"), conflict()),
        parameters=(
            WORKLOAD,
            Parameter(
                "host_data", "SHA-256 of its launch document, in hexadecimal", "path", matching(r"^[0-9a-f]{64}$")
            ),
        ),
        security=ADMIN,
        tags=(TAG,),
        project=True,
    ),
)
