"""Who the application runs as."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.guest.agent.users import User, resolve_user

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:1001:,,,:/home/app:/bin/sh\nodd:x:7:8::relative:/bin/sh\n"
GROUP = b"root:x:0:\nstaff:x:50:other,app\napp:x:1001:\naudio:x:29:app\n"


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (), "/root")),
        ("root", User(0, 0, (), "/root")),
        ("app", User(1000, 1001, (50, 29), "/home/app")),
        ("1000", User(1000, 1001, (50, 29), "/home/app")),
        ("app:staff", User(1000, 50, (), "/home/app")),
        ("app:77", User(1000, 77, (), "/home/app")),
        ("4711", User(4711, 0, (), "/")),
        ("4711:4712", User(4711, 4712, (), "/")),
        ("odd", User(7, 8, (), "/")),
    ],
)
def test_users_are_resolved(text: str, user: User) -> None:
    assert resolve_user(text, PASSWD, GROUP) == user


@pytest.mark.parametrize("text", ["nobody", "app:nogroup", "app:", "4294967295", "-1", "٣"])
def test_unknown_users_are_refused(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        resolve_user(text, PASSWD, GROUP)
    assert caught.value.code == "user-unknown"


@given(st.text(max_size=20), st.binary(max_size=300), st.binary(max_size=300))
def test_no_file_crashes_the_parser(text: str, passwd: bytes, group: bytes) -> None:
    try:
        user = resolve_user(text, passwd, group)
    except MalformedError:
        return
    assert 0 <= user.uid < 2**32 - 1
    assert 0 <= user.gid < 2**32 - 1


def test_without_files_root_is_root() -> None:
    assert resolve_user("", b"", b"") == User(0, 0, (), "/")
