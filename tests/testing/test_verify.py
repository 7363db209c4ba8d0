"""`tinylane verify`: sound models pass on every backend; a planted bug exits 1 and is named."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import helpers_cli
import numpy as np
import pytest
from helpers_checkpoint import quantized, small, weights
from helpers_checkpoint import write_checkpoint as write_folder
from planting import Patch, instead, swap

import tinylane
from tinylane.checkpoints import extras
from tinylane.checkpoints.adapter import save_adapter
from tinylane.core import cache, decoder
from tinylane.core.lanes import SHARED
from tinylane.core.model import Model
from tinylane.testing import at_size, checks, reference, subjects, verification
from tinylane.testing.samples import random_extras

ask, game, plain = helpers_cli.ask, helpers_cli.game, helpers_cli.plain  # fixtures
LAWS, NUMBERS = [*checks.LAWS], [law.number for law in checks.LAWS.values()]


def verified(ask: Any, folder: str, *more: object, code: int = 0) -> dict[str, Any]:
    """The JSON document of a run that ends with `code`."""
    got, out, err = ask("verify", folder, "--json", "--quiet", *more)
    assert got == code, err
    document = json.loads(out)
    assert document["holds"] is (code == 0)
    return document


def violated(document: dict[str, Any]) -> set[str]:
    """Names of the laws that do not hold."""
    findings = [f for run in document["runs"] for f in run["laws"]] + document["between"]
    assert all(f["holds"] == (f["violation"] == "") for f in findings)
    return {f["law"] for f in findings if not f["holds"]}


# ----------------------------------------------------------------------------------- sound models


@pytest.mark.parametrize("how", ["numpy float32", "numpy float64", "mlx float32", "mlx bfloat16"])
def test_a_sound_model_keeps_every_law_and_every_law_compared_something(ask, game, how):
    backend, dtype = how.split()
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    document = verified(ask, game, "--backend", backend, "--dtype", dtype)
    (run,) = document["runs"]
    assert (run["backend"], run["dtype"]) == (backend, dtype)
    assert [f["law"] for f in run["laws"]] == LAWS
    assert [f["number"] for f in run["laws"]] == NUMBERS
    assert all(f["compared"] > 0 and f["verdict"] == "holds" for f in run["laws"])
    exact = [f["law"] for f in run["laws"] if f["allowed"] == 0]
    assert exact == ["causality", "isolation", "identity", "seal"]
    assert [f["worst"] for f in run["laws"] if f["law"] in exact] == [0, 0, 0, 0]
    assert document["between"] == []


@pytest.mark.parametrize("kind", ["bridge", "lace"])
def test_a_model_whose_lanes_read_each_other_in_a_side_path(
    ask: Any, plain: str, tmp_path: Path, kind: str
) -> None:
    made = random_extras(helpers_cli.config(), (kind,), 4, 1)
    tensors = {name: extras.turned(name, value) for name, value in made.items()}
    save_adapter(tmp_path, helpers_cli.config(), tensors, {"visibility": "bridge"})
    (run,) = verified(ask, plain, "--adapter-path", tmp_path, "--samples", 3)["runs"]
    not_asked = {f["law"] for f in run["laws"] if not f["compared"]}
    assert not_asked == ({"group think", "blocks merge"} if kind == "bridge" else set())


def test_all_backends_are_compared_with_each_other(ask, game):
    pytest.importorskip("mlx.core")
    document = verified(ask, game, "--backend", "all", "--samples", 1)
    assert [(r["backend"], r["dtype"]) for r in document["runs"]] == [
        ("numpy", "float32"),
        ("mlx", "float32"),
    ]
    (pair,) = document["between"]
    assert pair["says"] == "numpy float32 agrees with mlx float32" and pair["number"] == 12
    assert 0 < pair["worst"] <= pair["allowed"]


def test_backends_are_compared_in_a_table_of_their_own(ask, game):
    pytest.importorskip("mlx.core")
    code, out, _ = ask("verify", game, "--backend", "all", "--samples", 1, "--quiet")
    assert code == 0
    title, head, row = out.splitlines()[-3:]
    assert title == "backends and dtypes against each other" and head.split()[0] == "law"
    assert row.startswith("12  numpy float32 agrees with mlx float32 ") and row.endswith("  holds")


def test_all_dtypes_of_a_backend(ask, game):
    document = verified(ask, game, "--backend", "numpy", "--dtype", "all", "--samples", 1)
    assert [r["dtype"] for r in document["runs"]] == ["float32", "float64"]
    assert len(document["between"]) == 1
    worst = [max(f["worst"] for f in r["laws"]) for r in document["runs"]]
    assert worst[0] > 1e-8 > worst[1]


@pytest.mark.parametrize("lanes", [1, 2, 7])
def test_any_number_of_lanes(ask, plain, lanes):
    document = verified(ask, plain, "--lanes", lanes, "--samples", 4)
    assert {s["lanes"] for s in document["samples"].values()} == {lanes}
    assert list(document["samples"]) == [*(f"random {k}" for k in range(4)), "hogwild"]


def test_a_quantized_model_is_compared_with_what_its_packing_says(ask, tmp_path):
    pytest.importorskip("mlx.core")
    raw = small(tie_word_embeddings=True)
    settings: dict[str, Any] = {"group_size": 32, "bits": 4}
    mxfp4 = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    paths = {"model.layers.1.mlp.up_proj": mxfp4, "model.layers.0.mlp.up_proj": None}
    tensors = quantized(weights(raw), paths, settings)
    raw["quantization"] = {**settings, "model.layers.1.mlp.up_proj": mxfp4}
    folder = str(write_folder(tmp_path, raw, tensors))
    document = verified(ask, folder, "--backend", "all", "--samples", 1)
    assert len(document["runs"]) == 2


# ----------------------------------------------------------------------------------- planted bugs

ANGLES, VISIBLE = "lanes.LaneRoPE.angles", "lanes.LaneMask.visible"
BUGS = {
    "rotation sign of lanes": (swap(ANGLES, "np.maximum(", "-np.maximum("), "group think"),
    "lane index off by one": (swap(ANGLES, "np.maximum(lanes, 0)", "(lanes + 1)"), "group think"),
    "rotation sign": (
        swap("rope.rotate", "x * c + flipped * s", "x * c - flipped * s"),
        "one lane",
    ),
    "a lane reads the future of others": (
        swap(VISIBLE, "age >= self.lag", "age >= self.lag - 1"),
        "causality",
    ),
    "a lane reads others a step late": (
        swap(VISIBLE, "age >= self.lag", "age > self.lag"),
        "backends",
    ),
    "a lane reads its own future": (swap(VISIBLE, "age >= 0,", "age >= -1,"), "causality"),
    "who reads whom, transposed": (
        swap(VISIBLE, "self.visibility[m, n]", "self.visibility[n, m]"),
        "isolation",
    ),
    "everybody reads everybody": (swap(VISIBLE, "self.visibility[m, n] & ", ""), "independent"),
    "the prompt turned by the lane": (
        swap(
            "lanes.LaneRoPE.views",
            "return turned, (base, turned), (~shared).astype(np.int32)",
            "pass",
        ),
        "shared prompt",
    ),
    "cached values of the last pass only": (
        instead(cache, "_grown", lambda old: lambda buffer, *rest: old(None, *rest)),
        "steps",
    ),
    "a query of Hogwild! right behind the prompt": (
        swap("hogwild.Hogwild.views", "begin[is_own] + index", "length[:, 0] + index"),
        "backends",
    ),
    "a block of Hogwild! as long as its lane, seen or not": (
        swap(
            "hogwild.Hogwild.views",
            "np.where(is_own, 0, length)",
            "np.where(is_own, 0, (key_lanes == blocks[:, None]).sum(axis=1))",
        ),
        "company",
    ),
    "absolute positions leak into the embedding": (
        instead(
            decoder,
            "forward",
            lambda old: (
                lambda params, config, tokens, plan, *rest: (
                    old(params, config, tokens, plan, *rest) * (1 + 0.05 * plan.keys[0][0][:, :1])
                )
            ),
        ),
        "token shift",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_exits_1_and_the_law_is_named(ask, game, monkeypatch: Patch, bug):
    plant, law = BUGS[bug]
    plant(monkeypatch)
    monkeypatch.setattr(cache, "BLOCK", 3)
    broken = violated(verified(ask, game, code=1))
    assert law in broken
    code, out, err = ask("verify", game, "--quiet")
    assert code == 1
    line = next(x for x in out.splitlines() if x.split()[1:3] == law.split()[:2] or law in x)
    assert line.endswith("VIOLATED")
    assert err.startswith("tinylane: error: ") and "violation" in err and err.count("\n") == 1


def test_hogwild_is_asked_every_law_that_is_not_omega_s(ask, game):
    """Its sample leaves gaps between the prompt and a lane, which the unmodified model must not."""
    loaded = tinylane.load(game, "numpy", dtype="float64")
    samples = verification.samples_for(loaded, 4, 1)
    sample = samples["hogwild"]
    run = verification.verify(loaded, {"hogwild": sample})
    compared = {f.law: f.compared for f in run.findings}
    none = [law for law, count in compared.items() if not count]
    omega = ["shared prompt", "periodicity", "group think"]
    assert none == [*omega, "permuted paths", "fork join", "moved cache"]
    assert all(f.holds for f in run.findings)
    assert [f.verdict for f in run.findings if f.law in none] == ["nothing to compare"] * 6
    closed = at_size.gapless(sample)
    assert [s.positions[s.lanes == 0].min() for s in (sample, closed)] == [18, 16]
    assert at_size.gapless(samples["random 0"]) is samples["random 0"]


def test_a_bug_of_one_backend_is_named_in_the_comparison(ask, game, monkeypatch: Patch):
    pytest.importorskip("mlx.core")
    from tinylane.core import mlx_ops

    monkeypatch.setattr("tinylane.checkpoints.load.SMALL", 0)  # the fast operations, however small
    instead(mlx_ops, "gated", lambda old: lambda gate, up: old(gate, up) * 1.01)(monkeypatch)
    document = verified(ask, game, "--backend", "all", code=1)
    numpy, mlx = document["runs"]
    assert all(f["holds"] for f in numpy["laws"])
    assert not all(f["holds"] for f in mlx["laws"] if f["law"] == "backends")
    assert not document["between"][0]["holds"]


def test_damaged_weights_are_a_violation(ask, tmp_path):
    tensors = weights(small())
    tensors["model.norm.weight"] = np.full(64, np.nan, np.float32)
    folder = str(write_folder(tmp_path, small(), tensors))
    with pytest.warns(UserWarning, match="NaN"):
        tinylane.load(folder, "numpy")
    document = verified(ask, folder, "--samples", 1, code=1)
    assert "backends" in violated(document) and document["runs"][0]["sensitivity"] == 1


# ------------------------------------------------------------------------------ what is told, shown


def test_the_duration_is_told_before_and_the_passes_are_counted(ask, game, monkeypatch: Patch):
    sizes: list[int] = []
    definitions: Counter[str] = Counter()
    call = Model.__call__

    def counted(self: Model, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(tokens))
        return call(self, tokens, *args, **kwargs)

    def counting(old: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            definitions["all"] += 1
            return old(*args, **kwargs)

        return run

    loaded = tinylane.load(game, "numpy")
    for n in (1, 4):
        samples = verification.samples_for(loaded, n, 3, prompt=[1, 2, 3])
        with monkeypatch.context() as patch:
            patch.setattr(Model, "__call__", counted)
            for module in (checks, subjects):
                patch.setattr(module, "reference", counting(reference.reference))
            sizes.clear()
            definitions.clear()
            verification.verify(loaded, samples)
        foretold = [at_size.passes(s) for s in samples.values()]
        assert len(sizes) == sum(len(rows) for rows, _ in foretold)
        assert sum(sizes) == pytest.approx(sum(sum(rows) for rows, _ in foretold), rel=0.1)
        assert definitions["all"] == sum(times for _, times in foretold)
    code, _, err = ask("verify", game)
    assert code == 0 and "368 passes" in err
    assert re.search(r"by definition: (under a second|about [\d:.]+( s)?)\n$", err)
    assert ask("verify", game, "--quiet")[2] == ""


def test_the_table_has_lines_elsewhere_and_rules_on_a_terminal(ask, game, monkeypatch: Patch):
    code, out, _ = ask("verify", game, "--quiet", "--samples", 1)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 2 + len(LAWS)
    assert lines[1].split() == ["law", "worst", "error", "tolerance", "used", "rows", "verdict"]
    assert all(line.endswith("holds") for line in lines[2:])
    assert "\x1b" not in out
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    code, out, _ = ask("verify", game, "--quiet", "--samples", 1)
    assert code == 0 and "━" in out and out.count("holds") == len(LAWS)


def test_a_prompt_is_one_more_sample(ask, plain, tmp_path):
    document = verified(ask, plain, "--samples", 1, "--prompt", "cups ABC")
    assert list(document["samples"]) == ["prompt", "random 0", "hogwild"]
    words = " ".join(["cups", *["A"] * 300])
    code, out, err = ask("verify", plain, "--samples", 1, "--prompt", words, "--json")
    assert code == 0 and "128 are used" in err
    rows = json.loads(out)["samples"]["prompt"]["rows"]
    assert rows == 128 + document["samples"]["random 0"]["rows"] - verification.PROMPT


def test_the_same_seed_draws_the_same_samples(game):
    loaded = tinylane.load(game, "numpy")
    first, again, other = (verification.samples_for(loaded, 4, 3, seed) for seed in (0, 0, 1))
    assert [repr(s) for s in first.values()] == [repr(s) for s in again.values()]
    assert [repr(s) for s in first.values()] != [repr(s) for s in other.values()]


def test_the_first_sample_has_the_model_s_own_settings(game, plain):
    loaded = tinylane.load(game, "numpy")
    own = verification.samples_for(loaded, 4, 1)["random 0"]
    assert own.rope.same_as(loaded.lane_rope) and own.mask.visibility.all()
    assert (own.lanes == SHARED).sum() == verification.PROMPT
    untrained = verification.samples_for(tinylane.load(plain, "numpy"), 4, 1)["random 0"]
    assert untrained.rope.omega.any() and untrained.mask.visibility.all()


@pytest.mark.parametrize(
    "more",
    [
        ("--samples", 0),
        ("--lanes", 0),
        ("--lanes", 65),
        ("--seed", -1),
        ("--prompt", ""),
        ("--backend", "numpy", "--dtype", "bfloat16"),
        ("--dtype", "int8"),
    ],
)
def test_bad_arguments_are_one_line(ask, game, more):
    code, out, err = ask("verify", game, *more)
    assert code == 2 and out == "" and err.count("\n") == 1


def test_blurred_is_said_where_16_bits_are_too_few(ask, game, monkeypatch: Patch):
    pytest.importorskip("mlx.core")
    monkeypatch.setattr(verification, "_sensitivity", lambda *args: 100.0)
    asked = ("verify", game, "--samples", 1, "--backend", "mlx", "--dtype", "bfloat16")
    code, _, err = ask(*asked)
    assert code == 0 and "only the exact laws say anything about it" in err


def test_the_package_s_own_model_is_the_default(ask, game, monkeypatch: Patch):
    from tinylane.commands import common

    monkeypatch.setattr(common, "embedded", lambda: Path(game))
    code, out, _ = ask("verify", "--quiet", "--samples", 1)
    assert code == 0 and out.startswith("the model inside, numpy float32, ")
