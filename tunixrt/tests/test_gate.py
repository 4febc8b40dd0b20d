"""Who computes, who waits, who sends, and whose the database connections are."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from runs import telemetry
from runs.tests.launching import PATIENCE, wait_for
from tunixrt.gate import TOO_MANY, Gate, Places


def start_response(*args: Any) -> None:
    return None


@pytest.fixture
def nothing_measured() -> None:
    """The end of an answer brings what earlier tests of this process measured into the database, which these tests have not."""
    telemetry._measured.clear()


class Visits:
    """Visitors of ``places``, each a thread. The next one comes when the one before it is inside or queues, and stays until it is
    told to leave: nothing depends on how fast a thread is."""

    def __init__(self, places: Places):
        self.places = places
        self.inside: list[int] = []
        self.order: list[int] = []
        self._leave: list[threading.Event] = []
        self._threads: list[threading.Thread] = []

    def come(self, *, queues: bool) -> None:
        """One more visitor, whose number is how many came before."""
        queued = len(self.places._waiting)
        number = len(self._threads)
        self._leave.append(threading.Event())
        self._threads.append(threading.Thread(target=self._visit, args=(number,), daemon=True))
        self._threads[number].start()
        if queues:
            wait_for(lambda: len(self.places._waiting) == queued + 1, f"visitor {number} in the queue")
        else:
            wait_for(lambda: number in self.order, f"visitor {number} inside")

    def _visit(self, number: int) -> None:
        with self.places:
            self.inside.append(number)
            self.order.append(number)
            assert self._leave[number].wait(PATIENCE)
            self.inside.remove(number)

    def leave(self, number: int) -> None:
        self._leave[number].set()
        self._threads[number].join()

    def are_inside(self, *numbers: int) -> bool:
        return sorted(self.inside) == sorted(numbers)


def test_the_quick_ones_go_one_at_a_time_first_come_first_served():
    visits = Visits(Places(2, patience=PATIENCE))
    visits.come(queues=False)
    for _ in range(9):
        visits.come(queues=True)

    for number in range(10):
        wait_for(lambda: visits.are_inside(number), f"visitor {number}, alone")  # noqa: B023
        visits.leave(number)

    assert visits.order == list(range(10))


def test_slow_ones_let_others_in_up_to_the_places():
    visits = Visits(Places(3, patience=0.001))
    for _ in range(3):
        visits.come(queues=False)  # the one before it has been inside for longer than the patience
    for _ in range(6):
        visits.come(queues=True)

    for number in range(9):
        inside = range(number, min(number + 3, 9))
        wait_for(lambda: visits.are_inside(*inside), f"visitors {list(inside)}")  # noqa: B023
        visits.leave(number)

    assert visits.order == list(range(9))


def test_a_slow_one_holds_nobody_up():
    visits = Visits(Places(2, patience=0.001))
    visits.come(queues=False)

    for number in range(1, 20):
        visits.come(queues=False)
        assert visits.are_inside(0, number)
        visits.leave(number)

    visits.leave(0)


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
