"""How much is let through: counted by hand, with a clock that the tests turn."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_jax.runtime.errors import UserError
from ser_jax.web import limits
from ser_jax.web.limits import Limits, Queue, Rate, Refusal


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refused(function, *arguments) -> Refusal:
    with pytest.raises(Refusal) as info:
        function(*arguments)
    return info.value


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_a_limit_that_lets_nothing_through_is_refused(value):
    sentence = f"--max_mb={value:g} lets nothing through; it must be above 0"
    with pytest.raises(UserError, match=sentence):
        Limits(max_mb=value)


def test_a_queue_holds_so_many_and_tells_how_long_they_take(clock):
    queue = Queue(2, clock)
    first, second = queue.place(), queue.place()
    first.__enter__()
    second.__enter__()
    full = refused(queue.place().__enter__)
    assert (full.status, full.retry_after, full.headers) == (429, 1, {"Retry-After": "1"})
    reason = "2 uploads are being worked on, as many as may be; try again in 1 s"
    assert full.body == {"reason": reason}
    clock.now += 21
    # The mean was 1 s; a fifth of 21 s and four fifths of 1 s are 5 s.
    first.__exit__(None, None, None)
    assert queue.count == 1
    with queue.place():
        assert refused(queue.place().__enter__).retry_after == 5
    second.__exit__(None, None, None)
    assert queue.count == 0


def test_a_place_is_free_again_after_an_error(clock):
    queue = Queue(1, clock)
    for _ in range(3):
        with pytest.raises(KeyError), queue.place():
            raise KeyError
    assert queue.count == 0


def test_a_client_may_have_so_many_at_once():
    uploads = limits.PerClient(1, "upload")
    with uploads.place("a"), uploads.place("b"):
        reason = refused(uploads.place("a").__enter__).reason
        assert reason.startswith("one client may have 1 upload at once; try again when one has")
    with pytest.raises(KeyError), uploads.place("a"):
        raise KeyError
    with uploads.place("a"):
        pass
    assert not uploads._counts


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002"),
        ("2001:db8:1:2::1", "20010db800010002"),
        ("fe80::1%eth0", "fe80000000000000"),
        ("", ""),
    ],
)
def test_who_is_one_client(host, client):
    assert limits.client_of((host, 1234)) == client and limits.client_of(None) == ""


def test_a_client_may_come_so_often_in_a_minute(clock):
    rate = Rate(3, clock)
    for _ in range(3):
        rate.count("a")
    full = refused(rate.count, "a")
    assert full.status == 429 and full.retry_after == 20  # three in 60 s
    assert full.reason == "one client may ask 3 times in a minute; try again in 20 s"
    rate.count("b")
    clock.now += 19
    assert refused(rate.count, "a").retry_after == 1
    clock.now += 1
    rate.count("a")
    assert refused(rate.count, "a").retry_after == 20


@settings(deadline=None)
@given(st.integers(1, 20), st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_never_more_than_twice_the_rate_in_any_minute(most, pauses):
    clock = Clock()
    rate, passed = Rate(most, clock), []
    for pause in pauses:
        clock.now += pause
        try:
            rate.count("a")
        except Refusal as error:
            assert error.retry_after is not None and error.retry_after >= 1
        else:
            passed.append(clock.now)
    for begin in passed:
        assert sum(begin <= time < begin + 60 for time in passed) <= 2 * most


def test_clients_are_forgotten_when_there_are_too_many(clock, monkeypatch):
    monkeypatch.setattr(limits, "_MOST_CLIENTS", 2)
    rate = Rate(1, clock)
    for client in "abc":
        rate.count(client)
    assert refused(rate.count, "c").status == 429
    rate.count("a")
    assert len(rate._paid) == 2
