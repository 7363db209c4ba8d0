"""Training through `tinylane.hf`: the MLX trainer's gradients, and a PEFT adapter that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
mx = pytest.importorskip("mlx.core")

from helpers_tune import several, tuner
from test_architectures import tiny

import tinylane
import tinylane.hf as hf
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.train.data import Transcript, rows
from tinylane.train.parameters import Choice


def model_and_files(folder: Path, **more: Any) -> tuple[Any, tinylane.Model]:
    """A random Llama of 23 tokens: as transformers has it, and as the MLX trainer reads it."""
    model = tiny("llama", vocab_size=23, num_hidden_layers=2, eos_token_id=2, **more)
    model.save_pretrained(folder)
    return model, tinylane.load(folder, backend="mlx", dtype="float32")


def loss_of(wrapped: hf.HFModel, omega: Any, transcripts: list[Transcript]) -> Any:
    """The mean negative log-likelihood of the lanes' tokens, with torch."""
    total, count = torch.zeros(()), 0
    for one in transcripts:
        r = rows(one)
        mask = LaneMask.joint(max(int(r.lanes.max()) + 1, 1))
        logits = wrapped.forward(r.tokens, r.positions, r.lanes, None, mask, omega)
        chosen = torch.log_softmax(logits[torch.tensor(r.sources)], dim=-1)
        total = total - chosen[torch.arange(len(r.follows)), torch.tensor(r.follows)].sum()
        count += len(r.follows)
    return total / count


def test_a_step_gives_the_gradients_of_the_mlx_trainer(tmp_path: Path) -> None:
    """Of every weight and of Omega, in float32. One lane, two and three, with and without ends."""
    model, ours = model_and_files(tmp_path)
    wrapped = hf.lanes(model)
    transcripts = several(count=4)
    start = LaneRoPE.ntk(ours.theta, 7.0, 3.0).omega
    step = tuner(transcripts, Choice(full=True, biases=False), start, ours, batch_size=4)
    outcome = step.outcome(0)
    omega = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    wrapped.lane_rope = LaneRoPE(start)
    loss = loss_of(wrapped, omega, transcripts)
    loss.backward()
    assert float(loss) == pytest.approx(outcome.loss, rel=1e-5)
    assert outcome.grads is not None
    theirs = dict(model.named_parameters())
    compared = 0
    for name, group in outcome.grads.items():
        for key, value in group.items():
            if name == "omega":
                mine = omega.grad.numpy()
            else:
                mine = theirs[key].grad.numpy()
                mine = mine.T if key != "model.embed_tokens.weight" and mine.ndim == 2 else mine
            expected = np.asarray(value)
            assert expected.shape == mine.shape, key
            assert np.abs(mine - expected).max() <= 2e-5 * np.abs(expected).max() + 1e-7, key
            compared += 1
    assert compared == 1 + len(theirs)


def test_a_gradient_of_another_mask_is_another(tmp_path: Path) -> None:
    """Negative control: lanes that do not read each other have other gradients."""
    model, _ = model_and_files(tmp_path)
    wrapped = hf.lanes(model)
    r = rows(several(count=2)[1])
    found = []
    for mask in (LaneMask.joint(3), LaneMask.independent(3)):
        model.zero_grad()
        wrapped.forward(r.tokens, r.positions, r.lanes, None, mask).logsumexp(-1).sum().backward()
        found.append(model.lm_head.weight.grad.clone())
    assert not torch.allclose(found[0], found[1], rtol=1e-2)


def test_a_peft_adapter_learns_through_lanes(tmp_path: Path) -> None:
    """Low-rank updates by `peft` and a learned Omega: the loss falls, and tinylane decodes it."""
    peft = pytest.importorskip("peft")
    model, _ = model_and_files(tmp_path)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    tuned = peft.get_peft_model(model, config)
    wrapped = hf.lanes(tuned)
    omega = torch.tensor(LaneRoPE.ntk(wrapped.theta, 8.0, 3.0).omega, requires_grad=True)
    wrapped.lane_rope = LaneRoPE(omega.detach().numpy())
    learned = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": learned}, {"params": [omega]}], lr=2e-2)
    transcripts = several(count=2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = loss_of(wrapped, omega, transcripts)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]
    assert not np.array_equal(omega.detach().numpy(), wrapped.lane_rope.omega)
    wrapped.lane_rope = LaneRoPE(omega.detach().numpy())
    tuned.save_pretrained(tmp_path / "adapter")
    reads = tinylane.load(tmp_path, backend="numpy", dtype="float32", adapter=tmp_path / "adapter")
    settings: dict[str, Any] = {"lanes": 3, "max_tokens": 6, "lane_rope": wrapped.lane_rope}
    settings["lane_mask"] = LaneMask.joint(3)
    one = tinylane.generate(reads, [5, 6, 7], **settings)
    two = tinylane.generate(wrapped, [5, 6, 7], **settings)
    assert [lane.tokens for lane in one.lanes] == [lane.tokens for lane in two.lanes]
