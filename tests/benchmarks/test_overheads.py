from pathlib import Path

import yaml

from benchmarks.overheads import shortened
from flows.plan import load_plan

ROOT = Path(__file__).parents[2]


def test_a_shortened_plan_trains_less_asks_nothing_of_teachers_and_is_else_the_same(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "plans" / "digits.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(shortened(document, 0.1)), encoding="utf-8")
    plan, whole = load_plan(path), load_plan(ROOT / "plans" / "digits.yaml")

    assert plan.baseline.train.schedule.epochs == 4
    student = plan.candidates["student-int8"][0]
    assert (student.schedule.epochs, student.teacher_floor) == (6, 0.0)
    assert (plan.dataset, plan.constraints, set(plan.candidates)) == (
        whole.dataset,
        whole.constraints,
        set(whole.candidates),
    )
