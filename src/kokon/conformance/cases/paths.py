"""Cases of paths and methods: what is no resource's name, and what is not there at all."""

from __future__ import annotations

from typing import Final

from kokon.conformance.case import Cases, Level, Notes
from kokon.conformance.connection import Broken
from kokon.conformance.world import KBS, World

CASES: Final = Cases()
LONG: Final = 10_000


def _refused(world: World, notes: Notes, paths: list[str], *best: int) -> None:
    cookie = world.attested().session.cookie
    for path in paths:
        notes.refused(world.get(path, cookie=cookie), path[:40].replace(world.mark, "…"), *best)


@CASES.add(
    "path-segments", Level.MUST, "Get Resource", "names of two or four segments, or with empty ones, are refused"
)
def segments(world: World, notes: Notes) -> None:
    path = world.readable().path
    repository, kind, tag = path.split("/")
    _refused(world, notes, [f"{repository}/{kind}", f"{path}/more", f"{repository}//{tag}", "", repository])


@CASES.add("path-slashes", Level.SHOULD, "Get Resource", "a slash too many, before or after a name, is refused")
def slashes(world: World, notes: Notes) -> None:
    path = world.readable().path
    _refused(world, notes, [f"{path}/", f"/{path}"])


@CASES.add("path-dots", Level.MUST, "Get Resource", "dot segments are refused, plain and escaped, and lead nowhere")
def dots(world: World, notes: Notes) -> None:
    path = world.readable().path
    repository, kind, tag = path.split("/")
    odd = [f"x/../{path}", f"./{path}", f"{repository}/x/../{kind}/{tag}", f"x/%2e%2e/{path}"]
    odd += [f"{repository}/../{kind}", f"{repository}/{kind}/..", f"{repository}/{kind}/.{tag}"]
    odd += ["../../../etc/passwd", "..%2f..%2fetc/passwd/x"]
    _refused(world, notes, odd)


@CASES.add("path-encoded-slash", Level.SHOULD, "RFC 3986 2.2", "an escaped slash does not separate segments")
def encoded_slash(world: World, notes: Notes) -> None:
    path = world.readable().path
    repository, kind, tag = path.split("/")
    _refused(world, notes, [path.replace("/", "%2F"), f"{repository}%2f{kind}/{tag}", f"x/{repository}%2F{kind}/{tag}"])


@CASES.add(
    "path-octets", Level.MUST, "RFC 3986 2.1", "NUL, spaces, percent signs and bytes that are no UTF-8 are refused"
)
def octets(world: World, notes: Notes) -> None:
    path = world.readable().path
    odd = [
        f"{path}%00",
        f"{path}%20",
        f"{path}%0a",
        f"{path}%ff",
        f"{path}%",
        f"{path}%zz",
        f"{path}%E2%80%AE",
        "a/b/%c3%28",
    ]
    _refused(world, notes, odd)


@CASES.add("path-long", Level.MUST, "Get Resource", "a name of 10 kB is refused and breaks nothing")
def long(world: World, notes: Notes) -> None:
    world.readable()
    try:
        _refused(world, notes, [f"a/b/{'x' * LONG}", "a/" * (LONG // 2)])
    except Broken as error:
        notes.tolerate(f"the connection was cut without an answer ({error})")
    world.auth()


@CASES.add("path-unknown", Level.MUST, "HTTP Integration", "a plugin that does not exist is refused, best with 404")
def unknown(world: World, notes: Notes) -> None:
    cookie = world.attested().session.cookie
    for path in ("/no-such-plugin/a/b/c", "/", "", "/attest/more"):
        notes.refused(world.call("GET", KBS + path, cookie=cookie), path or "(nothing)", 404, 405)


@CASES.add(
    "method-unknown", Level.MUST, "HTTP Integration", "other methods than the protocol's are refused, best with 405"
)
def methods(world: World, notes: Notes) -> None:
    world.auth()
    for method, path in (("GET", "/auth"), ("PUT", "/auth"), ("DELETE", "/attest"), ("GET", "/attest"),
                         ("PATCH", "/resource/a/b/c"), ("BREW", "/auth")):  # fmt: skip
        answer = world.call(method, KBS + path, body=b"{}" if method != "GET" else None)
        if method == "BREW" and answer.status == 501:
            notes.say("501")
            continue
        notes.refused(answer, f"{method} {path}", 405, 404, 400)
