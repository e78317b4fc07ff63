"""The result as one HTML file that needs nothing beside itself, in the manner of the checker's page: light and dark."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from quorumd.compare.document import figures, median_wait
from quorumd.compare.plots import Chart, Series, svg
from quorumd.compare.summary import COLUMNS, cells, label, telling
from quorumd.types import PAXOS, RAFT

Contender = Mapping[str, Any]
Point = Mapping[str, Any]

TEMPLATE: Final = "report.html"
AXES: Final = {
    "nodes": ("Nodes", "nodes", ""),
    "loss_percent": (
        "Lost datagrams", "% of the datagrams between nodes",
        "All through the relay, also 0 %: it costs time and CPU of its own.",
    ),
    "delay_ms": (
        "Link delay", "ms one way between nodes",
        "All through the relay. Heartbeats and election timeouts are lengthened where the delay asks for it.",
    ),
}
CHOICES: Final = {"either": "either will do", "neither": "no recommendation"}
CURVE_LABELS: Final = {50: "p50", 90: "p90", 99: "p99", 99.9: "p99.9", 99.99: "p99.99"}


class Metric(NamedTuple):
    """A figure that is drawn along an axis. single: its values in each round, or at each kill, for the whiskers."""

    title: str
    unit: str
    value: Callable[[Contender], float | None]
    single: Callable[[Contender], Sequence[float]] = lambda contender: ()


def _gaps(contender: Contender) -> list[float]:
    return [gap for gap in contender["failover_s"] if gap is not None]


def _latency(title: str, percentile: str) -> Metric:
    return Metric(
        title, "ms", lambda contender: contender["latency_us"][percentile] / 1000,
        lambda contender: [each["latency_us"][percentile] / 1000 for each in contender["rounds"]],
    )


def _per_operation(title: str, unit: str, key: str) -> Metric:
    return Metric(title, unit, lambda contender: contender[f"{key}_per_op"])


METRICS: Final = (
    Metric("Operations a second", "ops/s", lambda c: c["ops_per_s"], lambda c: [r["ops_per_s"] for r in c["rounds"]]),
    _latency("Latency, median", "p50"),
    _latency("Latency, p99", "p99"),
    Metric("Leader killed, until the next write", "s", median_wait, _gaps),
    _per_operation("Messages per operation", "", "messages"),
    _per_operation("Bytes per operation", "B", "bytes"),
    _per_operation("Syncs per operation", "", "syncs"),
    Metric("CPU per operation, all nodes", "us", lambda c: c["cpu_us_per_op"],
           lambda c: [r["cpu_us_per_op"] for r in c["rounds"]]),
    Metric("Acceptance ratio", "", lambda c: c["acceptance"]["cluster"] if c["acceptance"] else None),
)


def page(document: Mapping[str, Any]) -> str:
    """The HTML text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=PackageLoader("quorumd", "compare"),
    )
    advice, points = document["advice"], document["points"]
    choose = advice["choose"]
    return environment.get_template(TEMPLATE).render(
        document=document, advice=advice, base=points[0], css=css_of,
        elsewhere=[finding for finding in advice["findings"] if not finding["base"]],
        title=f"Raft or Paxos: {CHOICES.get(choose, f'choose {choose}')}",
        base_names=_names(points[:1]),
        curve=Markup(svg(curve(points[0]))), axes=[_axis(document, factor) for factor in document["axes"]],
        base_figures=_figures(points[:1]), figures=_figures(points),
        bearing=[point for point in points if any(c["commits_without"] is not None for c in point["contenders"])],
        workload=yaml.safe_dump(document["workload"], sort_keys=False, default_flow_style=None),
    )


class Figures(NamedTuple):
    """columns: headings. rows: (the cells below them, what went wrong) of each contender."""

    columns: list[str]
    rows: list[tuple[list[str], str]]


def _figures(points: Sequence[Point]) -> Figures:
    rows = [
        ([label(point) if i == 0 else "", *cells(contender)], contender["failed"])
        for point in points for i, contender in enumerate(point["contenders"])
    ]
    columns = telling([row for row, _ in rows])
    return Figures([COLUMNS[i] for i in columns], [([row[i] for i in columns], failed) for row, failed in rows])


def css_of(name: str) -> str:
    """The class that gives a contender its colour."""
    return {RAFT: "raft", PAXOS: "paxos"}.get(name, "other")


def _names(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(contender["name"] for point in points for contender in point["contenders"]))


def curve(point: Point) -> Chart:
    """Latency by percentile at one point."""
    measured = [contender for contender in point["contenders"] if contender["curve_us"]]
    shares = [share for share, _ in measured[0]["curve_us"]] if measured else []
    series = [
        Series(each["name"], css_of(each["name"]), [max(us, 1) / 1000 for _, us in each["curve_us"]])
        for each in measured
    ]
    return Chart("Latency by percentile", "ms", [CURVE_LABELS.get(share, "") for share in shares], series, log=True)


def _axis(document: Mapping[str, Any], factor: str) -> dict[str, Any]:
    points = [document["points"][number] for number in document["axes"][factor]]
    title, unit, remark = AXES[factor]
    if factor == "nodes":
        remark = "All through the relay." if points[0]["relayed"] else "Straight on loopback, without a relay."
    charts = [(metric.title, metric.unit, Markup(drawn)) for metric in METRICS
              if (drawn := svg(chart(points, factor, metric)))]
    return {"title": title, "unit": unit, "remark": remark, "charts": charts, "names": _names(points)}


def chart(points: Sequence[Point], factor: str, metric: Metric) -> Chart:
    """One metric along one axis."""
    series = []
    for name in _names(points):
        found = [figures(point, name) for point in points]
        values = [metric.value(each) if each else None for each in found]
        singles = [metric.single(each) if each else () for each in found]
        spans = [(min(single), max(single)) if single else None for single in singles]
        series.append(Series(name, css_of(name), values, spans))
    return Chart(metric.title, metric.unit, [f"{point[factor]:g}" for point in points], series)
