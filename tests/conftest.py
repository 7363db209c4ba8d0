"""Hypothesis profiles, and what the property tests tried and measured, after the run.

Profiles: `dev` (default), `ci` (chosen where CI is set: the same examples every time, no database),
`thorough`. Choose by `--hypothesis-profile`. MLX does not compile kernels in tests.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")  # its presence counts, before mlx is imported

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.statistics import collector, describe_statistics

_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "verbosity": Verbosity.normal,
}
settings.register_profile("dev", max_examples=15, **_COMMON)
settings.register_profile("ci", max_examples=25, derandomize=True, database=None, **_COMMON)
settings.register_profile("thorough", max_examples=500, **_COMMON)
NO_SHRINK = tuple(phase for phase in Phase if phase is not Phase.shrink)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Count the examples of a test's properties, the ones it defines inside itself too."""
    texts: list[str] = []
    began = time.perf_counter()
    with collector.with_value(lambda stats: texts.append(describe_statistics(stats))):
        yield
    texts.append(getattr(item, "hypothesis_statistics", ""))
    found = [int(count) for text in texts for count in re.findall(r"(\d+) passing", text)]
    if found:
        item.user_properties.append(("examples", (sum(found), time.perf_counter() - began)))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Examples and time of the properties; worst error of every law; planted bugs caught."""
    reports = terminalreporter.stats.get("passed", [])
    by_name: dict[str, list[Any]] = {}
    for report in reports:
        for name, value in report.user_properties:
            by_name.setdefault(name, []).append(value)
    if laws := by_name.get("law"):
        terminalreporter.section("laws")
        for law, backend, examples, seconds, ratio in laws:
            error = "exact" if ratio is None else f"worst error {ratio:6.1%} of what is allowed"
            terminalreporter.write_line(
                f"{law:14} {backend:14} {examples:5} examples {seconds:6.1f} s  {error}"
            )
    if bugs := by_name.get("planted"):
        terminalreporter.section("planted bugs")
        for bug, law in bugs:
            terminalreporter.write_line(f"{bug:60} caught by: {law}")
        terminalreporter.write_line(f"{len(bugs)} planted bugs, all caught")
    if counts := by_name.get("examples"):
        profile = settings.get_current_profile_name()
        terminalreporter.section("properties")
        terminalreporter.write_line(
            f"profile {profile}: {len(counts)} properties, {sum(n for n, _ in counts)} examples, "
            f"{sum(t for _, t in counts):.1f} s"
        )
