"""Work over many cases."""

import os
import zlib

import pytest

from sam_lora.data.work import do_all, run_jobs


def halve(number):
    if number % 2:
        raise ValueError(f"{number} is odd.")
    if number == 8:
        raise MemoryError("Unable to allocate")
    if number == 10:
        raise zlib.error("invalid block type")
    return number // 2


def test_results_keep_their_order_and_an_error_takes_the_place_of_one():
    found = do_all([4, 3, 8, 10, 6], halve, 1)
    assert [str(one) for one in found] == ["2", "3 is odd.", "Unable to allocate", "error: invalid block type", "3"]


def test_what_failed_is_listed_and_leftovers_of_a_killed_run_go(tmp_path):
    (tmp_path / ".4.npz.123.part").touch()
    (tmp_path / "failures.json").touch()
    assert run_jobs([4, 6], halve, str, tmp_path, 1) == ({"4": 2, "6": 3}, None)
    assert list(tmp_path.iterdir()) == []
    done, failure = run_jobs([4, 3, 5], halve, str, tmp_path, 1)
    assert done == {"4": 2}
    assert failure == f"2 of 3 cases failed, listed in {tmp_path / 'failures.json'}; the first: 3: 3 is odd."


@pytest.mark.parametrize("processes", [0, -1, "two", 1.5])
def test_an_impossible_number_of_processes_is_refused(processes):
    with pytest.raises(ValueError, match="processes must be a whole number above 0, got"):
        do_all([1], halve, processes)


@pytest.mark.accept
def test_a_process_that_is_ended_from_outside_is_told_in_a_sentence():
    with pytest.raises(ValueError, match="A process was ended while it worked, .* fewer --processes"):
        do_all([1, 1], os._exit, 2)
