"""Where Prefect keeps results: in our own store, and nowhere else."""

import importlib
import pkgutil

from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE

import flows
import tasks
from tasks.runtime.caching import StageRecords


def members(package, kind):
    modules = [one.name for one in pkgutil.iter_modules(package.__path__) if not one.ispkg]
    for name in modules:
        module = importlib.import_module(f"{package.__name__}.{name}")
        for member in vars(module).values():
            if isinstance(member, kind) and member.fn.__module__ == module.__name__:
                yield member


def test_a_task_keeps_its_result_as_a_record_of_our_store_or_not_at_all():
    found = list(members(tasks, Task))
    assert len(found) > 20
    for task in found:
        if task.persist_result:
            assert isinstance(task.result_storage, StageRecords), task.name
        else:
            assert task.cache_policy == NO_CACHE, task.name


def test_no_flow_keeps_a_result():
    found = list(members(flows, Flow))
    assert len(found) >= 10
    assert {flow.persist_result for flow in found} == {False}
