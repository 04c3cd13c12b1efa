import asyncio

import pytest

from infra.gateway.admission import ARRIVAL, Admission
from infra.gateway.errors import BusyError


def bounds(**changes):
    return Admission(**({"num_threads": 2, "max_queue": 3, "max_uploads": 2, "deadline_s": 30.0} | changes))


def retry_after(error):
    return int(dict(error.headers)[b"retry-after"])


def arrivals(admission, number):
    return [{ARRIVAL: admission.arrive()} for _ in range(number)]


def test_begin_refuses_the_requests_that_find_too_many_before_them():
    admission = bounds()
    refused = []
    for scope in arrivals(admission, 5):
        try:
            admission.begin(scope)
        except BusyError as error:
            refused.append((error.status, retry_after(error)))
    assert refused == [(429, 1), (429, 1)]
    for _ in range(5):
        admission.leave_queue()
    assert admission.begin(arrivals(admission, 1)[0]) < 1.0


def test_begin_refuses_when_those_before_take_longer_than_the_deadline():
    admission = bounds(max_queue=1000, deadline_s=10.0)
    for _ in range(200):
        admission.observe(2.0)
    first, *_, last = arrivals(admission, 8)
    admission.begin(first)
    with pytest.raises(BusyError) as refusal:
        admission.begin(last)
    assert refusal.value.status == 429
    assert retry_after(refusal.value) == 14  # seven before it, two seconds each


def test_begin_refuses_a_request_that_waited_too_long_and_any_when_closed():
    admission = bounds(deadline_s=1e-9)
    with pytest.raises(BusyError) as overdue:
        admission.begin(arrivals(admission, 1)[0])
    admission.closed = True
    with pytest.raises(BusyError) as ending:
        admission.begin({})
    assert (overdue.value.status, ending.value.status) == (503, 503)


async def held(admission, release, log, name, waited_s=0.0):
    try:
        async with admission.thread(waited_s):
            log.append(name)
            await release.wait()
    except BusyError as error:
        log.append((name, error.status))


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_thread_lets_as_many_work_as_there_are_threads_and_the_others_in_their_order():
    admission, log = bounds(), []
    releases = [asyncio.Event() for _ in range(6)]
    tasks = [asyncio.create_task(held(admission, releases[n], log, n)) for n in range(6)]
    await settle()
    assert log == [0, 1, (5, 429)]  # two at work, three wait, one is too many
    releases[1].set()
    await settle()
    assert log[3:] == [2]
    for release in releases:
        release.set()
    await asyncio.gather(*tasks)
    assert log[4:] == [3, 4]
    log.clear()
    await asyncio.gather(*(held(admission, releases[0], log, n) for n in range(2)))
    assert log == [0, 1]


async def test_thread_gives_up_a_place_when_the_wait_is_too_long_or_cancelled():
    admission, log = bounds(num_threads=1, deadline_s=0.05), []
    never, release = asyncio.Event(), asyncio.Event()
    worker = asyncio.create_task(held(admission, release, log, "first"))
    await settle()
    leaver = asyncio.create_task(held(admission, never, log, "leaver"))
    await settle()
    leaver.cancel()
    await held(admission, never, log, "late")
    assert log == ["first", ("late", 503)]
    release.set()
    await worker
    await held(admission, release, log, "next")
    assert log[-1] == "next"


async def test_thread_is_not_lost_when_its_turn_and_a_cancellation_come_together():
    admission, log = bounds(num_threads=1), []
    release = asyncio.Event()
    worker = asyncio.create_task(held(admission, release, log, "first"))
    await settle()
    waiting = asyncio.create_task(held(admission, release, log, "second"))
    await settle()
    release.set()
    await worker  # gives its place to the second, which has not yet run
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await held(admission, release, log, "third")
    assert log[-1] == "third"


async def test_thread_refuses_at_once_what_would_not_be_reached_in_time():
    admission, log = bounds(num_threads=1, deadline_s=1.0), []
    admission._long_s = 20.0
    release = asyncio.Event()
    worker = asyncio.create_task(held(admission, release, log, "first"))
    await settle()
    with pytest.raises(BusyError) as refusal:
        async with admission.thread(0.0):
            pass
    assert (refusal.value.status, retry_after(refusal.value)) == (429, 20)
    release.set()
    await worker


def test_upload_bounds_the_bodies_that_are_still_coming():
    admission = bounds()
    with admission.upload(), admission.upload():
        with pytest.raises(BusyError) as refusal, admission.upload():
            pass
        assert refusal.value.status == 429
    with admission.upload():
        pass
