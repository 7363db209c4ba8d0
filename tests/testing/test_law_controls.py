"""The tests are tested: bugs planted one at a time, each of which a named law or oracle must catch.

A plant replaces one piece of the package: a function, or a few characters of one (`planting`). The
laws are checked on the same cases with and without it. The summary at the end lists bug and law.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_machine import SCRIPT, follow, run_machine
from hypothesis import Phase, given, settings
from planting import Patch, Plant, swap
from plants_additions import ADDITIONS
from plants_decoder import DECODER
from plants_decoding import DECODING
from plants_lanes import LANES
from plants_segments import SEGMENTS

from tinylane.core import cache, decoder, rope
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.core.rope import RopeConfig
from tinylane.testing import EXTRA, LAWS, LawViolation, check, example_case

CASES = range(50)
PLANTS = [*LANES, *DECODER, *DECODING, *SEGMENTS, *ADDITIONS]


def frequencies_as_recorded() -> None:
    """The frequencies that transformers gives, see record_rope.py."""
    recorded = json.loads((Path(__file__).parents[1] / "data" / "rope.json").read_text())
    for entry in recorded:
        theta, factor = rope.frequencies(RopeConfig(**entry["rope"]), entry["head_dim"])
        good = np.allclose(theta, entry["theta"], rtol=1e-6, atol=0)
        if not (good and abs(factor - entry["factor"]) < 1e-6):
            raise AssertionError(entry["name"])


def reach_as_powers() -> None:
    """reaches() is the transitive closure, here by powers of the matrix."""
    for seed in range(30):
        v = np.random.default_rng(seed).random((5, 5)) < 0.3
        power = np.linalg.matrix_power((v | np.eye(5, dtype=bool)).astype(float), 5) > 0
        if not np.array_equal(LaneMask(v).reaches(), power):
            raise AssertionError(v)


QUICK = {"max_examples": 100, "phases": (Phase.generate,), "derandomize": True, "database": None}


def machine() -> None:
    """The cache after any operations, see test_state_machines.py."""
    run_machine("numpy float64", **QUICK)


def script() -> None:
    """Decoding by random scripts, see test_state_machines.py."""
    settings(**QUICK)(given(**SCRIPT)(lambda **drawn: follow(**drawn)))()


ORACLES = {
    "frequencies": frequencies_as_recorded,
    "reach": reach_as_powers,
    "machine": machine,
    "script": script,
}


def violations(law: str, backend: str) -> str | None:
    """Check a law on the fixed cases; the first violation's message."""
    if law in ORACLES:
        try:
            ORACLES[law]()
        except AssertionError as error:
            return f"{law}: {error}"
        return None
    library, dtype = backend.split()
    for seed in CASES:
        case = example_case(seed)
        try:
            with np.errstate(all="ignore"):
                check(law, case.model(library, dtype), case.sample, case.choose)
        except LawViolation as violation:
            assert violation.law == law
            return str(violation)
    return None


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: Patch) -> None:
    monkeypatch.setattr(cache, "BLOCK", 3)


@pytest.mark.parametrize("plant", PLANTS, ids=[p.bug for p in PLANTS])
def test_planted_bug_is_caught(plant: Plant, monkeypatch: Patch, record_property: Any) -> None:
    if plant.backend.startswith("mlx"):
        pytest.importorskip("mlx.core")
    plant.plant(monkeypatch)
    assert violations(plant.law, plant.backend) is not None, f"{plant.law} did not catch it"
    record_property("planted", (plant.bug, plant.law))


@pytest.mark.parametrize("law", sorted({(p.law, p.backend) for p in PLANTS}), ids=" ".join)
def test_without_a_bug_the_same_cases_pass(law: tuple[str, str]) -> None:
    if law[1].startswith("mlx"):
        pytest.importorskip("mlx.core")
    assert violations(*law) is None


def test_every_law_and_oracle_catches_something() -> None:
    assert {p.law for p in PLANTS} >= set(LAWS) | set(EXTRA) - {"permutation"} | set(ORACLES)
    assert len({p.bug for p in PLANTS}) == len(PLANTS) >= 40


def test_a_plant_that_no_longer_applies_is_noticed(monkeypatch: Patch) -> None:
    with pytest.raises(AssertionError, match="0 times"):
        swap("rope.rotate", "no such text", "")(monkeypatch)


def test_the_tester_is_not_planted_in(monkeypatch: Patch) -> None:
    """What compares must not be broken by what is broken on purpose."""
    before = example_case(0)
    swap("rope.rotate", "x * c + flipped * s", "x * c")(monkeypatch)
    assert decoder.PLAIN.rotate is decoder.rotate is rope.rotate is cache.rotate
    after = example_case(0)
    assert np.array_equal(before.sample.tokens, after.sample.tokens)
    assert (before.sample.lanes == SHARED).any()
