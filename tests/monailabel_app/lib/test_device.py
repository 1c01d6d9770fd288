"""Who gets the device, and when."""

import threading
import time

import pytest

from monailabel_app.lib.device import BusyError, Device


def start(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def waiting(device, count):
    while len(device._requests) + len(device._background) < count:
        time.sleep(0.001)


def test_requests_come_in_their_order_and_before_background_work():
    device, order = Device("cpu"), []

    def work(name, background=False):
        with device.hold(background):
            order.append(name)

    with device.hold():
        threads = []
        for place, (name, background) in enumerate((("ahead", True), ("first", False), ("second", False)), 1):
            threads.append(start(lambda name=name, background=background: work(name, background)))
            waiting(device, place)
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "ahead"]


def test_long_work_gives_way_to_a_request_and_goes_on():
    device, order = Device("cpu"), []

    def click():
        with device.hold():
            order.append("click")

    with device.hold():
        device.give_way()  # nobody waits: nothing happens
        order.append("slice 0")
        thread = start(click)
        waiting(device, 1)
        device.give_way()
        order.append("slice 1")
    thread.join()
    assert order == ["slice 0", "click", "slice 1"]


def test_who_waits_too_long_is_told_so_and_leaves_the_queue():
    device = Device("cuda:1")
    with (
        device.hold(),
        pytest.raises(BusyError, match=r"The device cuda:1 was busy for 0\.05 seconds: try again in a while\."),
    ):
        raise_in_thread(lambda: device.hold(timeout=0.05).__enter__())
    with device.hold(timeout=0.05):
        pass


def raise_in_thread(work):
    raised = []

    def run():
        try:
            work()
        except BusyError as error:
            raised.append(error)

    start(run).join()
    raise raised[0]


def test_an_error_releases_the_device():
    device = Device("cpu")
    with pytest.raises(ZeroDivisionError), device.hold():
        raise ZeroDivisionError
    with device.hold(timeout=0.05):
        pass
