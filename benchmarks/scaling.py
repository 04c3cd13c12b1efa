"""How the platform scales: candidates over the workers of a Ray cluster, and a store with many stage records.

`BENCHMARK_SHARE=0.1` tries it out with a tenth of the stages, the waiting and the records.
"""

from collections import defaultdict

from benchmarks.claims import num_runs
from benchmarks.ray_site import SLOTS, on_ray
from benchmarks.result import RATIO, Figure, Findings, figure
from benchmarks.stage_records import record_figures

_NUM_STAGES = 32
_STAGE_S = 5
_RUNS = (8, 4, 2, 1, 4, 8, 8)
"""Workers of each run; the short ones are repeated."""
_RECORDS = (100, 1_000, 10_000)


def measure() -> Findings:
    """Run the candidates on fewer and fewer workers, then fill stores with records."""
    num_stages, seconds = max(SLOTS, num_runs(_NUM_STAGES)), num_runs(_STAGE_S)
    times = on_ray("scaling", {"num_stages": num_stages, "runs": [(number, seconds) for number in _RUNS]})
    found: dict[int, list[dict[str, float]]] = defaultdict(list)
    for number, time in zip(_RUNS, times, strict=True):
        found[number].append(time)
    records = [num_runs(number) for number in _RECORDS]
    return Findings(
        question="How do runs scale with workers, and the stage cache with records?",
        setup=(
            f"{num_stages} stages that sleep {seconds} s and compute 10 ms, submitted at once by a Prefect flow, each "
            f"through cache, lock and placement, on a Ray cluster of one node with {SLOTS} slots; a stage takes 1, 2, "
            "4 or 8 of them, so that 8, 4, 2 or 1 run at once. Every worker has "
            "made stages before, since its first one costs more. Flow, server, cluster and stages share this "
            "machine's processors. Efficiency is (time on one worker) / (workers x time on them). Records: a store "
            "with so many stage records, each naming an artifact of its own; a hit is the whole task within a flow. "
            "The mark is `stillhouse store gc` as a dry run."
        ),
        seeds={},
        figures=(*_worker_figures(found, num_stages * seconds), *record_figures(records)),
    )


def _worker_figures(found: dict[int, list[dict[str, float]]], work_s: float) -> list[Figure]:
    one_s = found[1][0]["cold"]
    figures = []
    for number in sorted(found):
        seconds = [run["cold"] for run in found[number]]
        subject = f"{number} workers"
        figures += [
            figure("efficiency", RATIO, [one_s / (number * one) for one in seconds], subject=subject),
            figure("sleep alone / time", RATIO, [work_s / (number * one) for one in seconds], subject=subject),
            figure("time", "s", seconds, subject=subject),
            figure("again, all cached", "s", [run["cached"] for run in found[number]], subject=subject),
        ]
    return figures
