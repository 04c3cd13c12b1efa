from tasks.runtime.stage import effect_task


def test_an_effect_is_tried_again_for_as_long_as_a_service_takes_to_restart() -> None:
    effect = effect_task(lambda: None)

    assert isinstance(effect.retry_delay_seconds, list)
    shortest_s = sum(effect.retry_delay_seconds) * (1.0 - effect.retry_jitter_factor)
    assert len(effect.retry_delay_seconds) == effect.retries
    assert shortest_s > 60.0, "the minute that docs/deployment.md gives a server for its restart"
