"""A result of `quorumd compare` as it would be measured, made up, for what is pure."""

from quorumd.compare import schedule, workload

WORKLOAD = workload.parse("vary: {loss_percent: [0, 5], delay_ms: [10], nodes: [3, 5]}\n", "w.yaml")
CURVE = [50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99]


def contender(name, rates, tails=(2000, 2000, 2000), failover=(0.2, 0.25), **changes):
    """One contender's figures; rates and tails by round."""
    latency = {"p50": 1000, "p90": 1500, "p99": sorted(tails)[len(tails) // 2], "p999": 9000}
    return {
        "name": name, "engine": name.split()[0], "quorums": None, "failed": "", "ops": sum(rates), "errors": 0,
        "swaps_failed": 3, "ops_per_s": sum(rates) / len(rates),
        "rounds": [
            {"ops_per_s": rate, "latency_us": {**latency, "p99": tail}, "cpu_us_per_op": 40.0}
            for rate, tail in zip(rates, tails, strict=True)
        ],
        "latency_us": latency, "curve_us": [[share, 500 + 40 * share] for share in CURVE],
        "failover_s": list(failover), "commits_without": None, "elects_without": None,
        "acceptance": {"cluster": 0.9, "nodes": {"1": 1.0, "2": 1.0, "3": 0.7}}, "messages_per_op": 0.5,
        "bytes_per_op": 400.0, "syncs_per_op": 0.1, "cpu_us_per_op": 40.0, **changes,
    }  # fmt: skip


def failed(name, why):
    """A contender of which nothing was measured."""
    nothing = dict.fromkeys(
        ("ops_per_s", "latency_us", "acceptance", "messages_per_op", "bytes_per_op", "syncs_per_op", "cpu_us_per_op")
    )
    return contender(name, [0], [0]) | nothing | {"rounds": [], "curve_us": [], "failover_s": [], "failed": why}


def document(measure):
    """measure(point) -> its contenders."""
    points = schedule.points(WORKLOAD, full=False)
    return {
        "format": 1, "quorumd": "0", "begun": "2025-01-01T00:00:00+00:00", "seconds": 10.0, "full": False,
        "workload": {"name": "made <up>", "clients": 64}, "machine": {"cpu": "a & b", "cores": 2},
        "axes": {axis.factor: [points.index(point) for point in axis.points] for axis in schedule.axes(WORKLOAD)},
        "points": [
            {**point._asdict(), "heartbeat_ms": 40, "election_timeout_ms": 120, "contenders": measure(point)}
            for point in points
        ],
    }  # fmt: skip
