"""An adapter says how prompts are written; every command follows it; what a flag says wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helpers_eval
import numpy as np
import pytest

import tinylane
from tinylane.checkpoints.adapter import fill_all, save_adapter
from tinylane.checkpoints.config_json import read_config
from tinylane.commands.cli import main
from tinylane.core.errors import TinylaneError
from tinylane.files.run_dir import read_run
from tinylane.view.run_file import load_run

CHAT = "{% for m in messages %}<{{ m.content }}>{% endfor %}!"
SAYS = {"visibility": "joint", "raw": True, "lane_prompt": "{lane}/{lanes}:"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a chat template, and in `a` an adapter that was trained on raw prompts."""
    folder = helpers_eval.checkpoint(tmp_path_factory.mktemp("said") / "m")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": CHAT}))
    config = read_config(folder)
    omega = np.full(config.head_dim // 2, 0.3)
    save_adapter(folder / "a", config, {"lane_rope.omega": omega}, SAYS)
    return folder


def spelled(model: Any, ids: Any) -> str:
    return model.tokenizer.decode(ids, skip_special=False)


def run(base: Path, tmp_path: Path, *more: str) -> tuple[str, list[str], np.ndarray]:
    """The prompt, the lane prompts and the visibility of a run of `tinylane generate`."""
    out = tmp_path / "run.json"
    words = ["generate", "--model", str(base), "--adapter-path", str(base / "a"), "--lanes", "2"]
    words += ["--prompt", "ab", "--max-tokens", "2", "--save", str(out), "--seed", "1", "--quiet"]
    assert main([*words, *more]) == 0
    saved, model = load_run(out), tinylane.load(base)
    lanes = [spelled(model, lane.prompt) for lane in saved.result.lanes]
    return spelled(model, saved.result.prompt), lanes, saved.lane_mask.visibility


def test_generate_follows_the_adapter_and_flags_win(base: Path, tmp_path: Path) -> None:
    prompt, lanes, visibility = run(base, tmp_path)
    assert (prompt, lanes) == ("ab", ["1/2:", "2/2:"]) and visibility.all()
    assert run(base, tmp_path, "--no-raw")[0] == "<ab>!"
    assert run(base, tmp_path, "--lane-prompt", "x", "")[1] == ["x", ""]
    assert run(base, tmp_path, "--visibility", "independent")[2].sum() == 2


def test_python_follows_the_adapter_and_arguments_win(base: Path) -> None:
    model = tinylane.load(base, adapter=base / "a")
    result = tinylane.generate(model, "ab", lanes=3, max_tokens=1)
    assert spelled(model, result.prompt) == "ab"
    assert [spelled(model, lane.prompt) for lane in result.lanes] == ["1/3:", "2/3:", "3/3:"]
    said = tinylane.generate(
        model, "ab", lanes=2, max_tokens=1, lane_prompts=["", "y"], template={"raw": False}
    )
    assert spelled(model, said.prompt) == "<ab>!"
    assert [spelled(model, lane.prompt) for lane in said.lanes] == ["", "y"]
    plain = tinylane.load(base)  # the control: without the adapter
    alone = tinylane.generate(plain, "ab", lanes=2, max_tokens=1)
    assert spelled(plain, alone.prompt) == "<ab>!" and not any(x.prompt for x in alone.lanes)


def test_eval_and_collect_follow_it_and_a_run_knows(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps({"question": "q", "answer": "3"}) + "\n")
    words = ["--model", str(base), "--adapter-path", str(base / "a"), "--max-tokens", "2"]
    words += ["--data", str(data), "--template", "{question}", "--compare", "exact", "--quiet"]
    out = tmp_path / "c"
    assert main(["collect", "jsonl", *words, "--lanes", "2", "--out", str(out)]) == 0
    model = tinylane.load(base)
    ((_, row),) = read_run(out)[1]
    assert spelled(model, row["prompt_ids"]) == "q" and row["lane_prompts"] == ["1/2:", "2/2:"]
    out = tmp_path / "e"
    assert main(["eval", "jsonl", *words, "--lanes", "2", "--out", str(out)]) == 0
    settings = read_run(out)[0]["settings"]
    assert settings["told_apart"] is True
    assert settings["trained"]["raw"] is True
    assert settings["trained"]["lane_prompts"] == ["1/2:", "2/2:"]


def test_training_writes_what_its_transcripts_began_with(base: Path, tmp_path: Path) -> None:
    """From `tinylane transcripts` to an adapter that says how it wants to be asked."""
    pytest.importorskip("mlx.core", exc_type=ImportError)
    data, out = tmp_path / "s.jsonl", tmp_path / "out"
    words = ["transcripts", "sums", "--numbers", "8", "--count", "4", "--out", str(data)]
    assert main(words) == 0
    train = ["train", "sft", "--model", str(base), "--data", str(data), "--lanes", "1", "2", "4"]
    train += ["--steps", "1", "--batch-size", "2", "--quiet"]
    assert main([*train, "--raw", "--out", str(out)]) == 0
    said = json.loads((out / "adapter_config.json").read_text())
    assert {name: said[name] for name in SAYS} == SAYS
    again = tmp_path / "again"  # goes on from that adapter, and without --raw
    assert main([*train, "--adapter-path", str(out), "--out", str(again)]) == 0
    assert json.loads((again / "adapter_config.json").read_text())["raw"] is True
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[0]["lane_prompts"] = ["one"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixed = tmp_path / "mixed"  # lanes that do not all begin in one way, in the chat template
    assert main([*train, "--out", str(mixed)]) == 0
    said = json.loads((mixed / "adapter_config.json").read_text())
    assert "lane_prompt" not in said and "raw" not in said


@pytest.mark.parametrize(
    ("wrong", "says"), [({"raw": 1}, "raw is 1"), ({"lane_prompt": ["a"]}, "lane_prompt is")]
)
def test_what_an_adapter_cannot_say_is_refused(
    base: Path, tmp_path: Path, wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(TinylaneError, match=says):
        save_adapter(tmp_path / "b", read_config(base), {}, {"visibility": "joint", **wrong})


def test_a_lane_prompt_is_filled_in_for_every_lane() -> None:
    assert fill_all("{lane}/{lanes}:", 2) == ["1/2:", "2/2:"]
    assert fill_all("", 3) == ["", "", ""] and fill_all("go", 1) == ["go"]
