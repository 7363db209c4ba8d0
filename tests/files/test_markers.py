"""Where MLX is installed and where not: the markers of pyproject.toml on the machines there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

# platform.system(), .machine(), .release(), .version(), as these systems say them
DARWIN = "Darwin Kernel Version {0}: Wed Jul  5 22:22:05 PDT 2023; root:xnu-8796~6/RELEASE_{1}_T1"
MACHINES = {
    "macOS 12, Apple silicon": ("Darwin", "arm64", "21.6.0"),
    "macOS 13, Apple silicon": ("Darwin", "arm64", "22.6.0"),
    "macOS 14, Apple silicon": ("Darwin", "arm64", "23.4.0"),
    "macOS 15, Apple silicon": ("Darwin", "arm64", "24.1.0"),
    "macOS 26, Apple silicon": ("Darwin", "arm64", "25.0.0"),
    "macOS 13, Intel": ("Darwin", "x86_64", "22.6.0"),
    "macOS 15, Intel": ("Darwin", "x86_64", "24.1.0"),
    "Linux": ("Linux", "x86_64", "6.8.0-1019-azure"),  # no version: comparing it as one raises
    "Linux, ARM": ("Linux", "aarch64", "5.15.0+"),
    "Windows": ("Windows", "AMD64", "10"),
}
WITH_MLX = {name for name in MACHINES if name.endswith("Apple silicon")}
WITH_MLX -= {"macOS 12, Apple silicon", "macOS 13, Apple silicon"}


def environment(name: str) -> dict[str, str]:
    system, machine, release = MACHINES[name]
    version = DARWIN.format(release, machine.upper()) if system == "Darwin" else "#1 SMP"
    return {
        "platform_system": system,
        "sys_platform": {"Darwin": "darwin", "Linux": "linux"}.get(system, "win32"),
        "platform_machine": machine,
        "platform_release": release,
        "platform_version": version,
    }


def asked(lines: list[str], name: str) -> list[str]:
    """The requirements on MLX that hold on a machine."""
    held = []
    for line in lines:
        one = Requirement(line)
        if one.name == "mlx" and (one.marker is None or one.marker.evaluate(environment(name))):
            held.append(str(one).split(";")[0])
    return held


@pytest.fixture(scope="module")
def project() -> Any:
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", MACHINES)
def test_mlx_is_asked_for_where_it_has_a_wheel(name: str, project: Any) -> None:
    """0.30 and later: macOS 14 on Apple silicon, and Linux, where only the extras ask for it."""
    extras = project["optional-dependencies"]
    assert asked(project["dependencies"], name) == (["mlx>=0.30"] if name in WITH_MLX else [])
    for extra in ("mlx", "test"):
        expected = ["mlx>=0.30"] if name in WITH_MLX else []
        expected += ["mlx[cpu]>=0.30"] if name.startswith("Linux") else []
        assert asked(extras[extra], name) == expected


def test_the_old_requirement_is_caught() -> None:
    """The control: what could not be installed on macOS 13."""
    old = ["mlx>=0.30; platform_system == 'Darwin' and platform_machine == 'arm64'"]
    assert asked(old, "macOS 13, Apple silicon") and not asked(old, "macOS 13, Intel")
