import threading
import time

import pytest

from pipeline.photos.prefetch import Prefetch, Stream, chunks, default_workers


def test_results_come_in_order_however_long_they_take():
    def slow_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return item * 10

    assert list(Prefetch(slow_first, range(8), workers=4)) == [item * 10 for item in range(8)]


def test_no_more_than_the_wanted_number_is_computed_ahead():
    begun, lock = [], threading.Lock()

    def note(item):
        with lock:
            begun.append(item)
        return item

    results = iter(Prefetch(note, range(100), workers=8, ahead=3))
    for taken in range(5):
        assert next(results) == taken
        time.sleep(0.01)
        # those taken, the next three, and none beyond
        assert len(begun) <= taken + 1 + 3
    results.close()
    assert len(begun) < 12


def test_items_are_asked_for_only_when_there_is_room():
    asked = []

    def items():
        for item in range(100):
            asked.append(item)
            yield item

    results = iter(Prefetch(lambda item: item, items(), ahead=2))
    next(results)
    assert len(asked) <= 4
    results.close()


def test_an_error_arrives_at_its_place():
    def fail(item):
        if item == 2:
            raise ValueError("item 2")
        return item

    results = iter(Prefetch(fail, range(10), workers=2))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(results)


def test_waiting_is_counted_and_work_is_not():
    loader = Prefetch(lambda item: time.sleep(0.03), range(3), workers=1, ahead=1)
    list(loader)
    assert 0.08 < loader.waited < 1
    loader = Prefetch(lambda item: item, range(3))
    for _ in loader:
        time.sleep(0.03)
    assert loader.waited < 0.05


def test_nothing_is_left_running_when_the_consumer_stops():
    before = threading.active_count()
    for item in Prefetch(lambda item: time.sleep(0.001), range(1000), workers=4):
        if item is None:
            break
    assert threading.active_count() == before


def test_no_items_no_results():
    assert list(Prefetch(lambda item: item, [])) == []


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("pipeline.photos.prefetch.usable_cores", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert default_workers() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert default_workers() == 1


@pytest.mark.parametrize(("count", "size", "lengths"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (0, 3, []), (2, 5, [2])])
def test_chunks_cover_everything_once(count, size, lengths):
    found = chunks(count, size)
    assert [len(chunk) for chunk in found] == lengths
    assert [i for chunk in found for i in chunk] == list(range(count))


@pytest.mark.parametrize("batch_size", [2, 50])
def test_every_thread_works_on_the_next_batch_while_one_is_used(batch_size):
    running, peak, lock = [], [], threading.Lock()

    def decode(item):
        with lock:
            running.append(item)
            peak.append(len(running))
        time.sleep(0.01)  # so long that a busy machine begins all of them
        with lock:
            running.remove(item)
        return item

    batches = chunks(100, batch_size)
    stream = iter(Stream(decode, batches, workers=8))
    for batch in batches[:2]:
        assert next(stream) == list(batch)
    time.sleep(0.5)  # the consumer works
    assert len(peak) == min(3 * batch_size + 8, 100)  # the next batch is there, and an item per thread
    assert max(peak) == 8
    assert [item for batch in stream for item in batch] == list(range(2 * batch_size, 100))


def test_a_stream_holds_no_more_than_a_batch_and_an_item_per_thread():
    begun = []
    stream = iter(Stream(begun.append, [range(5)] * 40, workers=3))
    for taken in range(1, 6):
        next(stream)
        time.sleep(0.01)
        assert len(begun) <= 5 * taken + 5 + 3
    stream.close()


def test_batches_of_a_stream_keep_their_lengths_and_may_be_empty():
    assert list(Stream(str, [[1, 2], [], [3]])) == [["1", "2"], [], ["3"]]
    assert list(Stream(str, [])) == []
