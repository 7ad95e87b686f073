"""The guest's own `dataclasses` agrees with Python's in everything that guest code asks of it."""

import ast
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kokon
from kokon.guest.build import quick_dataclasses
from kokon.guest.build.closure import find_closure

Make = Callable[[ModuleType], Any]
MODULES = (dataclasses, quick_dataclasses)


def sample(module: Any) -> Any:
    @module.dataclass(frozen=True, slots=True)
    class Sample:
        """Words."""

        first: int
        key: bytes = module.field(repr=False)
        second: str = "two"
        names: tuple[str, ...] = module.field(default=())
        more: Mapping[str, str] = module.field(default_factory=dict)
        apart: object = module.field(default=None, init=False, repr=False, compare=False)

        @property
        def twice(self) -> int:
            return self.first * 2

        @classmethod
        def one(cls) -> "Sample":
            return cls(1, b"k")

    return Sample


def single(module: Any) -> Any:
    @module.dataclass(frozen=True, slots=True)
    class Single:
        only: int

    return Single


def outcome(what: Callable[[], Any]) -> Any:
    try:
        return what()
    except (TypeError, AttributeError) as error:
        return type(error).__name__


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: repr(c(1, b"secret", second="x", more={"a": "b"})).rpartition(".")[2],
        lambda c: c(1, b"k") == c(first=1, key=b"k", second="two", names=(), more={}),
        lambda c: c(1, b"k") == c(2, b"k"),
        lambda c: c(1, b"k") != c(1, b"l"),
        lambda c: c(1, b"k") == 1,
        lambda c: hash(c(1, b"k", more=())) == hash(c(1, b"k", more=())) == hash((1, b"k", "two", (), ())),
        lambda c: hash(c(1, b"k")),
        lambda c: c(1),
        lambda c: c(1, b"k", "x", (), {}, 6),
        lambda c: c(1, b"k", first=2),
        lambda c: c(1, b"k", other=2),
        lambda c: c(1, b"k").more is c(1, b"k").more,
        lambda c: c.one().twice,
        lambda c: setattr(c(1, b"k"), "first", 2),
        lambda c: setattr(c(1, b"k"), "other", 2),
        lambda c: delattr(c(1, b"k"), "first"),
        lambda c: c(1, b"k").__dict__,
        lambda c: (c.__name__, c.__doc__, c.__module__, c.__match_args__, c.__slots__),
        lambda c: len({c(1, b"k", more=()), c(1, b"k", more=())}),
    ],
)
def test_both_answer_alike(ask: Callable[[Any], Any]) -> None:
    standard, ours = (outcome(lambda module=module: ask(sample(module))) for module in MODULES)
    assert (ours == standard) or (ours == "FrozenInstanceError" and standard in ("FrozenInstanceError", "TypeError"))


@given(st.integers(), st.integers())
def test_one_member_alike(one: int, two: int) -> None:
    standard, ours = single(dataclasses), single(quick_dataclasses)
    assert (ours(one) == ours(two)) == (standard(one) == standard(two))
    assert hash(ours(one)) == hash(standard(one))


def test_a_plain_class_alike() -> None:
    for module in MODULES:

        @module.dataclass
        class Plain:
            one: int
            two: str = "2"

        value: Any = Plain(1)
        value.one = 3
        assert value == Plain(3, "2")
        assert repr(value).endswith("Plain(one=3, two='2')")
        with pytest.raises(TypeError):
            hash(value)


def test_what_it_does_not_do_is_refused() -> None:
    with pytest.raises(TypeError):
        quick_dataclasses.dataclass(frozen=True, slots=False)
    with pytest.raises(TypeError):
        quick_dataclasses.dataclass(frozen=True, slots=True)(single(quick_dataclasses))
    with pytest.raises(TypeError):
        quick_dataclasses.dataclass(frozen=True, slots=True)(type("T", (), {"__post_init__": print}))


def test_what_stands_apart_is_neither_an_argument_nor_compared() -> None:
    for module in MODULES:
        made = sample(module)
        one, other = made(1, b"k"), made(1, b"k")
        assert one.apart is None
        object.__setattr__(one, "apart", "something")
        assert (one == other, hash(one.first), "something" in repr(one)) == (True, hash(1), False)
        with pytest.raises(TypeError):
            made(1, b"k", apart=1)


def test_the_guests_code_asks_for_no_more() -> None:
    used = set()
    for path in find_closure(Path(kokon.__file__).parent).modules.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "dataclasses":
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Import):
                assert "dataclasses" not in [alias.name for alias in node.names]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "field":
                assert {word.arg for word in node.keywords} <= {"default", "default_factory", "init", "repr", "compare"}
            elif isinstance(node, ast.ClassDef):
                forms = [ast.unparse(d) for d in node.decorator_list if "dataclass" in ast.unparse(d)]
                assert set(forms) <= {"dataclass(frozen=True, slots=True)"}, path
                assert not (forms and (node.bases or "ClassVar" in ast.unparse(node))), path
    assert used == {"dataclass", "field"}
