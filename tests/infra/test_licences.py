from email.message import Message
from types import SimpleNamespace

import pytest

from infra.supply_chain.licences import exceptions, expression_of, judge, permits
from infra.supply_chain.requirements import delivered


def distribution(name: str = "some-thing", **metadata: str | list[str]) -> SimpleNamespace:
    said = Message()
    for key, values in metadata.items():
        for value in [values] if isinstance(values, str) else values:
            said[key.replace("_", "-")] = value
    return SimpleNamespace(name=name, version="1", metadata=said)


@pytest.mark.parametrize(
    ("expression", "accepted"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND MPL-2.0", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", False),
        ("(MPL-2.0 AND MIT) OR (BSD-3-Clause and ISC)", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("", False),
        ("MIT OR", False),
        ("(MIT", False),
        ("see the file", False),
    ],
)
def test_permits_wants_a_choice_that_is_permissive_as_a_whole(expression: str, accepted: bool) -> None:
    assert permits(expression) is accepted


@pytest.mark.parametrize(
    ("metadata", "expression"),
    [
        ({"License_Expression": "BSD-3-Clause", "License": "GPL"}, "BSD-3-Clause"),
        ({"Classifier": ["License :: OSI Approved :: MIT License", "Topic :: Text"]}, "MIT"),
        ({"Classifier": ["License :: OSI Approved :: MIT License", "License :: Other"]}, "MIT AND Other"),
        ({"Classifier": ["License :: OSI Approved"], "License": "Apache License, Version 2.0"}, "Apache-2.0"),
        ({"License": "BSD 3-Clause License"}, "BSD-3-Clause"),
        ({"License": "3-Clause BSD License"}, "BSD-3-Clause"),
        ({"License": "Our own words\nand more of them"}, "Our own words"),
        ({}, ""),
    ],
)
def test_expression_of_takes_the_surest_word(metadata: dict[str, str | list[str]], expression: str) -> None:
    assert expression_of(distribution(**metadata)) == expression


def test_judge_accepts_an_exception_by_its_name_however_that_is_written() -> None:
    one = distribution("Some_Thing", License_Expression="GPL-3.0-only")

    (refused,) = judge([one], {})
    (accepted,) = judge([one], {"some-thing": "a reason"})

    assert (refused.accepted, refused.said) == (False, "GPL-3.0-only")
    assert (accepted.accepted, accepted.exception) == (True, "a reason")


def test_every_licence_of_what_is_delivered_is_accepted_and_every_exception_is_needed() -> None:
    found = judge(delivered(), {})

    needed = {one.name.lower().replace("_", "-") for one in found if not one.accepted}
    assert needed <= set(exceptions())
    assert all(exceptions().values())
    installed = {one.name.lower().replace("_", "-") for one in found}
    assert set(exceptions()) & installed == needed


def test_delivered_follows_extras_of_users_and_none_of_the_developers() -> None:
    names = {one.name.lower() for one in delivered()}

    assert {"torch", "mlflow", "ray"} <= names
    assert not {"stillhouse", "pytest", "mypy", "hypothesis"} & names
