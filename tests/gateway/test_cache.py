import threading
import tracemalloc
from collections import OrderedDict

import numpy as np
import orjson
import pytest

from infra.gateway.cache import AnswerCache, BodyKey, KnownBody, body_bytes, entry_bytes, fingerprint_of
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.protocol import InferenceParser, InferRequest, WantedOutputs
from tasks.contracts.route import Arm, ModelSignature, Route

SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c"))
OLD, NEW = "1" * 64, "2" * 64


def outputs_of(number, size=3):
    return [np.full((1, size), number, np.float32)]


ENTRY = entry_bytes(outputs_of(0))


@pytest.fixture
def metrics():
    return GatewayMetrics()


def sample(metrics, name, **labels):
    return metrics.registry.get_sample_value(f"stillhouse_gateway_cache_{name}", labels) or 0.0


def divided(weight, **fields):
    arms = {"champion": Arm(digest=OLD, version=1), "challenger": Arm(digest=NEW, version=2)}
    return Route(model_name="m", signature=SIGNATURE, weight=weight, **(arms | fields))


def test_fingerprint_is_one_for_all_forms_of_an_input():
    parser = InferenceParser(SIGNATURE, "x", frozenset({"logits"}), 8)
    rows = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 4]}
    nested = orjson.dumps({"inputs": [tensor | {"data": rows.tolist()}], "id": "other"})
    flat = orjson.dumps({"inputs": [tensor | {"data": rows.ravel().tolist()}]})
    binary = orjson.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 32}}]})
    forms = [
        parser.parse(nested),
        parser.parse(flat),
        parser.parse(binary + rows.tobytes(), len(binary)),
        parser.parse(rows.tobytes(), 0),
        parser.parse_invocation(orjson.dumps({"instances": rows.tolist()})),
    ]
    fingerprints = {fingerprint_of(form.inputs) for form in forms} | {fingerprint_of(np.asfortranarray(rows))}
    assert len(fingerprints) == 1


def test_fingerprint_differs_when_type_shape_or_a_value_does():
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    changed = rows.copy()
    changed[1, 3] = np.nextafter(changed[1, 3], np.float32(9))
    others = [rows.reshape(4, 2), rows.reshape(8), rows.view(np.int32), rows.astype(np.float64), changed, rows[:1]]
    assert len({fingerprint_of(array) for array in [rows, *others]}) == 1 + len(others)


def test_get_gives_a_copy_that_nobody_can_change(metrics):
    cache = AnswerCache(10 * ENTRY, metrics)
    batch = np.arange(12, dtype=np.float32).reshape(4, 3)
    cache.put(OLD, b"x", [batch[1:2]])
    batch[:] = 0
    (kept,) = cache.get(OLD, b"x")
    assert kept.tolist() == [[3, 4, 5]]
    assert kept.base is None
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0] = 1


@pytest.mark.parametrize(("max_bytes", "kept"), [(3 * ENTRY, [1, 2, 3]), (3 * ENTRY - 1, [2, 3]), (ENTRY - 1, [])])
def test_put_drops_the_oldest_exactly_when_the_bytes_are_full(metrics, max_bytes, kept):
    cache = AnswerCache(max_bytes, metrics)
    for number in (1, 2, 3):
        cache.put(OLD, bytes([number]), outputs_of(number))
    assert [number for number in (1, 2, 3) if cache.get(OLD, bytes([number])) is not None] == kept
    assert cache.num_bytes == sample(metrics, "bytes") == len(kept) * ENTRY
    assert sample(metrics, "evictions_total") == (3 - len(kept) if kept else 0)


def test_put_drops_what_was_unused_for_longest(metrics):
    cache = AnswerCache(2 * ENTRY, metrics)
    cache.put(OLD, b"a", outputs_of(1))
    cache.put(OLD, b"b", outputs_of(2))
    cache.get(OLD, b"a")
    cache.put(OLD, b"c", outputs_of(3))
    assert cache.get(OLD, b"b") is None
    assert cache.get(OLD, b"a") is not None


def test_put_leaves_the_others_alone_when_an_answer_is_larger_than_the_cache(metrics):
    cache = AnswerCache(2 * ENTRY, metrics)
    cache.put(OLD, b"a", outputs_of(1))
    cache.put(OLD, b"b", outputs_of(2, size=1000))
    assert cache.get(OLD, b"b") is None
    assert cache.get(OLD, b"a") is not None


def test_bytes_stay_within_the_bound_and_equal_the_entries_when_sizes_differ(metrics):
    """Against a plain list in order of use, through 2000 random steps."""
    rng = np.random.default_rng(0)
    cache, model, bound = AnswerCache(20_000, metrics), OrderedDict(), 20_000
    for _ in range(2000):
        name, size = bytes([rng.integers(60)]), int(rng.integers(1, 400))
        if rng.random() < 0.5:
            found = cache.get(OLD, name)
            assert (found is None) == (name not in model)
            if found is not None:
                assert found[0].size == model[name]
                model.move_to_end(name)
            continue
        cache.put(OLD, name, outputs_of(0, size))
        model.pop(name, None)
        model[name] = size
        while sum(entry_bytes(outputs_of(0, size)) for size in model.values()) > bound:
            model.popitem(last=False)
        assert cache.num_bytes == sum(entry_bytes(outputs_of(0, size)) for size in model.values()) <= bound
        assert len(cache) == len(model)


def test_bytes_are_those_that_python_really_holds(metrics):
    cache = AnswerCache(2**24, metrics)
    inputs = np.random.default_rng(0).random((3000, 16)).astype(np.float32)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for row in inputs:
        cache.put(OLD, fingerprint_of(row), [row[:10], row[:2]])
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held == pytest.approx(cache.num_bytes, rel=0.3)


def body_of(number, num_rows=1, request_id="r"):
    key = BodyKey(b"parser", b"open inference", None, b"application/json", number.to_bytes(32, "big"))
    request = InferRequest(request_id, np.empty(0, np.float32), WantedOutputs(), is_named=True)
    return key, KnownBody(request, b"f" * 32, np.full((num_rows, 10), number, float))


def test_bodies_and_answers_share_the_bytes_and_the_least_recently_used_of_both_goes(metrics):
    """Against a plain list in order of use, through 2000 random steps."""
    rng = np.random.default_rng(1)
    bound = 30_000
    cache, model = AnswerCache(bound, metrics), OrderedDict()
    for _ in range(2000):
        number, size, is_body = int(rng.integers(40)), int(rng.integers(1, 60)), rng.random() < 0.5
        name = (is_body, number)
        key, body = body_of(number, size)
        if rng.random() < 0.5:
            found = cache.get_body(key) if is_body else cache.get(OLD, bytes([number]))
            assert (found is None) == (name not in model)
            if found is not None:
                model.move_to_end(name)
            continue
        if is_body:
            cache.put_body(key, body)
        else:
            cache.put(OLD, bytes([number]), outputs_of(0, size))
        model.pop(name, None)
        model[name] = body_bytes(key, body) if is_body else entry_bytes(outputs_of(0, size))
        while sum(model.values()) > bound:
            model.popitem(last=False)
        assert cache.num_bytes == sum(model.values()) <= bound
        assert len(cache) == len(model)


def test_put_body_leaves_the_others_alone_when_a_body_is_larger_than_the_cache(metrics):
    cache = AnswerCache(4000, metrics)
    small, large = body_of(1), body_of(2, num_rows=1000)
    cache.put_body(*small)
    cache.put_body(*large)
    assert cache.get_body(large[0]) is None
    assert cache.get_body(small[0]) is small[1]


@pytest.mark.parametrize(
    "changes", [{"parser": b"p"}, {"protocol": b"q"}, {"json_length": b"12"}, {"content_type": None}, {"digest": b"d"}]
)
def test_get_body_knows_none_that_differs_in_a_part_of_its_key(metrics, changes):
    cache = AnswerCache(10_000, metrics)
    key, body = body_of(1)
    cache.put_body(key, body)
    assert cache.get_body(key) is body
    assert cache.get_body(key._replace(**changes)) is None


def test_bytes_of_bodies_are_those_that_python_really_holds(metrics):
    cache = AnswerCache(2**24, metrics)
    rng = np.random.default_rng(0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(2000):
        content = rng.bytes(50)
        key = BodyKey(b"parser", b"open inference", b"%d" % (number + 1000), content[:20], content[:32])
        request = InferRequest(f"request-{number}", np.empty(0, np.float32), WantedOutputs(), is_named=True)
        cache.put_body(key, KnownBody(request, content[18:], rng.random((1, 10))))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held == pytest.approx(cache.num_bytes, rel=0.3)


def test_recall_counts_no_miss_when_the_request_is_looked_for_again(metrics):
    cache = AnswerCache(10 * ENTRY, metrics)
    assert cache.recall(divided(0), "champion", b"x", is_last=False) is None
    assert sample(metrics, "misses_total", model="m", arm="champion") == 0
    cache.put(OLD, b"x", outputs_of(1))
    assert cache.recall(divided(0), "champion", b"x", is_last=False) is not None
    assert sample(metrics, "hits_total", model="m", arm="champion") == 1


def test_threads_get_the_answer_of_their_own_input_and_the_bound_holds(metrics):
    cache, wrong = AnswerCache(40 * ENTRY, metrics), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for number in rng.integers(100, size=3000):
            digest, name = (OLD, NEW)[number % 2], int(number // 2).to_bytes(1, "big")
            found = cache.get(digest, name)
            if found is None:
                cache.put(digest, name, outputs_of(number))
            elif found[0][0, 0] != number:
                wrong.append(number)
            if cache.num_bytes > 40 * ENTRY:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cache.num_bytes == len(cache) * ENTRY == 40 * ENTRY


def test_recall_never_gives_one_models_answer_for_another(metrics):
    cache = AnswerCache(10 * ENTRY, metrics)
    cache.put(NEW, b"x", outputs_of(2))
    assert cache.recall(divided(0), "champion", b"x") is None
    cache.put(OLD, b"x", outputs_of(1))
    for arm, value in (("champion", 1), ("challenger", 2)):
        assert cache.recall(divided(50), arm, b"x")[0][0, 0] == value
    assert sample(metrics, "hits_total", model="m", arm="challenger") == 1
    assert sample(metrics, "misses_total", model="m", arm="champion") == 1


@pytest.mark.parametrize("known", [OLD, NEW])
def test_recall_needs_both_arms_answers_when_traffic_is_divided(metrics, known):
    cache = AnswerCache(10 * ENTRY, metrics)
    cache.put(known, b"x", outputs_of(1))
    assert cache.recall(divided(50), "champion", b"x") is None
    assert cache.recall(divided(50), "challenger", b"x") is None
    assert (cache.recall(divided(0, shadow=True), "champion", b"x") is None) == (known == NEW)
    assert (cache.recall(divided(0, challenger=None), "champion", b"x") is None) == (known == NEW)
