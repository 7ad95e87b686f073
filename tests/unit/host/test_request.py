import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import UsageError
from kokon.host.request import Publish, check_name, parse_publish, parse_size, parse_volume


@pytest.mark.parametrize("name", ["a", "clinic-2", "x" * 40])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "-a", "x" * 41, "a,b", "a\n", "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name(name)
    assert caught.value.code == "container-name-malformed"


def test_publish() -> None:
    assert parse_publish("9443") == Publish("127.0.0.1", 9443)
    assert parse_publish("0.0.0.0:0") == Publish("0.0.0.0", 0)
    assert str(parse_publish("10.0.0.1:80")) == "10.0.0.1:80"


@pytest.mark.parametrize(
    "text", ["", "x", ":", "1.2.3.4:", "localhost:1", "1.2.3.4:65536", "-1", "[::1]:1", "1:2:3", "٣"]
)
def test_bad_publish(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_publish(text)
    assert caught.value.code == "publish-malformed"


def test_sizes() -> None:
    assert [parse_size(text) for text in ("512", "1k", "3M", "2G", "1T")] == [512, 1 << 10, 3 << 20, 2 << 30, 1 << 40]


@pytest.mark.parametrize("text", ["", "0", "M", "-1M", "1.5G", "1GB", "9" * 14, "٣"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.code == "size-malformed"


def test_volumes() -> None:
    volume = parse_volume("data=/srv/a.img:64M")
    assert (volume.name, str(volume.file), volume.size) == ("data", "/srv/a.img", 64 << 20)
    assert parse_volume("data=/srv/a:b/c").size is None
    assert parse_volume("data=rel.img").file.is_absolute()
    assert str(parse_volume("data=/srv/a=b,c").file) == "/srv/a=b,c"


@pytest.mark.parametrize("text", ["", "data", "data=", "=x", "DATA=/x", f"{'d' * 17}=/x", "data=/x\0y"])
def test_bad_volumes(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_volume(text)
    assert caught.value.code == "volume-malformed"


@given(st.text(max_size=60), st.sampled_from([check_name, parse_publish, parse_size, parse_volume]))
def test_parsers_answer_or_refuse(text: str, parse: object) -> None:
    with contextlib.suppress(UsageError):
        parse(text)  # type: ignore[operator]
