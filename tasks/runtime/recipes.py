"""Which modules a stored torch model executes when it is rebuilt: its factory's and its surgeries'."""

import io
import json
import zipfile

from tasks.contracts.model import Architecture, ModelRef
from tasks.runtime.services import connect


def recipe_modules(*models: ModelRef) -> list[str]:
    """Return the modules that the recipes of `models` name, sorted; ONNX models name none."""
    found: set[str] = set()
    for model in models:
        if model.format == "torch":
            with zipfile.ZipFile(io.BytesIO(connect().artifacts.get(model.digest))) as archive:
                recipe = Architecture.model_validate(json.loads(archive.read("architecture.json")))
            found.add(recipe.factory.partition(":")[0])
            found |= {surgery.function.partition(":")[0] for surgery in recipe.surgeries}
    return sorted(found)
