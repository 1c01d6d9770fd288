"""The cache under threads: one computation per key, a bound in bytes, results that are the right ones."""

import threading
import time

import pytest
import torch

from sam_lora.cache import TensorCache, size_of


def value(n, count=256):
    return (torch.full((count,), float(n)),)


def test_the_least_recently_used_goes_first_and_bytes_stay_bounded():
    cache = TensorCache(2 * size_of(value(0)))
    for n in (0, 1):
        cache.get(n, lambda n=n: value(n))
    cache.get(0, lambda: pytest.fail("0 is there"))
    cache.get(2, lambda: value(2))
    assert 0 in cache
    assert 1 not in cache
    assert cache.statistics.bytes == 2 * size_of(value(0))
    assert (cache.statistics.hits, cache.statistics.misses) == (1, 3)
    cache.clear()
    assert cache.statistics.bytes == 0
    assert 0 not in cache


def test_what_is_larger_than_the_cache_is_handed_out_and_not_kept():
    cache = TensorCache(10)
    assert torch.equal(cache.get("a", lambda: value(1))[0], value(1)[0])
    assert "a" not in cache
    assert cache.statistics.bytes == 0


def test_several_keys_are_made_in_one_call_and_come_back_in_order():
    cache, calls = TensorCache(1 << 20), []

    def make(missing):
        calls.append(list(missing))
        return [value(10 + n) for n in missing]

    assert [v[0][0].item() for v in cache.get_many("abc", make)] == [10, 11, 12]
    assert [v[0][0].item() for v in cache.get_many("cdaad", make)] == [12, 11, 10, 10, 11]
    assert calls == [[0, 1, 2], [1]]


def test_sixteen_threads_compute_each_key_once_and_hold_the_bound():
    cache, made, wrong, largest = TensorCache(5 * size_of(value(0))), [], [], []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(60):
            keys = torch.randint(0, 12, (3,), generator=generator).tolist()

            def make(missing, keys=keys):
                made.extend(keys[n] for n in missing)
                time.sleep(0.0005)
                return [value(keys[n]) for n in missing]

            found = cache.get_many(keys, make)
            wrong.extend(k for k, v in zip(keys, found, strict=True) if not torch.equal(v[0], value(k)[0]))
            largest.append(cache.statistics.bytes)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    assert max(largest) <= cache.max_bytes
    assert cache.statistics.misses == len(made)


def test_one_thread_computes_while_fifteen_wait_for_it():
    cache, calls, started = TensorCache(1 << 20), [], threading.Barrier(16)

    def slow():
        calls.append(1)
        time.sleep(0.05)
        return value(7)

    def ask():
        started.wait()
        results.append(cache.get("k", slow))

    results = []
    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(calls) == 1
    assert len(results) == 16
    assert all(r[0] is results[0][0] for r in results)
    assert (cache.statistics.hits, cache.statistics.misses) == (15, 1)


def test_after_an_error_the_next_one_computes_it():
    cache, entered, leave = TensorCache(1 << 20), threading.Event(), threading.Event()

    def failing():
        entered.set()
        leave.wait(10)
        raise ValueError("no memory")

    def first():
        with pytest.raises(ValueError, match="no memory"):
            cache.get("k", failing)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    threading.Timer(0.05, leave.set).start()
    assert cache.get("k", lambda: value(3))[0][0] == 3  # it waited for the other, which failed
    thread.join(10)


def test_a_negative_bound_is_refused():
    with pytest.raises(ValueError, match="max_bytes of a cache must be at least 0, got -1"):
        TensorCache(-1)
