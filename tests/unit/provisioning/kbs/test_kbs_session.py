"""Sessions in cookies: nobody but the server makes, changes, prolongs or moves one."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import DeniedError, HostError, InternalError, KokonError, UsageError
from kokon.provisioning.kbs.messages import Request, new_nonce
from kokon.provisioning.kbs.session import (
    LIFETIME,
    LONGEST,
    PLAIN_LIMIT,
    Session,
    SessionSealer,
    cookie_text,
    new_session,
    read_cookie,
    set_cookie,
)
from kokon.provisioning.kbs.spent import SpentNonces
from kokon.wire import b64url

NOW = datetime(2026, 11, 27, 12, 30, 0, 123456, tzinfo=UTC)
KEY = bytes(range(32))
NONCE = new_nonce(lambda size: bytes(range(size)))
SEALER = SessionSealer(KEY, os.urandom)
TOKEN = ".".join(b64url(part) for part in (b'{"alg":"ES256"}', b'{"claims":"' + bytes(500) + b'"}', os.urandom(64)))
SESSION = new_session("default", Request("0.4.0", "snp"), NONCE, NOW)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


def refused(value: str | None, project: str = "default", now: datetime = NOW, sealer: SessionSealer = SEALER) -> str:
    with pytest.raises(DeniedError) as caught:
        sealer.open(value, project, now)
    return caught.value.code


def test_a_session_comes_back_as_it_was() -> None:
    assert SEALER.open(SEALER.seal(SESSION), "default", NOW) == SESSION
    assert SESSION.expires == NOW.replace(microsecond=0) + LIFETIME
    assert SESSION.stage == "challenge"
    attested = replace(SESSION, token=TOKEN, expires=SESSION.expires + timedelta(minutes=25))
    assert attested.stage == "attested"
    assert SEALER.open(SEALER.seal(attested), "default", NOW) == attested


@given(st.builds(Session, TEXTS, TEXTS, TEXTS, st.just(NONCE), st.just(SESSION.expires), st.none() | TEXTS))
@settings(max_examples=50)
def test_every_session_comes_back(session: Session) -> None:
    assert SEALER.open(SEALER.seal(session), session.project, NOW) == session


def test_cookies_are_small_and_differ() -> None:
    assert len(SEALER.seal(SESSION)) <= 128
    assert SEALER.seal(SESSION) != SEALER.seal(SESSION)
    assert len(SEALER.seal(replace(SESSION, token=TOKEN))) < len(TOKEN) + len(SEALER.seal(SESSION)) + 16


@pytest.mark.parametrize("more", [0, 1])
def test_the_cookie_of_a_compact_token_is_for_every_client(more: int) -> None:
    """Longer payloads are compressed: these are text of which a third is saved."""
    header, payload = f'{{"alg":"ES256","kid":"{"k" * 43}","typ":"JWT"}}'.encode(), os.urandom(PLAIN_LIMIT).hex()
    token = ".".join(b64url(part) for part in (header, payload[: PLAIN_LIMIT + more].encode(), os.urandom(64)))
    session = replace(SESSION, token=token)
    sealed = SEALER.seal(session)
    assert len(sealed) <= (2800 if more else 4096)
    assert SEALER.open(sealed, session.project, NOW) == session


def test_another_replica_with_the_key_goes_on() -> None:
    assert SessionSealer(KEY, os.urandom).open(SEALER.seal(SESSION), "default", NOW) == SESSION


def test_rotation_of_the_key() -> None:
    rotated = SessionSealer(bytes(32), os.urandom, older=(KEY,))
    assert rotated.open(SEALER.seal(SESSION), "default", NOW) == SESSION
    assert refused(rotated.seal(SESSION)) == "session-unknown"
    assert refused(SEALER.seal(SESSION), sealer=SessionSealer(bytes(32), os.urandom)) == "session-unknown"


@pytest.mark.parametrize("value", [None, "", "a", "AAAA", "=", "\u00e9", "A" * 40, "A" * 100_000, b64url(bytes(200))])
def test_what_is_no_session(value: str | None) -> None:
    assert refused(value) == "session-unknown"


def test_every_flipped_bit_is_found() -> None:
    """A mutation sweep: format, hour, IV, content, tag."""
    from kokon.wire import unb64url

    sealed = unb64url(SEALER.seal(SESSION), what="it")
    for place in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[place // 8] ^= 1 << place % 8
        assert refused(b64url(bytes(damaged))) == "session-unknown"
    for damaged in (sealed[:-1], sealed + b"\0", sealed[:5], sealed[:33]):
        assert refused(b64url(damaged)) == "session-unknown"


def test_sessions_end_and_begin_in_time() -> None:
    value = SEALER.seal(SESSION)
    last = SESSION.expires - timedelta(microseconds=1)
    assert SEALER.open(value, "default", last) == SESSION
    assert refused(value, now=SESSION.expires) == "session-unknown"
    assert refused(value, now=SESSION.expires + timedelta(days=365)) == "session-unknown"
    assert refused(value, now=NOW - LONGEST - timedelta(hours=2)) == "session-unknown"


def test_across_the_hour() -> None:
    for minute in range(60):
        now = NOW + timedelta(minutes=minute)
        session = new_session("default", Request("0.4.0", "snp"), NONCE, now)
        assert SEALER.open(SEALER.seal(session), "default", session.expires - timedelta(seconds=1)) == session


def test_a_session_of_another_project_is_none() -> None:
    assert refused(SEALER.seal(SESSION), project="other") == "session-unknown"
    assert refused(SEALER.seal(SESSION), project="") == "session-unknown"


def test_keys_of_a_wrong_size() -> None:
    for key, older in ((b"short", ()), (KEY, (b"short",))):
        with pytest.raises(InternalError) as caught:
            SessionSealer(key, os.urandom, older)
        assert caught.value.code == "session-key-size"


def test_a_token_that_no_cookie_holds() -> None:
    token = ".".join(b64url(part) for part in (b"{}", os.urandom(16 << 10), bytes(64)))
    with pytest.raises(UsageError) as caught:
        SEALER.seal(replace(SESSION, token=token))
    assert caught.value.code == "session-too-large"


def test_nothing_secret_shows() -> None:
    assert TOKEN not in repr(replace(SESSION, token=TOKEN))
    assert repr(SEALER) == "SessionSealer(1 keys)"


def test_the_cookie_header() -> None:
    value = SEALER.seal(SESSION)
    assert cookie_text("abc") == "kbs-session-id=abc"
    assert set_cookie("abc", "/p/x/kbs/v0") == (
        "kbs-session-id=abc; Path=/p/x/kbs/v0; HttpOnly; Secure; SameSite=Strict"
    )
    assert read_cookie(cookie_text(value)) == value
    assert read_cookie(f"a=b;  {cookie_text(value)} ; kbs-session-id=other") == value
    for header in (None, "", "a=b", "kbs-session-id", "xkbs-session-id=a", "KBS-SESSION-ID=a"):
        assert read_cookie(header) is None


# -- nonces --------------------------------------------------------------------------------------------------------


def spend(spent: SpentNonces, nonce: str, now: datetime = NOW, expires: datetime = SESSION.expires) -> str | None:
    try:
        spent.spend(nonce, expires, now)
    except KokonError as error:
        return error.code
    return None


def test_a_nonce_is_good_once() -> None:
    spent = SpentNonces()
    assert spend(spent, NONCE) is None
    assert spend(spent, NONCE) == "nonce-used"
    assert spend(spent, new_nonce(os.urandom)) is None
    assert spend(spent, NONCE, SESSION.expires - timedelta(seconds=1)) == "nonce-used"
    assert len(spent) == 2


def test_of_many_at_once_one_goes_on() -> None:
    spent = SpentNonces()
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: spend(spent, NONCE), range(64)))
    assert sorted(map(str, outcomes)) == ["None"] + ["nonce-used"] * 63


def test_memory_is_bounded_and_given_back() -> None:
    spent = SpentNonces(limit=10)
    nonces = [new_nonce(os.urandom) for _ in range(11)]
    assert [spend(spent, nonce) for nonce in nonces[:10]] == [None] * 10
    with pytest.raises(HostError) as caught:
        spent.spend(nonces[10], SESSION.expires, NOW)
    assert caught.value.code == "nonces-exhausted"
    assert spend(spent, nonces[0]) == "nonce-used"
    later = SESSION.expires + timedelta(seconds=30)
    assert spend(spent, nonces[10], later, later + LIFETIME) is None
    assert len(spent) == 1
