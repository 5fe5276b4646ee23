"""Our client for asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest

import strongroom
from strongroom import aio


def run(main):
    return asyncio.run(main())


async def held(idp, requests=1):
    await asyncio.get_running_loop().run_in_executor(None, idp.wait_until_held, requests)


def test_results_are_those_of_the_blocking_form(idp):
    async def main():
        async with idp.client(module=aio) as app:
            return [await app.acquire_token_for_client([idp.scope]) for _ in range(2)]

    asked, cached = run(main)
    blocking = idp.client()
    for mine, other in ((asked, blocking.acquire_token_for_client([idp.scope])), (cached, blocking.acquire_token_for_client([idp.scope]))):
        assert mine.keys() == other.keys() and mine["token_source"] == other["token_source"]


def test_a_hit_does_not_suspend(idp):
    async def main():
        app = idp.client(module=aio)
        await app.acquire_token_for_client([idp.scope])
        for coroutine in (app.acquire_token_for_client([idp.scope]), app.acquire_token_silent([idp.scope], None)):
            with pytest.raises(StopIteration) as done:
                coroutine.send(None)
            assert done.value.value["token_source"] == "cache"

    run(main)


def test_one_client_serves_one_loop_after_another_and_several_at_once(idp):
    app = idp.client(module=aio)

    async def ask():
        return (await app.acquire_token_for_client([idp.scope]))["access_token"]

    assert run(ask) == run(ask)
    run(app.remove_tokens_for_client)
    idp.reset()
    idp.fail(hold=True)
    tokens = []
    threads = [threading.Thread(target=lambda: tokens.append(run(ask))) for _ in range(4)]
    for thread in threads:
        thread.start()
    idp.wait_until_held()
    idp.mend()
    for thread in threads:
        thread.join()
    assert len(tokens) == 4 and len(set(tokens)) == 1 and idp.requests() == 1


def test_many_tasks_that_want_one_token_make_one_request_and_start_no_threads(idp):
    async def main():
        app = idp.client(module=aio)
        idp.fail(hold=True)
        tasks = [asyncio.ensure_future(app.acquire_token_for_client([idp.scope])) for _ in range(100)]
        before = threading.active_count()
        await held(idp)
        threads = threading.active_count() - before
        idp.mend()
        return {answer["access_token"] for answer in await asyncio.gather(*tasks)}, threads

    tokens, threads = run(main)
    assert len(tokens) == 1 and idp.requests() == 1 and threads <= 1, "the one that waits for the provider's fault"


def test_the_loop_runs_while_a_token_is_waited_for(idp):
    async def main():
        app = idp.client(module=aio)
        idp.fail(hold=True)
        task = asyncio.ensure_future(app.acquire_token_for_client([idp.scope]))
        await held(idp)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        idp.mend()
        return await task

    assert run(main)["token_source"] == "identity_provider"


def test_a_task_that_is_cancelled_gives_up_for_itself_alone(idp):
    async def main():
        app = idp.client(module=aio)
        idp.fail(hold=True)
        first, second = (asyncio.ensure_future(app.acquire_token_for_client([idp.scope])) for _ in range(2))
        await held(idp)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not second.done()
        idp.mend()
        return await second

    assert run(main)["token_source"] == "identity_provider"


def test_a_timeout_of_asyncio_is_one(idp):
    async def main():
        app = idp.client(module=aio)
        idp.fail(hold=True)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(app.acquire_token_for_client([idp.scope]), 0.05)
        idp.mend()
        return await app.acquire_token_for_client([idp.scope])

    assert "access_token" in run(main)


def test_a_loop_that_ends_while_a_token_is_waited_for_disturbs_nobody(idp):
    app = idp.client(module=aio)
    idp.fail(hold=True)

    async def abandon():
        asyncio.ensure_future(app.acquire_token_for_client([idp.scope]))
        await held(idp)

    run(abandon)
    idp.mend()
    assert "access_token" in run(lambda: app.acquire_token_for_client([idp.scope]))


def test_errors_are_those_of_the_blocking_form(idp):
    async def main():
        wrong = idp.client(module=aio, client_credential="not the secret")
        assert (await wrong.acquire_token_for_client([idp.scope]))["error"] == "invalid_client"
        app = idp.client(module=aio)
        with pytest.raises(AssertionError):
            await app.acquire_token_for_client(idp.scope)
        idp.fail(status=503, headers={"Retry-After": "60"}, count=1)
        with pytest.raises(strongroom.MsalServiceError, match="503"):
            await app.acquire_token_for_client([idp.scope])

    run(main)


def test_every_other_method_has_its_coroutine(idp, location):
    async def main():
        async with idp.client(strongroom.FilePersistence(location), module=aio) as app:
            assert await app.acquire_token_silent([idp.scope], None) is None
            assert await app.acquire_token_silent_with_error([idp.scope], None) is None
            token = await app.acquire_token_for_client([idp.scope])
            assert (await app.acquire_token_silent([idp.scope], None))["access_token"] == token["access_token"]
            assert await app.get_accounts() == []
            nobody = {"home_account_id": "a.b", "environment": "localhost"}
            assert await app.acquire_token_silent([idp.scope], nobody) is None
            await app.remove_account(nobody)
            await app.remove_tokens_for_client()
            assert await app.acquire_token_silent([idp.scope], None) is None

    run(main)


def test_an_http_client_of_python_does_not_hold_the_loop_up(idp):
    import time

    ticks = []

    class Slow:
        def post(self, url, **kwargs):
            while len(ticks) < 20:
                time.sleep(0.001)
            return type("Answer", (), {"status_code": 200, "text": '{"access_token":"t","expires_in":3600}', "headers": {}})

        def get(self, url, **kwargs):
            raise OSError

    async def main():
        app = aio.ConfidentialClientApplication(
            "c", "s", "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47", http_client=Slow()
        )
        task = asyncio.ensure_future(app.acquire_token_for_client(["s/.default"]))
        while not task.done():
            ticks.append(await asyncio.sleep(0))
        return task.result()

    assert run(main)["access_token"] == "t"
