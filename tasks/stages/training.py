"""Training a baseline, from drawn weights or from those of an earlier model."""

import json
from typing import Any

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, StageContext
from tasks.techniques.training import fit


def train_model(
    model: Architecture,
    schedule: Schedule,
    context: StageContext,
    *,
    start: bytes | None = None,
    device: str = "cpu",
) -> Applied:
    """Build `model` for the data of `context`, train it on the labels, and return it as a torch artifact.

    Deterministic for a seed at a given number of threads; continues from the stage's checkpoint.

    Args:
        model: what to build; `input_shape` and `num_outputs` come from the data unless they are given.
        schedule: how long and how fast to train.
        context: data, seed, checkpoints and reports of the stage.
        start: torch artifact of the same architecture whose weights training starts from; None draws them.
        device: torch device to train on.

    Raises:
        ModelError: the model cannot be built, or `start` is of another architecture.
        TechniqueError: the training cannot be done on these data, or it diverged.
    """
    from tasks.models.architecture import Network, completed

    architecture = completed(
        model, context.input_shape, context.num_outputs, context.vocab_size, context.special_tokens
    )
    if start is None:
        network = Network.create(architecture, context.seed)
    else:
        network = Network.from_bytes(start)
        _require_same(network.architecture, architecture)
    loss = label_loss(context.task, schedule.label_smoothing)
    fit(network.module, context.load_split("train"), loss, schedule, context, device=device)
    num_parameters = sum(parameter.numel() for parameter in network.module.parameters())
    return Applied(network.to_bytes(), {"num_parameters": num_parameters})


def _require_same(found: Architecture, wanted: Architecture) -> None:
    """Refuse weights of another architecture, and say where the two differ."""
    ours, theirs = wanted.model_dump(mode="json"), found.model_dump(mode="json")
    told = [
        f"{name}: {_shown(theirs[name])} instead of {_shown(ours[name])}" for name in ours if theirs[name] != ours[name]
    ]
    if told:
        raise ModelError(
            f"warm_start.weights are of another architecture than baseline.train.model ({'; '.join(told)}); name "
            "weights of this one, or leave warm_start out to train from drawn weights"
        )


def _shown(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
