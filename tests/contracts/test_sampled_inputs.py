import pytest

from tasks.contracts.route import Arm, ModelSignature, Route, assigned_arm
from tasks.contracts.sampled_inputs import is_sampled

IDS = [f"request-{number}" for number in range(4000)]


def test_is_sampled_takes_none_at_zero_and_all_at_one():
    assert not any(is_sampled(name, 0.0) for name in IDS)
    assert all(is_sampled(name, 1.0) for name in IDS)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_is_sampled_takes_about_the_share_and_a_larger_share_only_adds(share):
    taken = {name for name in IDS if is_sampled(name, share)}
    assert len(taken) / len(IDS) == pytest.approx(share, abs=0.03)
    assert taken <= {name for name in IDS if is_sampled(name, share + 0.1)}


def test_is_sampled_does_not_depend_on_the_arm():
    signature = ModelSignature(task="regression", input_shape=(1,), input_dtype="float32", class_names=())
    arms = {"champion": Arm(digest="a" * 64, version=1), "challenger": Arm(digest="b" * 64, version=2)}
    route = Route(model_name="m", signature=signature, weight=50.0, **arms)
    sampled = [assigned_arm(route, name) for name in IDS if is_sampled(name, 0.2)]
    assert sampled.count("challenger") / len(sampled) == pytest.approx(0.5, abs=0.06)
