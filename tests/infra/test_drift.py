from infra.prefect.declared import Declared
from infra.prefect.drift import Automation, Deployment, Orphan, Schedule, orphans, switched_off, switched_on

FILE = Declared("mine", {"f/kept": frozenset({"nightly"}), "f/bare": frozenset()}, {})


def test_orphans_are_deployments_schedules_and_automations_that_no_file_names():
    deployments = [
        Deployment("1", "f/kept", (Schedule("s1", "nightly", True), Schedule("s2", "hourly", True))),
        Deployment("2", "f/bare", (Schedule("s3", None, False),)),
        Deployment("3", "g/kept", (Schedule("s4", "nightly", True),)),  # its flow has another name by now
    ]
    automations = [
        Automation("a1", "mine: crashed runs", True, ("mine-deploy",)),
        Automation("a2", "mine: what once was", True, ("mine-deploy",)),
        Automation("a3", "made by hand", True, ("mine",)),
        Automation("a4", "mine: alarms to slack", True),
        Automation("a5", "yours: crashed runs", True, ("yours-deploy",)),
    ]

    assert orphans(FILE, {"mine: crashed runs"}, deployments, automations) == [
        Orphan("schedule", "f/kept hourly", "s2", "1"),
        Orphan("schedule", "f/bare s3", "s3", "2"),
        Orphan("deployment", "g/kept", "3"),
        Orphan("automation", "mine: what once was", "a2"),
    ]


def test_switched_on_are_schedules_that_a_deploy_switched_off():
    def state(nightly: bool, hourly: bool) -> list[Deployment]:
        return [Deployment("1", "f/kept", (Schedule("s1", "nightly", nightly), Schedule("s2", "hourly", hourly)))]

    after = state(nightly=False, hourly=False)
    assert switched_on(state(nightly=True, hourly=False), after) == [(after[0], after[0].schedules[0])]
    assert switched_on(state(nightly=False, hourly=False), state(nightly=True, hourly=False)) == []
    assert switched_on([], after) == []


def test_switched_off_are_automations_that_a_deploy_made_anew_and_on():
    namesakes = [Automation("3", "c", False), Automation("4", "c", True)]  # somebody else's: they keep their ids
    before = [Automation("1", "a", False), Automation("2", "b", True), *namesakes]
    after = [Automation("5", "a", True), Automation("6", "b", True), *namesakes]
    assert switched_off(before, after) == [after[0]]
