"""Cases of the session: the cookie, and what becomes of handshakes without a good one."""

from __future__ import annotations

from typing import Final

from kokon.conformance.case import Cases, Level, Notes, Violation
from kokon.conformance.messages import COOKIE
from kokon.conformance.world import DEFAULT_LIFETIME, KBS, World, lifetime

CASES: Final = Cases()
COOKIE_LIMIT: Final = 4096
"""What clients must be able to keep of one cookie, RFC 6265 section 6.1."""
_OCTETS: Final = frozenset("!#$%&'()*+-./:<=>?@[]^_`{|}~") | frozenset(
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)


def _attributes(world: World) -> tuple[str, dict[str, str], list[str]]:
    """The cookie's text, its attributes by lower-case names, and all that /auth set."""
    texts = world.auth().answer.all("set-cookie")
    ours = [text for text in texts if text.strip().startswith(f"{COOKIE}=")]
    pairs = (part.partition("=") for part in ours[0].split(";")[1:])
    return ours[0].split(";")[0], {name.strip().lower(): value.strip() for name, _, value in pairs}, ours


@CASES.add("cookie-form", Level.MUST, "Challenge", f"/auth sets one cookie {COOKIE} that clients can keep and send")
def cookie_form(world: World, notes: Notes) -> None:
    text, _, ours = _attributes(world)
    value = text.partition("=")[2].strip()
    if len(ours) != 1:
        raise Violation(f"{len(ours)} cookies of that name")
    if len(text) > COOKIE_LIMIT:
        raise Violation(f"{len(text)} characters, more than {COOKIE_LIMIT}")
    if not set(value) <= _OCTETS:
        raise Violation("characters that RFC 6265 does not allow")
    notes.say(f"{len(value)} characters")


@CASES.add("cookie-scope", Level.MUST, "RFC 6265 5.1", "the cookie is good for /attest and /resource, and is not over")
def cookie_scope(world: World, notes: Notes) -> None:
    text, attributes, ours = _attributes(world)
    path = attributes.get("path", "")
    needed = world.client.target.prefix + KBS
    if path and path != "/" and not f"{needed}/".startswith(path.rstrip("/") + "/"):
        raise Violation(f"path {path[:60]!r} does not cover {needed}")
    domain = attributes.get("domain", "").lstrip(".").lower()
    host = world.client.target.host.lower()
    if domain and host != domain and not host.endswith("." + domain):
        raise Violation(f"domain {domain[:60]!r} is not that of {host}")
    lasts = lifetime(ours[0].split(";")[1:], world.now())
    if lasts.total_seconds() <= 0:
        raise Violation("it is over already")
    notes.say(f"path {path or '(default)'}, {lasts.total_seconds():.0f} s" if lasts != DEFAULT_LIFETIME else "300 s")
    del text


@CASES.add("cookie-attributes", Level.SHOULD, "RFC 6265 8.3", "the cookie is HttpOnly, SameSite and, under TLS, Secure")
def cookie_attributes(world: World, notes: Notes) -> None:
    _, attributes, _ = _attributes(world)
    wanted = ["httponly", "samesite"] + (["secure"] if world.client.target.scheme == "https" else [])
    missing = [name for name in wanted if name not in attributes]
    if missing:
        raise Violation(f"without {', '.join(missing)}")
    notes.say(", ".join(wanted))


@CASES.add("attest-no-cookie", Level.MUST, "Attestation", "/attest without a cookie is refused, best with 401")
def no_cookie(world: World, notes: Notes) -> None:
    key = world.attested().key
    session = world.auth()
    notes.refused(world.post("/attest", world.message(session, key)), "no cookie", 401)


@CASES.add("attest-garbage-cookie", Level.MUST, "Attestation", "/attest with a made-up cookie is refused")
def garbage_cookie(world: World, notes: Notes) -> None:
    key = world.attested().key
    session = world.auth()
    message = world.message(session, key)
    for value in ("", "x", "0" * 32, "A" * 3000, "../../etc/passwd", session.cookie + "x", session.nonce):
        notes.refused(world.attest(session, message, value), f"cookie {value[:8]!r}", 401, 400)


@CASES.add("attest-altered-cookie", Level.MUST, "Attestation", "/attest with an altered cookie is refused")
def altered_cookie(world: World, notes: Notes) -> None:
    key = world.attested().key
    session = world.auth()
    message = world.message(session, key)
    size = len(session.cookie)
    for place in sorted({0, size // 4, size // 2, 3 * size // 4}):
        other = "a" if session.cookie[place] != "a" else "b"
        cookie = session.cookie[:place] + other + session.cookie[place + 1 :]
        world.secret(cookie)
        notes.refused(world.attest(session, message, cookie), f"character {place} altered", 401, 400)


@CASES.add(
    "attest-foreign-cookie", Level.MUST, "Attestation", "an Attestation under another handshake's cookie is refused"
)
def foreign_cookie(world: World, notes: Notes) -> None:
    key = world.attested().key
    mine, other = world.auth(), world.auth()
    notes.refused(world.attest(mine, world.message(mine, key), other.cookie), "another handshake's cookie")


@CASES.add(
    "attest-sets-cookie", Level.SHOULD, "Attestation", "/attest sends the cookie again, for clients that need it"
)
def sets_cookie(world: World, notes: Notes) -> None:
    answer = world.attested().answer
    if not any(text.strip().startswith(f"{COOKIE}=") for text in answer.all("set-cookie")):
        raise Violation("no cookie")
    notes.say("sent")
