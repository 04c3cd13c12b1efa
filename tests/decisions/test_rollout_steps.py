import pytest
from pydantic import ValidationError

from tasks.decisions.rollout_policy import RolloutPolicy
from tasks.decisions.rollout_steps import Analysis, Pause, Step, seconds_of, shown_duration

MANY_WORDS = [
    {"shadow": {}},
    {"analysis": {"min_rows_per_arm": 1000}},
    {"setWeight": 5},
    {"pause": {"duration": "10m"}},
    {"analysis": {"proven": ["errors", "latency"]}},
    {"setWeight": 50},
    {"pause": {}},
    {"setWeight": 100},
]


def test_steps_mean_the_same_in_either_notation():
    plain = RolloutPolicy(steps=[0, 5, 50])
    assert plain == RolloutPolicy(steps=[{"shadow": {}}, {"setWeight": 5}, {"setWeight": 50}])
    assert plain == RolloutPolicy(steps=[{"setWeight": 0}, 5, {"setWeight": 50}])
    assert plain.weights == (0.0, 5.0, 50.0)


def test_steps_put_every_wait_to_the_weight_before_it():
    assert RolloutPolicy(steps=MANY_WORDS).steps == (
        Step(weight=0.0, waits=(Analysis(min_rows_per_arm=1000),)),
        Step(weight=5.0, waits=(Pause(duration_s=600.0), Analysis(proven=("errors", "latency")))),
        Step(weight=50.0, waits=(Pause(),)),
        Step(weight=100.0),
    )


@pytest.mark.parametrize("steps", [[0, 5, 50], MANY_WORDS])
def test_steps_are_written_as_users_write_them_and_read_back(steps):
    policy = RolloutPolicy(steps=steps)
    assert policy.model_dump(mode="json")["steps"] == steps
    assert RolloutPolicy.model_validate_json(policy.canonical_json()) == policy
    assert RolloutPolicy(**policy.model_dump()) == policy


def test_schema_offers_both_notations_and_a_default_that_is_one():
    schema = RolloutPolicy.model_json_schema()
    steps = schema["properties"]["steps"]
    assert RolloutPolicy(steps=steps["default"]) == RolloutPolicy()
    assert {"type": "number"} in steps["items"]["anyOf"]
    assert {"SetWeightNotation", "ShadowNotation", "PauseNotation", "AnalysisNotation"} <= set(schema["$defs"])


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("30s", 30.0), ("10m", 600.0), ("2h", 7200.0), ("1h30m", 5400.0), ("0.5s", 0.5), ("90", 90.0), (90, 90.0)],
)
def test_seconds_of_reads_durations_as_argo_does(duration, seconds):
    assert seconds_of(duration) == seconds
    assert seconds_of(shown_duration(seconds)) == seconds


@pytest.mark.parametrize(("seconds", "text"), [(600.0, "10m"), (7200.0, "2h"), (61.0, "61s"), (0.5, "0.5s")])
def test_shown_duration_is_short(seconds, text):
    assert shown_duration(seconds) == text


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([5, {"setWeigth": 25}], r"steps\[1\] \{setWeigth: 25\}: did you mean setWeight\?"),
        ([5, {"setHeaderRoute": {}}], r"steps\[1\] .*is no step of Stillhouse; write one of"),
        ([5, {"pause": {}, "setWeight": 25}], r"steps\[1\] .*exactly one of"),
        ([5, "25"], r"steps\[1\] '25': is no step"),
        ([{"pause": {}}, 5], r"steps\[0\] .*no weight yet at which to wait; put \{shadow: \{\}\}"),
        ([5, {"pause": {}}, {"pause": {}}], r"steps\[2\] .*the person that steps\[1\] waits for; remove one"),
        ([5, {"pause": {"duration": "ten"}}], r"steps\[1\] .*'ten' is no duration; write it as 30s, 10m or 1h30m"),
        ([5, {"pause": {"duration": "10 m"}}], r"is no duration"),
        ([5, {"pause": {"duration": "0s"}}], r"a pause of '0s' is none; remove it"),
        ([5, {"pause": {"duraton": "1m"}}], r"steps\[1\] .*duraton: unknown key; pause knows duration"),
        ([5, {"analysis": {"templates": []}}], r"unknown key; analysis knows proven and min_rows_per_arm"),
        ([5, {"analysis": {}}], r"steps\[1\] .*asks for nothing; name checks in `proven`"),
        ([5, {"analysis": {"proven": ["speed"]}}], r"proven.0: .*'errors', 'latency' or 'accuracy'"),
        ([0, {"analysis": {"proven": ["latency"]}}], r"steps\[1\] .*never judged in shadow.* at a weight above 0"),
        ([{"setWeight": "5"}], r"steps\[0\] .*needs a percent, such as"),
        ([{"setWeight": 101}], r"steps\[0\] .*between 0 and 100"),
        ([{"shadow": {"weight": 1}}], r"steps\[0\] .*takes nothing; write \{shadow: \{\}\}"),
        ([True], r"steps\[0\] True: is no step"),
        ([25, {"setWeight": 5}], r"steps \(25, 5\) must rise"),
        ([{"setWeight": 100}], r"compare nothing"),
        ("5, 25", "valid tuple"),
    ],
)
def test_policy_names_the_step_and_the_remedy_when_it_cannot_work(steps, message):
    with pytest.raises(ValidationError, match=message):
        RolloutPolicy(steps=steps)


def test_policy_names_every_wrong_step_at_once():
    with pytest.raises(ValidationError, match=r"steps\[0\].*steps\[2\]"):
        RolloutPolicy(steps=[{"setWeigth": 1}, 5, {"pauze": {}}])
