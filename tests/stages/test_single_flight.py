import threading

import pytest

from tasks.contracts.errors import DataError, ModelBusyError
from tasks.stages.single_flight import single_flight


def test_single_flight_refuses_the_second_of_a_model_and_lets_the_next_in_after_it(services):
    with single_flight(services, "m"):
        with pytest.raises(ModelBusyError, match="next version of m"), single_flight(services, "m"):
            pytest.fail("two at once")
        with single_flight(services, "other"):
            pass
    with pytest.raises(DataError), single_flight(services, "m"):
        raise DataError("refused")
    with single_flight(services, "m"):
        pass


def test_single_flight_lets_one_that_waits_in_when_the_other_has_ended(services):
    order: list[str] = []
    asked = threading.Event()

    def second() -> None:
        asked.set()
        with single_flight(services, "m", wait=True):
            order.append("second")

    with single_flight(services, "m"):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert asked.wait(10)
        order.append("first")
    waiting.join(10)

    assert order == ["first", "second"]
