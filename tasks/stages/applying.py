"""The work of a compression stage."""

from dataclasses import replace

from tasks.contracts.data import DatasetRef
from tasks.contracts.model import ModelRef, StageResult
from tasks.runtime.services import connect
from tasks.stages.making import make_model
from tasks.techniques import Technique
from tasks.techniques.forms import stated_form
from tasks.techniques.technique import Applied, StageContext


def apply_technique(
    technique: Technique,
    model: ModelRef,
    baseline: ModelRef,
    data: DatasetRef,
    seed: int,
    stage_key: str,
    micro_batch_limit: int | None = None,
) -> StageResult:
    """Compress `model` by `technique`, with `baseline` (torch) as the teacher where one is asked for."""

    def work(context: StageContext) -> Applied:
        applied = technique.apply(connect().artifacts.get(model.digest), context)
        return replace(applied, details=applied.details | stated_form(technique))

    return make_model(
        work,
        technique.kind,
        technique.gives,
        data,
        stage_key,
        seed=seed,
        baseline=baseline,
        micro_batch_limit=micro_batch_limit,
        num_workers=technique.resources.num_workers,
    )
