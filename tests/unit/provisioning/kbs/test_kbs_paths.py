"""Resource paths: three plain segments, and one spelling."""

import pytest

from kokon.errors import MalformedError
from kokon.provisioning.kbs.paths import check_path, resource_path


@pytest.mark.parametrize(
    "uri", ["kbs:///a/b", "kbs:///a/b/c/d", "kbs:///a/../c", "kbs:///a/.b/c", "kbs://h/a/b/c", "a/b/c", "kbs:///a/b/\n"]
)
def test_refused_resource_uris(uri: str) -> None:
    with pytest.raises(MalformedError) as caught:
        resource_path(uri)
    assert caught.value.code == "resource-path"


def test_paths() -> None:
    assert resource_path("kbs:///default/kek/1.2") == "default/kek/1.2"
    assert check_path("a/b/c") == "a/b/c"
