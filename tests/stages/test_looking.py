import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tasks.stages.looking import count_look

A, B, C = (letter * 64 for letter in "abc")


@pytest.fixture
def data(store_dataset):
    return store_dataset(np.zeros((9, 2), dtype=np.float32), np.arange(9) % 3, "classification", ("ant", "bee", "cat"))


def test_count_look_counts_runs_of_new_models(services, data):
    numbers = [count_look(services.documents, data, models, "now") for models in ([A, B], [C], [A, C])]
    assert numbers == [1, 2, 3]


def test_count_look_gives_a_run_that_is_repeated_its_old_number(services, data):
    for models, number in (([A, B], 1), ([C], 2), ([B, A], 1), ([A], 1), ([C], 2)):
        assert count_look(services.documents, data, models, "now") == number
    (name,) = services.documents.names("test-looks/")
    assert len(json.loads(services.documents.latest(name).data)["looks"]) == 2


def test_count_look_goes_by_the_rows_of_the_test_split(services, data, store_dataset):
    assert count_look(services.documents, data, [A], "now") == 1
    renamed = data.model_copy(update={"name": "others", "revision": "7"})
    assert count_look(services.documents, renamed, [B], "now") == 2
    other = store_dataset(np.ones((9, 2), dtype=np.float32), np.arange(9) % 3, "classification", ("ant", "bee", "cat"))
    assert count_look(services.documents, other, [B], "now") == 1


def test_count_look_gives_every_run_a_number_of_its_own_when_they_come_at_once(services, data):
    models = [[f"{number:064x}"] for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda one: count_look(services.documents, data, one, "now"), models))
    assert sorted(numbers) == list(range(1, 25))
