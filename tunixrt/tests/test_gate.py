"""Who computes, who waits, who sends, and whose the database connections are."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from runs import telemetry
from tunixrt.gate import TOO_MANY, Gate, Places


def start_response(*args: Any) -> None:
    return None


@pytest.fixture
def nothing_measured() -> None:
    """The end of an answer brings what earlier tests of this process measured into the database, which these tests have not."""
    telemetry._measured.clear()


class Visits:
    """Threads that come one after the other, two milliseconds apart, and stay for as long as they are told."""

    def __init__(self, places: Places, stays: list[float]):
        self.most = 0
        self.order: list[int] = []
        self._inside = 0
        self._lock = threading.Lock()
        threads = [threading.Thread(target=self._visit, args=(places, *visit)) for visit in enumerate(stays)]
        for thread in threads:
            thread.start()
            time.sleep(0.002)
        for thread in threads:
            thread.join()

    def _visit(self, places: Places, number: int, stay: float) -> None:
        with places:
            with self._lock:
                self._inside += 1
                self.most = max(self.most, self._inside)
                self.order.append(number)
            time.sleep(stay)
            with self._lock:
                self._inside -= 1


def test_the_quick_ones_go_one_at_a_time_first_come_first_served():
    visits = Visits(Places(2, patience=30), [0.01] * 10)

    assert visits.most == 1
    assert visits.order == sorted(visits.order)


def test_slow_ones_let_others_in_up_to_the_places():
    visits = Visits(Places(3, patience=0.01), [0.2] * 9)

    assert visits.most == 3
    assert visits.order == sorted(visits.order)


def test_a_slow_one_holds_nobody_up():
    let_go = threading.Event()
    places = Places(2, patience=0.01)

    def slow() -> None:
        with places:
            let_go.wait(30)

    thread = threading.Thread(target=slow)
    thread.start()
    quick = Visits(places, [0.001] * 20)
    let_go.set()
    thread.join()

    assert quick.order == list(range(20))
    assert quick.most == 1


def test_an_error_gives_the_place_back():
    def broken(environ: dict[str, Any], start: Callable[..., Any]) -> HttpResponseBase:
        raise RuntimeError("broken")

    gate = Gate(broken, 1, sending=1)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            gate({}, start_response)


@pytest.mark.usefixtures("nothing_measured")
def test_an_answer_is_one_list_and_closed():
    closed = []

    def django(environ: dict[str, Any], start: Callable[..., Any]) -> HttpResponseBase:
        response = HttpResponse(b"hello")
        response._resource_closers.append(lambda: closed.append(True))
        return response

    assert Gate(django, 1, sending=1)({}, start_response) == [b"hello"]
    assert closed == [True]


@pytest.mark.usefixtures("nothing_measured")
def test_what_is_sent_piece_by_piece_leaves_its_place():
    let_go = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"first"
        assert let_go.wait(10)
        yield b"second"

    def django(environ: dict[str, Any], start: Callable[..., Any]) -> HttpResponseBase:
        return StreamingHttpResponse(pieces()) if environ["stream"] else HttpResponse(b"quick")

    gate = Gate(django, 1, sending=1)
    slow = iter(gate({"stream": True}, start_response))
    assert next(slow) == b"first"
    assert gate({"stream": False}, start_response) == [b"quick"]
    let_go.set()
    assert list(slow) == [b"second"]


@pytest.mark.usefixtures("nothing_measured")
def test_slow_readers_do_not_take_every_thread():
    def django(environ: dict[str, Any], start: Callable[..., Any]) -> HttpResponseBase:
        return StreamingHttpResponse(iter([b"piece"])) if environ["stream"] else HttpResponse(b"quick")

    said: list[Any] = []
    gate = Gate(django, 1, sending=1)
    slow = gate({"stream": True}, start_response)

    assert gate({"stream": True}, lambda *line: said.append(line)) == [TOO_MANY]
    assert said[0][0] == "503 Service Unavailable"
    assert gate({"stream": False}, start_response) == [b"quick"]
    slow.close()
    slow.close()
    assert list(gate({"stream": True}, start_response)) == [b"piece"]


@pytest.mark.django_db(transaction=True)
def test_database_connections_belong_to_the_places():
    used = set()

    def django(environ: dict[str, Any], start: Callable[..., Any]) -> HttpResponseBase:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        used.add(id(connections["default"]))
        return HttpResponse(b"")

    gate = Gate(django, 2, sending=1)

    def visit(_: int) -> bool:
        gate({}, start_response)
        return any(connections.all(initialized_only=True))

    with ThreadPoolExecutor(12) as crowd:
        left_behind = list(crowd.map(visit, range(60)))

    assert not any(left_behind), "no thread keeps one"
    assert len(used) <= 2
    for each in gate._connections:
        each.close()
