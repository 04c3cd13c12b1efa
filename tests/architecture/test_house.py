"""The rules of the house that no linter knows."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.runtime.settings import Settings

ROOT = Path(__file__).parents[2]
PRODUCT = [path for package in ("flows", "tasks", "infra") for path in sorted((ROOT / package).rglob("*.py"))]
TASK_MODULES = [path for path in sorted((ROOT / "tasks").glob("*.py")) if path.name != "__init__.py"]

PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
OF_THE_GATEWAY = {"STILLHOUSE_REPLICA", "STILLHOUSE_GATEWAY_TOKENS", "STILLHOUSE_SAMPLE_INPUTS"}
"""Variables that only a gateway reads."""

TASK_DECORATORS = {"stage_task", "effect_task"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(node: ast.expr) -> str:
    """Dotted name of a call, a decorator or an attribute."""
    if isinstance(node, ast.Call):
        return name_of(node.func)
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unpickling(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (name for name in names if name.partition(".")[0] in PICKLES)
        if isinstance(node, ast.Call):
            yield from _unpickling_call(node)


def _unpickling_call(call: ast.Call) -> Iterator[str]:
    name = name_of(call)
    given = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
    if name in ("torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle"):
        yield name
    if given.get("weights_only") is False or given.get("allow_pickle") is True:
        yield f"{name} that unpickles"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle") is not False:
        yield f"{name} without allow_pickle=False"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import cloudpickle.core",
        "torch.load(f, weights_only=True)",
        "load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_unpickling_is_found_when_a_module_does_it(source: str) -> None:
    assert list(unpickling(ast.parse(source)))


def test_product_code_never_unpickles() -> None:
    found = {str(path.relative_to(ROOT)): list(unpickling(tree(path))) for path in PRODUCT}

    assert {path: what for path, what in found.items() if what} == {}


def test_every_flow_reads_on_one_page() -> None:
    lengths = {}
    for path in sorted((ROOT / "flows").glob("*.py")):
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef) and "flow" in map(name_of, node.decorator_list):
                assert node.end_lineno is not None
                lengths[f"{path.name}:{node.name}"] = node.end_lineno - node.lineno + 1

    assert {"compression.py:compress_model", "rollout.py:roll_out", "delivery.py:deliver_model"} <= set(lengths)
    assert {name: length for name, length in lengths.items() if length > 60} == {}


@pytest.mark.parametrize("path", TASK_MODULES, ids=lambda path: path.stem)
def test_a_module_directly_in_tasks_is_one_thin_task_that_bears_its_name(path: Path) -> None:
    module = tree(path)
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    tasks = [node for node in functions if TASK_DECORATORS & set(map(name_of, node.decorator_list))]

    assert [task.name for task in tasks] == [path.stem]
    (task,) = tasks
    assert len([statement for statement in task.body if not isinstance(statement, ast.Expr)]) <= 5
    assert len(path.read_text().splitlines()) <= 60


def test_every_technique_file_is_in_the_union_and_every_member_has_its_file() -> None:
    from tasks.techniques import TECHNIQUES

    folder = ROOT / "tasks" / "techniques"
    members = {Path(sys.modules[spec.__module__].__file__ or "").relative_to(folder) for spec in TECHNIQUES}
    kinds = {str(spec.model_fields["kind"].default) for spec in TECHNIQUES}
    files = {
        path.relative_to(folder)
        for path in folder.rglob("*.py")
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and any(is_kind(field) for field in node.body)
    }

    assert members == files
    assert {path.stem for path in members} == kinds
    assert len(kinds) == len(TECHNIQUES)


def is_kind(node: ast.stmt) -> bool:
    """Whether this is `kind: Literal["…"]`, which only a member of the union has."""
    return (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "kind"
        and isinstance(node.annotation, ast.Subscript)
        and name_of(node.annotation.value) == "Literal"
    )


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("flows.cli.root", ("torch", "mlflow", "great_expectations", "dvc", "prefect", "onnxruntime")),
        ("flows.plan", ("torch", "mlflow", "great_expectations", "dvc", "prefect", "onnxruntime")),
        ("flows.delivery", ("torch", "mlflow", "great_expectations", "dvc", "pyarrow.parquet")),
    ],
)
def test_importing_loads_no_heavy_module(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; sys.stdout.write(' '.join(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == ""


def test_importing_writes_nothing_and_sets_up_no_logging(tmp_path: Path) -> None:
    code = (
        "import logging, os\n"
        "before = list(logging.root.handlers), dict(os.environ)\n"
        "import flows.cli.root, flows.plan, tasks.stages.rolling, infra.engines.supervising\n"
        "assert (list(logging.root.handlers), dict(os.environ)) == before"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def deployments() -> list[dict[str, Any]]:
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    return list(document["deployments"])


@pytest.mark.parametrize("deployment", deployments(), ids=lambda one: one["name"])
def test_a_deployment_names_a_flow_that_takes_its_parameters(deployment: dict[str, Any]) -> None:
    path, _, function = deployment["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), function)

    signature(flow.fn).bind(**deployment["parameters"])
    flow.validate_parameters(deployment["parameters"])
    if plan := deployment["parameters"].get("plan"):
        assert (ROOT / plan).is_file()


def test_ports_agree_between_the_command_that_starts_services_and_the_settings_that_find_them() -> None:
    from flows.cli.up import up
    from infra.engines.chosen import Options, chosen_services
    from infra.gateway.__main__ import __file__ as gateway_main

    ports = {name: parameter.default for name, parameter in signature(up).parameters.items() if name.endswith("port")}
    settings = Settings()
    services = {service.name: service for service in chosen_services(settings, Options(**ports), None)}

    assert Options(**ports) == Options()
    assert services["gateway"].address == settings.gateway_url
    assert services["prefect_api"].address == "http://127.0.0.1:4200/api"
    for service in services.values():
        assert service.address.startswith("http://127.0.0.1:")
        assert service.command[0] == sys.executable
    assert str(ports["gateway_port"]) in Path(gateway_main).read_text() + (ROOT / "infra/gateway/config.py").read_text()


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    documented = set(re.findall(r"STILLHOUSE_[A-Z0-9_]+", (ROOT / "docs" / "operations.md").read_text()))
    known = {f"STILLHOUSE_{name.upper()}" for name in Settings.model_fields}

    assert documented - OF_THE_GATEWAY == known


def test_messages_and_code_name_only_settings_that_exist() -> None:
    known = {f"STILLHOUSE_{name.upper()}" for name in Settings.model_fields} | OF_THE_GATEWAY
    named = {
        name
        for path in PRODUCT
        if "isolation" not in path.name  # its channel is a variable between two processes of its own
        for name in re.findall(r"STILLHOUSE_[A-Z0-9]+(?:_[A-Z0-9]+)*", path.read_text())
    }

    assert named <= known
