"""How often the decisions are wrong, and how often they are made: gate, rollout and monitoring in many simulated runs.

Everything is asked of the functions that the flows call, with the default policies; only the data are made up. The
figures are shares of runs with their exact intervals. `BENCHMARK_SHARE=0.1` simulates a tenth of the runs.
"""

from benchmarks.accuracy_runs import accuracy_figures
from benchmarks.gate_losses import loss_figures
from benchmarks.gate_runs import gate_figures
from benchmarks.monitoring_runs import monitoring_figures
from benchmarks.result import Findings
from benchmarks.rollout_runs import LOOKS, rollout_figures

_SEED = 0


def measure() -> Findings:
    """Simulate all, one after the other on one thread."""
    figures = (
        *gate_figures(_SEED),
        *loss_figures(_SEED),
        *rollout_figures(_SEED),
        *accuracy_figures(_SEED),
        *monitoring_figures(_SEED),
    )
    return Findings(
        question="How often do gate, rollout and monitoring decide wrongly, and how often and how soon rightly?",
        setup=(
            "Default policies, made-up data, the functions that the flows call. Gate: each run draws a test split; a "
            "candidate at its margin must not pass, one as good as the baseline should; `computed` is what the product "
            "says before the run. RMSE and macro F1 by the Bayesian bootstrap. Rollout: every row has feedback, 100 "
            f"rows between looks, {LOOKS} looks; at every limit means accuracy, failures and latency exactly at what "
            "is tolerated; accuracy at its margin asks the accuracy's test alone, where either answer is wrong. "
            "Division of traffic: arrays of the test's own e-values, 200 looks. Monitoring: hourly windows "
            "of 1,000 requests, 500 of which get labels; references of 3,000 requests. An alarm takes two failed "
            "windows of three, and a month has 720 windows. Shares of runs, with exact 95 % intervals."
        ),
        seeds={"all draws": _SEED},
        figures=figures,
    )
