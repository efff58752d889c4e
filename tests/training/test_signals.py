"""How signals ask a run to stop. Real runs in processes of their own: tests/faults."""

import os
import signal
import threading
import time

import pytest

from dime.training.process import SIGNALS, Interruption, exit_code


def wait_for(condition):
    give_up = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def terminal():
    """SIGHUP as a terminal leaves it, also where these tests run under nohup."""
    old = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, old)


@pytest.fixture
def exits(monkeypatch):
    """The statuses that the process would have left with."""
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


@pytest.fixture
def told():
    """The numbers of the signals that the process left with."""
    return []


def test_exit_statuses():
    assert [exit_code(number) for number in SIGNALS] == [130, 75, 75, 75]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_signal_asks(number, exits, told):
    with Interruption(told.append) as interruption:
        assert interruption.requested is None
        os.kill(os.getpid(), number)
        wait_for(lambda: interruption.requested is not None)
    assert interruption.requested == number
    assert exits == told == []


def test_the_second_signal_leaves(exits, told):
    with Interruption(told.append) as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: interruption.requested is not None)
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: exits)
    assert (told, exits) == ([signal.SIGINT], [130])


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_while_leaving_the_first_signal_leaves(number, exits, told):
    with Interruption(told.append) as interruption:
        with interruption.leaving_at_once():
            os.kill(os.getpid(), number)
            wait_for(lambda: exits)
        assert (told, exits) == ([number], [exit_code(number)])


def test_asked_before_a_long_phase_leaves_at_its_start(exits, told):
    with Interruption(told.append) as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: interruption.requested is not None)
        with interruption.leaving_at_once():
            pass
    assert (told, exits) == ([signal.SIGTERM], [75])


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_that_closes_sends_more_than_one(first, exits, told):
    with Interruption(told.append) as interruption:
        os.kill(os.getpid(), first)
        wait_for(lambda: interruption.requested is not None)
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.05)
        assert (told, exits, interruption.requested) == ([], [], first)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: exits)
    assert (told, exits) == ([signal.SIGTERM], [75])


def test_under_nohup_a_run_outlives_its_terminal(exits, told):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption(told.append) as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda: interruption.requested is not None)
            assert (told, exits, interruption.requested) == ([], [], signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def heeded():
    """SIGINT as Python has it, also where this process was started in the background."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def test_handlers_are_put_back(heeded):
    before = [signal.getsignal(number) for number in SIGNALS]
    threads = threading.active_count()
    with Interruption(print):
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert threading.active_count() == threads
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)


def test_other_signals_are_left_alone(exits, told):
    heard = []
    old = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with Interruption(told.append) as interruption:
            os.kill(os.getpid(), signal.SIGUSR2)
            wait_for(lambda: heard)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda: interruption.requested is not None)
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert (interruption.requested, exits) == (signal.SIGTERM, [])


def test_in_another_thread_it_does_nothing(told):
    before = [signal.getsignal(number) for number in SIGNALS]
    inside = []

    def run():
        with Interruption(told.append) as interruption:
            inside.append([signal.getsignal(number) for number in SIGNALS])
            inside.append(interruption.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before, None]
