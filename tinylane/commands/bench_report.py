"""What the times of a bench amount to: the numbers of its document, and its tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from tinylane.commands import common
from tinylane.commands.bench_engine import BenchCase
from tinylane.commands.bench_profile import PARTS
from tinylane.commands.terminal import print_table


def summary(
    cases: Sequence[BenchCase], times: dict[str, dict[str, Any]], bytes_per_row: int
) -> dict[str, Any]:
    """The document's part about the times, as JSON values.

    times: engine -> its answer, as of `bench_measure.time_engine`; other programs' have no
    `bandwidth` and no rounds of joint cases. bytes_per_row: of a cached row's keys and values.
    """
    loads = {name: one["load"] for name, one in times.items()}
    results = [
        _result(name, case, one, one["rounds"][k])
        for k, case in enumerate(cases)
        for name, one in times.items()
        if one["rounds"][k]
    ]
    return {
        "dtype": next(load["dtype"] for load in loads.values()),
        "bandwidth_bytes_per_second": {
            name: one["bandwidth"] for name, one in times.items() if "bandwidth" in one
        },
        "ops": {name: load["ops"] for name, load in loads.items() if "ops" in load},
        "versions": {k: v for load in loads.values() for k, v in load["versions"].items()},
        "load_seconds": {name: load["seconds"] for name, load in loads.items()},
        "results": results,
        "joint_cost": _joint_cost(cases, times),
        "context_slope": _slopes(results, bytes_per_row),
        "profiles": [
            {**labels(name, case), **where}
            for name, one in times.items()
            for case, where in zip(cases, one["profiles"], strict=False)  # empty without --profile
        ],
    }


def labels(name: str, case: BenchCase) -> dict[str, Any]:
    """What a result is of: the engine and the case."""
    return {
        "engine": name,
        "mode": case.mode,
        "lanes": case.lanes,
        "prompt_tokens": len(case.prompt),
        "max_tokens": case.count,
    }


def _result(
    name: str, case: BenchCase, times: dict[str, Any], rounds: list[dict[str, Any]]
) -> dict[str, Any]:
    steps = sorted(s for one in rounds for s in one["steps"])
    median = statistics.median(steps)
    peaks = [one["peak"] for one in rounds if one["peak"] is not None]
    moved = rounds[0].get("step_bytes")
    shares = [moved / statistics.median(r["steps"]) / r["bandwidth"] for r in rounds if moved]
    return {
        **labels(name, case),
        "load_seconds": times["load"]["seconds"],
        "first_token_seconds": statistics.median(one["first"] for one in rounds),
        "step_seconds": {
            "median": median,
            "p10": steps[round(0.1 * (len(steps) - 1))],
            "p90": steps[round(0.9 * (len(steps) - 1))],
        },
        "tokens_per_second": statistics.median(rate(case, one) for one in rounds),
        "total_seconds": statistics.median(one["first"] + sum(one["steps"]) for one in rounds),
        "peak_memory_bytes": max(peaks, default=None),
        "loaded_memory_bytes": times["load"]["bytes"] or None,
        "bytes_per_step": moved,
        "bandwidth_share": statistics.median(shares) if moved else None,
        "bandwidth_share_of_best": moved / median / times["bandwidth"] if moved else None,
        "bandwidth_bytes_per_second": [one["bandwidth"] for one in rounds] if moved else None,
        "steps_by_index": [
            statistics.median(row) for row in zip(*(one["steps"] for one in rounds), strict=True)
        ],
        "rounds": len(rounds),
    }


def rate(case: BenchCase, answer: dict[str, Any]) -> float:
    """Tokens per second of all lanes together, after the first token."""
    return case.lanes * len(answer["steps"]) / sum(answer["steps"])


def middle(values: list[float]) -> dict[str, float]:
    """The median, the lowest and the highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _joint_cost(
    cases: Sequence[BenchCase], times: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Time of a joint step over that of an independent one, round by round."""
    index = {(case.mode, case.lanes, len(case.prompt)): k for k, case in enumerate(cases)}
    out = []
    for k, case in enumerate(cases):
        alone = index.get(("independent", case.lanes, len(case.prompt)))
        if case.mode != "joint" or alone is None:
            continue
        for name, one in times.items():
            pairs = zip(one["rounds"][k], one["rounds"][alone], strict=False)
            ratios = [
                statistics.median(a["steps"]) / statistics.median(b["steps"]) for a, b in pairs
            ]
            if ratios:  # other programs have no joint rounds
                out.append({**labels(name, case), "step": middle(ratios)})
    return out


def _slopes(results: list[dict[str, Any]], row: int) -> list[dict[str, Any]]:
    """Seconds a step for every cached row, by least squares over the prompt lengths; and the same
    over the time in which a row's keys and values (`row` bytes) are read at the bandwidth."""
    groups: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    speeds: dict[str, list[float]] = {}
    for r in results:
        speeds.setdefault(r["engine"], []).extend(r["bandwidth_bytes_per_second"] or [])
    for r in results:
        rows = r["prompt_tokens"] + r["lanes"] * r["max_tokens"] / 2
        key = (r["engine"], r["mode"], r["lanes"])
        groups.setdefault(key, []).append((rows, r["step_seconds"]["median"]))
    out, every = [], [s for some in speeds.values() for s in some]
    for (engine, mode, lanes), points in groups.items():
        if len({x for x, _ in points}) < 2:
            continue
        slope = statistics.linear_regression(*zip(*points, strict=True)).slope
        speed = statistics.median(speeds[engine] or every)
        out.append(
            {
                "engine": engine,
                "mode": mode,
                "lanes": lanes,
                "seconds_per_row": slope,
                "over_bandwidth": slope * speed / row,
            }
        )
    return out


def print_tables(report: dict[str, Any], plain: bool) -> None:
    """Print the document as text: a few lines on what was timed, and tables."""
    box, made = report["machine"], report["model"]
    speeds = report["bandwidth_bytes_per_second"].items()
    versions = ", ".join(f"{name} {v}" for name, v in report["versions"].items())
    loads = ", ".join(f"{name} {s:.1f} s" for name, s in report["load_seconds"].items())
    ops = ", ".join(f"{chosen} ({name})" for name, chosen in report["ops"].items())
    read = ", ".join(f"{speed / 1e9:.1f} GB/s ({name})" for name, speed in speeds)
    settings = report["settings"]
    drawn = ", ".join(f"{name} {value:g}" for name, value in settings["sampling"].items())
    drawn = drawn if settings["sampling"]["temperature"] else "greedy"
    common.say(
        f"{made['name']}{', random weights' * made['random_weights']}, {report['dtype']}: "
        f"{made['layers']} layers, {common.mebibytes(made['weight_bytes'])}; "
        f"{settings['max_tokens']} new tokens, {drawn}, {settings['repeats']} rounds"
    )
    common.say(
        f"{box['processor']}, {box['threads']} threads, {box['system']}, Python {box['python']}"
    )
    print(
        f"versions: {versions}" + f"; preloaded {settings['preload']}" * bool(settings["preload"])
    )
    print(f"operations: {ops}; memory read at best at: {read}; loaded in: {loads}")
    place = ["engine", "mode", "lanes", "prompt"]
    head = [*place, "first(ms)", "step(ms)", "10-90%", "tokens/s", "total(s)", "peak", "share"]
    head += ["of best"]
    print_table("", head, [_result_row(r) for r in report["results"]], (0, 1), plain)
    print_table(
        "time of a joint step over an independent one",
        ["engine", "lanes", "prompt", "step"],
        [[_case(r)[0], *_case(r)[2:], spread(r["step"])] for r in report["joint_cost"]],
        (0,),
        plain,
    )
    print_table(
        "time of a step for every row in the cache; over reading it at the measured bandwidth",
        ["engine", "mode", "lanes", "us/row", "over"],
        [
            [*_case(r)[:3], f"{r['seconds_per_row'] * 1e6:.2f}", f"{r['over_bandwidth']:.2f}"]
            for r in report["context_slope"]
        ],
        (0, 1),
        plain,
    )
    print_table(
        "where a step goes, ms; Python is us a step and layer (MLX: every operation waited for)",
        [*place, *PARTS, "step", "Python"],
        [_profile_row(r) for r in report["profiles"]],
        (0, 1),
        plain,
    )


def _case(r: dict[str, Any]) -> list[str]:
    return [str(r[key]) for key in ("engine", "mode", "lanes", "prompt_tokens") if key in r]


def _result_row(r: dict[str, Any]) -> list[str]:
    step = r["step_seconds"]
    shares = (r["bandwidth_share"], r["bandwidth_share_of_best"])
    return [
        *_case(r),
        f"{r['first_token_seconds'] * 1000:.1f}",
        f"{step['median'] * 1000:.2f}",
        f"{step['p10'] * 1000:.2f}-{step['p90'] * 1000:.2f}",
        f"{r['tokens_per_second']:.1f}",
        f"{r['total_seconds']:.2f}",
        common.mebibytes(r["peak_memory_bytes"]),
        *("-" if share is None else f"{share:.0%}" for share in shares),
    ]


def _profile_row(r: dict[str, Any]) -> list[str]:
    parts = [f"{r['parts'][part] * 1000:.2f}" for part in PARTS]
    return [*_case(r), *parts, f"{r['step'] * 1000:.2f}", f"{r['python_per_layer'] * 1e6:.0f}"]


def spread(values: dict[str, float]) -> str:
    """A median and its range, as text."""
    return f"{values['median']:.2f} ({values['low']:.2f}-{values['high']:.2f})"
