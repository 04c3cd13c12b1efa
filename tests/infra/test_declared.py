from pathlib import Path

import pytest

from infra.prefect.declared import read_declared
from tests.infra.manifests import ROOT

FLOWS = """
raise ImportError("it is read, not imported")

@flow(name="compress-plan")
def compress(): ...

@flow
def keep_tidy(): ...
"""


def declared(folder: Path, deployments: str) -> Path:
    (folder / "flows.py").write_text(FLOWS)
    file = folder / "prefect.yaml"
    file.write_text(f"name: mine\ndeployments: [{deployments}]\n")
    return file


def test_read_declared_names_deployments_as_the_server_does(tmp_path):
    file = declared(
        tmp_path,
        "{name: m, entrypoint: 'flows.py:compress', tags: [mine, 'one-run:m'], schedules: [{slug: nightly}]},"
        "{name: tidy, entrypoint: 'flows.py:keep_tidy', tags: [mine]}",
    )
    found = read_declared(file)

    assert found.tag == "mine"
    assert found.schedules == {"compress-plan/m": frozenset({"nightly"}), "keep-tidy/tidy": frozenset()}
    assert found.limits == {"compress-plan/m": "one-run:m"}


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        ("{name: m, entrypoint: 'flows.py:compress', tags: [other]}", "compress-plan/m lacks the tag mine"),
        (
            "{name: m, entrypoint: 'flows.py:compress', tags: [mine], schedules: [{interval: 60}]}",
            "a schedule of compress-plan/m has no `slug`",
        ),
    ],
)
def test_read_declared_refuses_what_could_not_be_found_again(tmp_path, deployment, message):
    with pytest.raises(ValueError, match=message):
        read_declared(declared(tmp_path, deployment))


def test_all_that_make_the_next_version_of_digits_share_one_limit():
    limits = read_declared(ROOT / "prefect.yaml").limits
    assert set(limits.values()) == {"one-run:digits"}
    assert sorted(limits) == [
        "compress-plan/digits",
        "compress-plan/digits-gpu",
        "recompress-plan/digits-recompress",
        "retrain-model/retrain",
    ]
