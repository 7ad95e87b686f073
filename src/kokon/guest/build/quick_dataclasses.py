"""What the guest has in place of Python's `dataclasses`: the forms that its code uses, made without a compiler.

The standard module writes source text for each class and compiles it, and imports a disassembler and a parser to do
so: two thirds of a second of an emulated processor at every cold start. Classes made here differ in nothing that our
code can see: frozen, slotted, compared and hashed by their members.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

MISSING = object()
_OWN = ("__dict__", "__weakref__", "__slots__", "__post_init__", "__dataclass_fields__")


class FrozenInstanceError(AttributeError):
    """A member of a frozen object was to be changed."""


class Field:
    """How one member is initialised, and whether it is an argument, shown, and compared."""

    __slots__ = ("compare", "default", "default_factory", "init", "repr")

    def __init__(self, default: Any, default_factory: Any, init: bool, repr: bool, compare: bool) -> None:  # noqa: A002
        self.default = default
        self.default_factory = default_factory
        self.init = init
        self.repr = repr
        self.compare = compare


def field(
    *,
    default: Any = MISSING,
    default_factory: Any = MISSING,
    init: bool = True,
    repr: bool = True,  # noqa: A002
    compare: bool = True,
) -> Any:
    """As the standard module's."""
    return Field(default, default_factory, init, repr, compare)


def dataclass(plain: type | None = None, *, frozen: bool = False, slots: bool = False) -> Any:
    """`@dataclass(frozen=True, slots=True)`, and for libraries `@dataclass`; no others.

    Raises `TypeError`.
    """
    if plain is None and frozen and slots:
        return _make
    if plain is None or frozen or slots:
        raise TypeError("only frozen classes with slots, or neither")
    names = tuple(vars(plain).get("__annotations__", ()))
    methods = _methods(names, {name: _field(vars(plain).get(name, MISSING)) for name in names})
    for name in ("__init__", "__repr__", "__eq__"):
        setattr(plain, name, methods[name])
    plain.__hash__ = None  # type: ignore[assignment]
    return plain


def _make(plain: type) -> type:
    members = dict(vars(plain))
    if any("__dataclass_fields__" in vars(base) for base in plain.__mro__) or "__post_init__" in members:
        raise TypeError("neither inheritance nor __post_init__")
    names = tuple(members.get("__annotations__", ()))
    fields = {name: _field(members.pop(name, MISSING)) for name in names}
    for name in _OWN:
        members.pop(name, None)
    arguments = tuple(name for name in names if fields[name].init)
    members.update(__slots__=names, __match_args__=arguments, __dataclass_fields__=fields)
    members.update(_methods(names, fields))
    made = type(plain)(plain.__name__, plain.__bases__, members)
    made.__qualname__ = plain.__qualname__
    return made


def _field(given: Any) -> Field:
    return given if isinstance(given, Field) else Field(given, MISSING, True, True, True)


def _methods(names: tuple[str, ...], fields: dict[str, Field]) -> dict[str, Any]:
    values = _values(tuple(name for name in names if fields[name].compare))
    shown = tuple(name for name in names if fields[name].repr)
    arguments = tuple(name for name in names if fields[name].init)
    others = tuple(name for name in names if not fields[name].init)

    def init(self: Any, *given: Any, **named: Any) -> None:
        if len(given) > len(arguments):
            raise TypeError(f"{type(self).__name__} takes {len(arguments)} arguments, not {len(given)}")
        for name, value in zip(arguments, given, strict=False):
            object.__setattr__(self, name, value)
        for name in others:
            object.__setattr__(self, name, _default(self, name, fields[name]))
        for name in arguments[len(given) :]:
            object.__setattr__(self, name, named.pop(name) if name in named else _default(self, name, fields[name]))
        if named:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(named)}, or has it twice")

    def show(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def equal(self: Any, other: object) -> Any:
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    def digest(self: Any) -> int:
        return hash(values(self))

    def refuse(_self: Any, name: str, *_: object) -> None:
        raise FrozenInstanceError(f"cannot change {name!r}")

    return {"__init__": init, "__repr__": show, "__eq__": equal, "__hash__": digest, "__setattr__": refuse,
            "__delattr__": refuse}  # fmt: skip


def _values(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _default(self: object, name: str, given: Field) -> Any:
    if given.default_factory is not MISSING:
        return given.default_factory()
    if given.default is MISSING:
        raise TypeError(f"{type(self).__name__} lacks the argument {name}")
    return given.default
