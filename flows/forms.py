"""Settling schedules that leave the form of training to a probe, before the stage that trains has a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from prefect import get_run_logger

from tasks.contracts.data import DatasetRef
from tasks.contracts.device import TrainingForm
from tasks.contracts.model import Architecture, ModelRef
from tasks.detect import detect
from tasks.probe import probe
from tasks.techniques import Technique
from tasks.techniques.baseline import TrainSpec
from tasks.techniques.forms import settled
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import TechniqueSpec

S = TypeVar("S", TrainSpec, TechniqueSpec)


def settle(spec: S, model: Architecture | ModelRef, data: DatasetRef, seed: int) -> S:
    """Return `spec` with a stated form in every schedule: what its key says, it trains in.

    Args:
        spec: what is to be trained; one that leaves nothing open is returned as it is, without a probe.
        model: the network, or one of its size.
        data: the data set.
        seed: of drawn weights.
    """
    alone = spec.resources.model_copy(update={"num_workers": 1})

    def choose(schedule: Schedule) -> TrainingForm:
        found = probe(model, schedule, data, seed, alone, spec.num_threads, detect(alone))
        times = ", ".join(f"{form} {cost.step_ms:.3g}" for form, cost in found.costs.items())
        get_run_logger().info("trains in %s (ms of a step: %s)", found.chosen.label, times or "no choice")
        return found.chosen

    return settled(spec, choose)


def settle_chain(chain: Sequence[Technique], baseline: ModelRef, data: DatasetRef, seed: int) -> tuple[Technique, ...]:
    """Return a chain in which every technique states its forms.

    To be called for all chains before any of them runs: a probe would time their stages too.

    Args:
        chain: of a candidate.
        baseline: stands for the networks that techniques are given; a student is probed itself.
        data: the data set.
        seed: of drawn weights.
    """
    return tuple(settle(one, getattr(one, "student", None) or baseline, data, seed) for one in chain)
