"""How the platform scales: candidates over the workers of a Ray cluster, and a store with many stage records.

`BENCHMARK_SHARE=0.1` tries it out with a tenth of the stages, the waiting and the records.
"""

from benchmarks.claims import num_runs
from benchmarks.ray_site import SLOTS, on_ray
from benchmarks.result import RATIO, Figure, Findings, figure
from benchmarks.stage_records import record_figures

_NUM_STAGES = 32
_STAGE_S, _SHORT_STAGE_S = 10, 5
_WORKERS = (8, 4, 2, 1)
_RECORDS = (100, 1_000, 10_000)


def measure() -> Findings:
    """Run the candidates on fewer and fewer workers, then fill stores with records."""
    num_stages, seconds, short = (num_runs(number) for number in (_NUM_STAGES, _STAGE_S, _SHORT_STAGE_S))
    num_stages = max(SLOTS, num_stages)
    runs = [(number, seconds) for number in _WORKERS] + [(number, short) for number in (max(_WORKERS), 1)]
    times = on_ray("scaling", {"num_stages": num_stages, "runs": runs})
    found = dict(zip(runs, times, strict=True))
    records = [num_runs(number) for number in _RECORDS]
    return Findings(
        question="How do runs scale with workers, and the stage cache with records?",
        setup=(
            f"{num_stages} stages that sleep {seconds} s and compute 10 ms, submitted at once by a Prefect flow, each "
            f"through cache, lock and placement, on a Ray cluster of one node with {SLOTS} slots; a stage takes 1, 2, "
            f"4 or 8 of them, so that 8, 4, 2 or 1 run at once. The same with stages of {short} s. Every worker has "
            "made a stage before, since its first one costs more. Flow, server, cluster and stages share this "
            "machine's processors. Efficiency is (time on one worker) / (workers x time on them). Records: a store "
            "with so many stage records, each naming an artifact of its own; a hit is the whole task within a flow. "
            "The mark is `stillhouse store gc` as a dry run."
        ),
        seeds={},
        figures=(*_worker_figures(found, num_stages), *record_figures(records)),
    )


def _worker_figures(found: dict[tuple[int, float], dict[str, float]], num_stages: int) -> list[Figure]:
    figures = []
    for number, stage_s in sorted(found, key=lambda run: (-run[1], run[0])):
        seconds, one_s = found[number, stage_s], found[1, stage_s]["cold"]
        subject = f"{number} workers, stages of {stage_s} s"
        figures += [
            figure("efficiency", RATIO, [one_s / (number * seconds["cold"])], subject=subject),
            figure("sleep alone / time", RATIO, [num_stages * stage_s / (number * seconds["cold"])], subject=subject),
            figure("time", "s", [seconds["cold"]], subject=subject),
            figure("again, all cached", "s", [seconds["cached"]], subject=subject),
        ]
    return figures
