"""A digest of the code that a stage executes: the modules it names and all that these import, transitively.

Import statements are read from the syntax tree, wherever they stand (also inside functions), so nothing
is imported to find out. Infrastructure (`tasks.runtime`, `tasks.adapters`) moves bytes and cannot change
what a stage computes; the registries list every technique and source, and which one is used is named by
the spec. Both are left out, so that an edit there does not recompute everything.

Beside the source stand the versions of the engines that compute: what else an outcome depends on.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tasks.contracts.value import Digest

_INFRASTRUCTURE = ("tasks.runtime", "tasks.adapters")
_REGISTRIES = ("tasks.techniques", "tasks.datasets")
_ENGINES = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy", "scipy", "scikit-learn", "tokenizers")
_OPTIONAL_ENGINES = {"tasks.models.huggingface": "transformers"}


def source_digest(modules: Iterable[str]) -> Digest:
    """Return the SHA-256 over the source files of `modules` and of what they import from the same packages.

    A module given by the caller may belong to any package (a user's model factory); the walk stays
    within its top-level package and `tasks`.
    """
    hasher = hashlib.sha256()
    for name, path in sorted(_closure(tuple(sorted(set(modules)))).items()):
        hasher.update(f"{name}\0{_file_digest(str(path), *_stamp(path))}\n".encode())
    return hasher.hexdigest()


def executed_modules(modules: Iterable[str]) -> list[str]:
    """Return the names of the modules that `source_digest` covers, sorted."""
    return sorted(_closure(tuple(sorted(set(modules)))))


def engine_versions(modules: Iterable[str]) -> dict[str, str]:
    """Return the versions of the engines, and of the optional ones that `modules` rest on."""
    return dict(_engine_versions(tuple(sorted(_OPTIONAL_ENGINES.keys() & set(modules)))))


@lru_cache(maxsize=16)
def _engine_versions(modules: tuple[str, ...]) -> dict[str, str]:
    optional = [_OPTIONAL_ENGINES[module] for module in modules]
    installed = [name for name in optional if find_spec(name) is not None]  # without it the stage fails with a remedy
    return {name: version(name) for name in (*_ENGINES, *installed)}


def _closure(roots: tuple[str, ...]) -> dict[str, Path]:
    packages = {"tasks"} | {root.partition(".")[0] for root in roots}
    found: dict[str, Path] = {}
    pending = list(roots)
    while pending:
        name = pending.pop()
        path = None if name in found else _source_file(name)
        if path is None:
            continue
        found[name] = path
        pending += [
            imported
            for imported in _imports(str(path), name, path.name == "__init__.py", *_stamp(path))
            if imported.partition(".")[0] in packages and not _left_out(imported)
        ]
    return found


def _left_out(name: str) -> bool:
    return name in _REGISTRIES or any(name == part or name.startswith(f"{part}.") for part in _INFRASTRUCTURE)


def _source_file(name: str) -> Path | None:
    """Find a module's file by its place below its top-level package; looking deeper by import would run code."""
    top, *rest = name.split(".")
    spec = _top_level(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for location in spec.submodule_search_locations or ():
        place = Path(location, *rest)
        for candidate in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if candidate.is_file():
                return candidate
    return None


@lru_cache(maxsize=256)
def _top_level(name: str) -> ModuleSpec | None:
    return find_spec(name)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4096)
def _file_digest(path: str, _mtime_ns: int, _size: int) -> Digest:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@lru_cache(maxsize=4096)
def _imports(path: str, module: str, is_package: bool, _mtime_ns: int, _size: int) -> tuple[str, ...]:
    """Return the absolute names that a file imports; `from a import b` gives both `a` and `a.b`."""
    names: list[str] = []
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(Path(path).read_bytes(), path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(names)
