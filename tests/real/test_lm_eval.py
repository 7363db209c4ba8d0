"""tinylane as a model of lm-eval: what its `hf` says of the checkpoint, and a task of a file."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers_eval import checkpoint
from helpers_real import smollm2  # a fixture
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import tinylane
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


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with a chat template and a short context."""
    folder = checkpoint(tmp_path_factory.mktemp("lm") / "talker", context=64)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="module")
def pair(talker: Path) -> tuple[Any, Any]:
    """The same checkpoint, here and by `hf`."""
    return (
        TinylaneLM(str(talker), backend="numpy", dtype="float32"),
        HFLM(str(talker), device="cpu", dtype="float32"),
    )


def test_what_does_not_fit_is_cut_as_by_hf(pair: tuple[Any, Any]) -> None:
    """Contexts from the left, whole texts in windows, a prompt that leaves room for its answer."""
    ours, theirs = pair
    texts = [("a b", " d"), ("", "x y"), ("word " * 40, " end \u00e9")]
    found, expected = (m.loglikelihood(asked("loglikelihood", texts)) for m in pair)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    long = asked("loglikelihood_rolling", [("A text by itself \u00e9 \u6f22. " * 12,), ("x",)])
    sums = ours.loglikelihood_rolling(long), theirs.loglikelihood_rolling(long)
    np.testing.assert_allclose(*sums, rtol=1e-5)
    for until in (
        {"until": ["a", "7"], "max_gen_toks": 12},
        {"max_gen_toks": 5},
        {"until": "z", "max_gen_toks": 10},
    ):
        for text in ("The word", "w " * 100):
            one = asked("generate_until", [(text, until)])
            assert ours.generate_until(one) == theirs.generate_until(one)
    assert (ours.eot_token_id, ours.max_length) == (theirs.eot_token_id, theirs.max_length)
    assert ours.prefix_token_id == theirs.prefix_token_id
    assert ours.tok_encode("a b", add_special_tokens=False) == theirs.tok_encode("a b")


def test_samples_are_those_of_the_settings(pair: tuple[Any, Any]) -> None:
    asks = {"do_sample": True, "temperature": 2.0, "top_k": 5, "max_gen_toks": 9, "until": ["z"]}
    drawn = pair[0].generate_until(asked("generate_until", [("The word", asks)]))
    sampler = tinylane.Sampler(temperature=2.0, top_k=5)
    same = tinylane.generate(
        pair[0].model, pair[0].tok_encode("The word"), max_tokens=9, stop=["z"], sampler=sampler
    )
    assert drawn == same.texts
    assert drawn != pair[0].generate_until(
        asked("generate_until", [("The word", {**asks, "do_sample": False})])
    )


@pytest.mark.parametrize("goes_on", [False, True])
def test_conversations_are_written_as_by_hf(pair: tuple[Any, Any], goes_on: bool) -> None:
    """Where a task begins the answer (lm-eval's gen_prefix), nothing ends that message."""
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The answer is"}]
    talk = talk if goes_on else talk[:1]
    texts = [m.apply_chat_template(talk, add_generation_prompt=not goes_on) for m in pair]
    assert texts[0] == texts[1] and texts[0].endswith(" is" if goes_on else "[assistant]")
    assert pair[0].chat_template() == TEMPLATE and pair[0].chat_template("tool_use") is None


def test_what_is_missing_is_a_line(tmp_path: Path, talker: Path) -> None:
    plain = TinylaneLM(str(checkpoint(tmp_path / "plain")), backend="numpy")
    with pytest.raises(TinylaneError, match="no chat template; leave --apply_chat_template out"):
        plain.apply_chat_template([{"role": "user", "content": "x"}])
    with pytest.raises(TinylaneError, match="max_length is 65; expected a whole number from 2 to"):
        TinylaneLM(str(talker), max_length=65)
    (tmp_path / "plain" / "tokenizer.json").unlink()
    with pytest.raises(TinylaneError, match="has no tokenizer"):
        TinylaneLM(str(tmp_path / "plain"), backend="numpy")
    code = "import sys; sys.modules['lm_eval'] = None; import tinylane.lm_eval"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "TinylaneError: tinylane.lm_eval needs lm-eval: pip install lm-eval" in done.stderr


def test_arguments_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TinylaneError, match="model_args: 'peft' is not known"):
        TinylaneLM(str(checkpoint(tmp_path / "model")), peft="x")
