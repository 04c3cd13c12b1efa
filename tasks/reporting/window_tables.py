"""A judged window for people: as Markdown on the Prefect page, and as lines in a terminal."""

from tasks.contracts.monitoring import ALARM_KINDS, AlarmState, MonitoringRecord, WindowCheck, WindowReport
from tasks.contracts.verdict import Verdict
from tasks.reporting.artifacts import escape_markdown

_HEAD = (
    "| check | verdict | window | reference | bound | limit | rows | what it says |\n|---|---|--:|--:|--:|--:|--:|---|"
)


def window_markdown(record: MonitoringRecord) -> str:
    """Return the whole window as a Markdown page."""
    report = record.report
    alarms = "\n".join(f"- {escape_markdown(line)}" for line in alarm_lines(record.state)) or "No alarm."
    rows = "\n".join(_markdown_row(check) for check in report.checks)
    return f"{escape_markdown(headline(report))}\n\n{alarms}\n\n{_HEAD}\n{rows}\n"


def headline(report: WindowReport) -> str:
    """Return what was seen in one line."""
    latency = ", ".join(f"{name} {value:.2f} ms" for name, value in report.latency_ms.items()) or "no latencies"
    labelled = "no labels" if report.labelled_share is None else f"{report.labelled_share:.0%} labelled"
    delay = report.median_label_delay_s
    late = "" if delay is None else f", after {delay:.0f} s in the median"
    return (
        f"{report.model_name} version {report.version}, {report.since} to {report.until}: {report.requests} requests, "
        f"{report.rows} rows, {report.errors} failed, {report.cached} from the cache; {latency}; {labelled}{late}"
    )


def verdict_lines(report: WindowReport) -> list[str]:
    """Return a line for each kind: its verdict, and what failed or could not be told."""
    lines = []
    for kind in ALARM_KINDS:
        verdict = report.verdict_of(kind)
        shown = [check for check in report.checks if check.kind == kind and check.verdict is verdict]
        told = "" if verdict is Verdict.PASS else "; ".join(f"{check.name}: {check.detail}" for check in shown[:3])
        more = f"; and {len(shown) - 3} more" if told and len(shown) > 3 else ""
        lines.append(f"{kind:8}  {verdict:12}  {told}{more}".rstrip())
    return lines


def alarm_lines(state: AlarmState | None) -> list[str]:
    """Return a line for each alarm that runs."""
    return [f"{one.kind} alarm since {one.since}: {one.summary}" for one in (state.running() if state else ())]


def _markdown_row(check: WindowCheck) -> str:
    numbers = (check.estimate, check.reference, check.bound, check.limit)
    cells = (
        check.name,
        str(check.verdict),
        *("" if number is None else f"{number:.4g}" for number in numbers),
        str(check.num_rows),
        check.detail,
    )
    return f"| {' | '.join(escape_markdown(cell) for cell in cells)} |"
