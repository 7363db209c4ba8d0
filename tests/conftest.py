"""Hypothesis profiles; after the run, a summary of what the property tests tried and measured.

Profiles: `dev` (default), `ci` (chosen where CI is set: the same examples every time, no database),
`thorough`. Choose by `--hypothesis-profile`. MLX does not compile kernels in tests.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

# Before NumPy, MLX and torch are imported. One thread: products this small only wait for one
# another, and threads of two processes on two cores wait so long that torch takes 50 times.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")  # its presence counts
os.environ.setdefault("MLX_ENABLE_TF32", "0")  # float32 is to mean float32 on a GPU too
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

import pytest
from helpers_browser import browser  # a fixture
from helpers_virtual_mac import widen
from hypothesis import HealthCheck, Verbosity, settings
from hypothesis.statistics import collector, describe_statistics

__all__ = ["browser"]

_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "verbosity": Verbosity.normal,
}
settings.register_profile("dev", max_examples=15, **_COMMON)
settings.register_profile("ci", max_examples=25, derandomize=True, database=None, **_COMMON)
settings.register_profile("thorough", max_examples=500, **_COMMON)
VIRTUAL = widen()  # None but on GitHub's macOS runners
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Count the examples of a test's properties, also of those that it defines inside itself."""
    texts: list[str] = []
    began = time.perf_counter()
    with collector.with_value(lambda stats: texts.append(describe_statistics(stats))):
        yield
    texts.append(getattr(item, "hypothesis_statistics", ""))
    counts = [int(count) for text in texts for count in re.findall(r"(\d+) passing", text)]
    if counts:
        item.user_properties.append(("examples", (sum(counts), time.perf_counter() - began)))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Examples and time of the properties; worst error of every law; planted bugs caught.

    pytest's cache is told which tests were skipped (or files, where all of it was): `.ci/run` asks.
    """
    if cache := getattr(config, "cache", None):
        names = dict.fromkeys(x.nodeid for x in terminalreporter.stats.get("skipped", []))
        cache.set("tinylane/skipped", list(names))
    if VIRTUAL is not None:
        terminalreporter.section("a virtual Mac")
        terminalreporter.write_line(VIRTUAL)
    reports = terminalreporter.stats.get("passed", [])
    by_name: dict[str, list[Any]] = {}
    for report in reports:
        for name, value in report.user_properties:
            by_name.setdefault(name, []).append(value)
    write, many = terminalreporter.write_line, config.getoption("verbose") >= 0  # -q in addopts
    if laws := by_name.get("law"):
        terminalreporter.section("laws")
        for law in dict.fromkeys(entry[0] for entry in laws):
            runs = [entry[1:] for entry in laws if entry[0] == law]
            errors = [f"{name} {ratio:.1%}" for name, _, _, ratio in runs if ratio is not None]
            said = "of the tolerance: " + ", ".join(errors) if errors else "exactly, on all"
            tried, seconds = sum(run[1] for run in runs), sum(run[2] for run in runs)
            write(f"{law:14} {tried:6} examples {seconds:6.1f} s  {said}")
    if inputs := by_name.get("hostile"):
        terminalreporter.section("hostile inputs")
        for line in inputs:
            write(line)
    if bugs := by_name.get("planted"):
        terminalreporter.section("planted bugs")
        if many:
            for bug, law in bugs:
                write(f"{bug:66} {law}")
        by_law = Counter(law for _, law in bugs)
        write(", ".join(f"{law} {count}" for law, count in by_law.items()))
        write(
            f"{len(bugs)} planted bugs, each caught by the law it should break (-v -v lists them)"
        )
    if counts := by_name.get("examples"):
        profile = settings.get_current_profile_name()
        terminalreporter.section("properties")
        write(
            f"profile {profile}: {len(counts)} properties, {sum(n for n, _ in counts)} examples, "
            f"{sum(t for _, t in counts):.1f} s"
        )
