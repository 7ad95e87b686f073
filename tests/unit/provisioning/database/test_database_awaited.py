"""What a coroutine is told of its work, and that works of a crowd share a commit while one alone does not wait."""

from __future__ import annotations

import asyncio
import threading

import pytest
from database_factory import Lab, log, put

from kokon.errors import DeniedError, HostError, MalformedError
from kokon.provisioning.database import Entry, Store, Work
from kokon.provisioning.database.awaited import Awaited, tell_all
from kokon.provisioning.database.values import StaleDecision


def test_a_coroutine_gets_what_a_thread_gets(lab: Lab) -> None:
    async def work(store: Store) -> None:
        receipts = await asyncio.gather(*(store.write(log(f"event-{number}")) for number in range(20)))
        assert sorted(receipt.first for receipt in receipts) == list(range(20))
        assert (await store.write(put("a"))).versions == (1,)
        with pytest.raises(DeniedError) as caught:
            await store.write(put("a", previous=7))
        assert caught.value.code == "changed-meanwhile"
        with pytest.raises(StaleDecision):
            await store.write(Work("default", (Entry("e", {}),), generation=99))
        with pytest.raises(MalformedError):
            store.write(Work("default", (Entry("e", {"time": 1}),)))

    with lab.open() as store:
        asyncio.run(work(store))
        assert store.frontier("default").size == 21


def test_a_closed_store_says_so(lab: Lab) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(HostError) as caught:
            await store.write(log())
        assert caught.value.code == "store-closed"

    store = lab.open()
    store.close()
    asyncio.run(work(store))


def test_what_was_given_up_before_its_batch_is_not_done(lab: Lab) -> None:
    begun, go = threading.Event(), threading.Event()

    async def work(store: Store) -> None:
        store._writer._task(lambda: begun.set() or go.wait(10))
        begun.wait(10)
        given_up, kept = store.write(log("given-up")), store.write(log("kept"))
        given_up.cancel()
        await asyncio.sleep(0)
        go.set()
        await kept

    with lab.open() as store:
        asyncio.run(work(store))
        assert b'"kept"' in store.entries("default", 0, 10)[0]
        assert store.frontier("default").size == 1


def test_nobody_is_told_when_the_loop_has_ended() -> None:
    async def make() -> Awaited:
        return Awaited()

    awaited = asyncio.run(make())
    tell_all([(awaited, HostError("store-failed", "too late"))])
    assert awaited.done()


def test_a_crowd_shares_commits_and_one_alone_waits_for_nobody(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        if threading.current_thread().name == "kokon-writer":
            pauses.append(seconds)

    monkeypatch.setattr("kokon.provisioning.database.writer.time.sleep", pause)
    sizes: list[int] = []
    with lab.open() as store:
        store.observe(lambda works, _seconds: sizes.append(works))
        for _ in range(3):
            store.commit(log())
        assert pauses == []
        begun, go = threading.Event(), threading.Event()
        store._writer._task(lambda: begun.set() or go.wait(10))
        begun.wait(10)
        crowd = [store.submit(log()) for _ in range(5)]
        go.set()
        for one in crowd:
            one.result(10)
        assert pauses == []
        store.commit(log())
        store.commit(log())
    assert sizes == [1, 1, 1, 5, 1, 1]
    assert len(pauses) == 1
