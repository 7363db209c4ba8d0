"""tinylane as a model of lm-eval: what its `hf` says of the checkpoint, and a task of a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers_eval import checkpoint
from helpers_real import smollm2  # a fixture
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tinylane.core.errors import TinylaneError
from tinylane.lm_eval import TinylaneLM

__all__ = ["smollm2"]

PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " London"),
    ("The capital of France is", " a city in the north, on the river Seine"),
    ("", "Once upon a time"),
    ("2 + 2 = ", "4"),
    ("Spaces behind  ", "the context"),
]


def asked(kind: str, arguments: list[tuple]) -> list[Any]:
    return [Instance(kind, {}, each, k) for k, each in enumerate(arguments)]


@pytest.mark.real
def test_likelihoods_are_those_of_hf_on_the_real_model(smollm2: Path) -> None:
    """To 1e-4, choices of one question together, and every verdict about greedy decoding."""
    ours = TinylaneLM(str(smollm2), backend="numpy", dtype="float32")
    theirs = HFLM(str(smollm2), device="cpu", dtype="float32")
    requests = asked("loglikelihood", PAIRS)
    both = zip(ours.loglikelihood(requests), theirs.loglikelihood(requests), strict=True)
    for (a, greedy), (b, also) in both:
        assert a == pytest.approx(b, abs=1e-4) and greedy == also
    rolling = asked("loglikelihood_rolling", [("A text by itself. " * 12,)])
    for small in (None, 16):
        ours.max_length = small or ours.max_length
        theirs._max_length = small
        found, expected = (m.loglikelihood_rolling(rolling)[0] for m in (ours, theirs))
        assert found == pytest.approx(expected, abs=1e-3)
    theirs._max_length = None
    ours.max_length = theirs.max_length
    until = asked(
        "generate_until", [("The capital of France is", {"until": ["."], "max_gen_toks": 8})]
    )
    assert ours.generate_until(until) == theirs.generate_until(until)


def test_a_task_of_a_file_is_scored_without_any_download(tmp_path: Path) -> None:
    """The harness's own evaluation, on a random checkpoint."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = [
        {"q": f"{a} + {b} =", "choices": [str(a + b), "no"], "gold": 0} for a, b in ((1, 2), (3, 4))
    ]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/sums.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: q\n"
        'doc_to_choice: choices\ndoc_to_target: gold\ntarget_delimiter: " "\n'
        "metric_list: [{metric: acc}]\n"
    )
    model = TinylaneLM(str(checkpoint(tmp_path / "model")), backend="numpy")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = simple_evaluate(model, tasks=["sums"], task_manager=manager, bootstrap_iters=0)
    pairs = [(row["q"], f" {choice}") for row in rows for choice in row["choices"]]
    sums = [value for value, _ in model.loglikelihood(asked("loglikelihood", pairs))]
    right = [sums[0] > sums[1], sums[2] > sums[3]]
    assert found["results"]["sums"]["acc,none"] == pytest.approx(sum(right) / 2)
    assert all(math.isfinite(value) for value in sums)


def test_arguments_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TinylaneError, match="model_args: 'peft' is not known"):
        TinylaneLM(str(checkpoint(tmp_path / "model")), peft="x")
