"""What a launch may decide and what the author fixed: every way in which a document goes beyond the statement."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kokon.errors import DeniedError
from kokon.image.fit import check_fit
from kokon.image.statement import Kek, Statement
from kokon.launch.document import ImageRef, LaunchDocument, Provisioning, SecretUse, VolumeUse
from support.sealed import NOW

STATEMENT = Statement(
    subject="sha256:" + "a" * 64,
    name="demo/clinic",
    author="Ada",
    created=NOW,
    not_after=NOW + timedelta(days=1),
    layers=(),
    config="sha256:" + "b" * 64,
    kek=Kek("kbs:///default/kek/1", {}),
    args=("serve",),
)
DOCUMENT = LaunchDocument(
    workload="clinic",
    image=ImageRef("http://127.0.0.1:5000", "demo/clinic", STATEMENT.subject, ""),
    provisioning=Provisioning("https://127.0.0.1:8443", ""),
    port=8080,
    log_key="kbs:///clinic/log/token",
)
DB = SecretUse("db", "kbs:///clinic/secret/db", file="/run/secrets/db")
DATA = VolumeUse("data", "/data", "kbs:///clinic/volume/data")


def as_variable(name: str) -> SecretUse:
    return SecretUse("db", DB.resource, env=name)


@pytest.mark.parametrize(
    ("document", "statement", "code"),
    [
        (replace(DOCUMENT, args=("sh",)), STATEMENT, "args-not-allowed"),
        (replace(DOCUMENT, args=()), STATEMENT, "args-not-allowed"),
        (replace(DOCUMENT, env=(("MODE", "x"),)), STATEMENT, "env-not-allowed"),
        (DOCUMENT, replace(STATEMENT, secrets=("db",)), "statement-secret-missing"),
        (replace(DOCUMENT, secrets=(DB,)), replace(STATEMENT, secrets=("db", "token")), "statement-secret-missing"),
        (
            replace(DOCUMENT, secrets=(DB, SecretUse("x", "kbs:///clinic/secret/x", file="/app/main"))),
            replace(STATEMENT, secrets=("db",)),
            "secret-not-allowed",
        ),
        (replace(DOCUMENT, volumes=(DATA,)), replace(STATEMENT, volumes=("/var/data",)), "volume-not-allowed"),
    ],
)
def test_what_the_author_fixed_stays(document: LaunchDocument, statement: Statement, code: str) -> None:
    with pytest.raises(DeniedError) as caught:
        check_fit(document, statement)
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PATH", "BASH_ENV", "ENV", "NODE_OPTIONS", "PERL5OPT"),
        *("RUBYOPT", "JAVA_TOOL_OPTIONS", "GCONV_PATH", "GLIBC_TUNABLES"),
    ],
)
def test_a_secret_steers_no_loader_or_interpreter_unless_the_author_says_so(name: str) -> None:
    document = replace(DOCUMENT, secrets=(as_variable(name),))
    with pytest.raises(DeniedError) as caught:
        check_fit(document, replace(STATEMENT, secrets=("db",), env=("MODE",)))
    assert caught.value.code == "secret-variable-not-allowed"
    check_fit(document, replace(STATEMENT, env=(name,)))


def test_what_the_author_left_open_is_the_owners_choice() -> None:
    check_fit(DOCUMENT, STATEMENT)
    check_fit(
        replace(DOCUMENT, args=("sh",), env=(("MODE", "x"),)), replace(STATEMENT, args_may_vary=True, env=("MODE",))
    )
    free = replace(DOCUMENT, secrets=(as_variable("API_KEY"),), volumes=(DATA,))
    check_fit(free, STATEMENT)
    check_fit(free, replace(STATEMENT, secrets=("db",), volumes=("/data/", "/cache")))
