"""What a teacher adds to a student's step: with answers that are kept, and with a teacher in every step."""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.digits import in_memory_context
from benchmarks.result import Figure, Findings, figure, ratio
from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.techniques.augmentation import Augmentation
from tasks.techniques.distillation.recovery import taught_loss
from tasks.techniques.distillation.teacher_outputs import TeacherOutputs
from tasks.techniques.loss import Loss, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays
from tasks.techniques.training import fit

_NUM_ROWS, _BATCH_SIZE, _NUM_REPEATS = 1280, 128, 20
_SHAPE, _NUM_CLASSES = (1, 28, 28), 10
_SEED = 0
_VIEWS = Augmentation(shift_pixels=2, flip_horizontal=True, num_views=4)
_FRESH = Augmentation(shift_pixels=2, flip_horizontal=True)
_TEACHER = Architecture(
    factory="tasks.models.resnet:resnet",
    kwargs={"input_shape": _SHAPE, "num_outputs": _NUM_CLASSES, "width": 32, "blocks": [2, 2, 2], "stem_stride": 2},
)
_STUDENT = Architecture(
    factory="tasks.models.convnet:convnet",
    kwargs={"input_shape": _SHAPE, "num_outputs": _NUM_CLASSES, "widths": [16, 32, 64], "convolutions": [1, 2, 2]},
)
_LABELS, _LABELS_VARIED = "labels alone", "labels alone, varied rows"
_KEPT, _KEPT_VIEWS, _EVERY = (
    "teacher's answers kept",
    "teacher's answers kept for 4 views of each row",
    "teacher in every step",
)
_PAIRS = ((_KEPT, _LABELS), (_KEPT_VIEWS, _LABELS_VARIED), (_EVERY, _LABELS_VARIED))


def measure() -> Findings:
    """Time epochs of the five ways to train in turns, in seconds a step."""
    torch.set_num_threads(1)
    split = _random_rows()
    epochs = _epochs(split)
    for epoch in epochs.values():
        epoch()  # what only the first call costs, the teacher's pass over all views included
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(_NUM_REPEATS):
        for name, epoch in epochs.items():
            started = time.perf_counter()
            epoch()
            seconds[name].append((time.perf_counter() - started) / (_NUM_ROWS / _BATCH_SIZE))
    return Findings(
        question="What does a step of distillation cost beside a step with labels alone?",
        setup=(
            f"A convolutional student of 70k parameters and a residual teacher of 696k on {_NUM_ROWS} random rows of "
            f"28 x 28, batches of {_BATCH_SIZE}, one thread, epochs of the five in turns. Kept answers leave out the "
            "teacher's one pass over every view, which `teacher pass` counts in steps with labels alone."
        ),
        seeds={"weights, rows and order": _SEED},
        figures=tuple(_figures(seconds, _teacher_pass(split))),
    )


def _epochs(split: Arrays) -> dict[str, Callable[[], None]]:
    teacher = Network.create(_TEACHER, _SEED).module.eval().requires_grad_(False)
    hard = label_loss("classification")
    ways: dict[str, tuple[Loss, Augmentation]] = {_LABELS: (hard, Augmentation()), _LABELS_VARIED: (hard, _FRESH)}
    for name, augmentation in ((_KEPT, Augmentation()), (_KEPT_VIEWS, _VIEWS), (_EVERY, _FRESH)):
        answers = TeacherOutputs(teacher, split.x, in_memory_context(split, _SEED), _schedule(augmentation))
        loss = taught_loss(hard, answers, "classification", label_weight=0.5, temperature=4.0)
        ways[name] = (loss, augmentation)
    return {name: _epoch(split, loss, augmentation) for name, (loss, augmentation) in ways.items()}


def _epoch(split: Arrays, loss: Loss, augmentation: Augmentation) -> Callable[[], None]:
    student = Network.create(_STUDENT, _SEED).module
    return lambda: fit(student, split, loss, _schedule(augmentation), in_memory_context(split, _SEED))


def _schedule(augmentation: Augmentation) -> Schedule:
    return Schedule(epochs=1, batch_size=_BATCH_SIZE, augmentation=augmentation)


def _teacher_pass(split: Arrays) -> float:
    """Seconds for which the teacher looks at one view of every row."""
    teacher = Network.create(_TEACHER, _SEED).module.eval()
    with torch.no_grad():
        started = time.perf_counter()
        for rows in torch.from_numpy(split.x).split(_BATCH_SIZE):  # type: ignore[no-untyped-call]
            teacher(rows)
        return time.perf_counter() - started


def _figures(seconds: dict[str, list[float]], teacher_pass_s: float) -> list[Figure]:
    passes = teacher_pass_s / float(np.median(seconds[_LABELS]))
    return [
        *(ratio(f"time of a step: {name} / {bare}", seconds[name], seconds[bare]) for name, bare in _PAIRS),
        figure("teacher pass over one view of every row", "steps", [passes]),
        *(figure(name, "ms a step", [1e3 * one for one in taken], supporting=True) for name, taken in seconds.items()),
    ]


def _random_rows() -> Arrays:
    generator = np.random.default_rng(_SEED)
    x = generator.random((_NUM_ROWS, *_SHAPE), np.float32)
    return Arrays(x, generator.integers(0, _NUM_CLASSES, _NUM_ROWS))
