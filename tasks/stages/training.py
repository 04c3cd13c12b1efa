"""Training a baseline from scratch."""

from tasks.contracts.model import Architecture
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, StageContext
from tasks.techniques.training import fit


def train_model(model: Architecture, schedule: Schedule, context: StageContext, *, device: str = "cpu") -> Applied:
    """Build `model` for the data of `context`, train it on the labels, and return it as a torch artifact.

    Deterministic for a seed at a given number of threads; continues from the stage's checkpoint.

    Args:
        model: what to build; `input_shape` and `num_outputs` come from the data unless they are given.
        schedule: how long and how fast to train.
        context: data, seed, checkpoints and reports of the stage.
        device: torch device to train on.

    Raises:
        ModelError: the model cannot be built.
        TechniqueError: the training cannot be done on these data, or it diverged.
    """
    from tasks.models.architecture import Network, completed

    architecture = completed(
        model, context.input_shape, context.num_outputs, context.vocab_size, context.special_tokens
    )
    network = Network.create(architecture, context.seed)
    loss = label_loss(context.task, schedule.label_smoothing)
    fit(network.module, context.load_split("train"), loss, schedule, context, device=device)
    num_parameters = sum(parameter.numel() for parameter in network.module.parameters())
    return Applied(network.to_bytes(), {"num_parameters": num_parameters})
