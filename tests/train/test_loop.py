"""Tuning as a run: killed, resumed, refused, diverged, on a full disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import helpers_cli
import helpers_tune
from helpers_cli import unmeasured, write_checkpoint
from helpers_tune import KTO, command, losses

from tinylane.files import run_dir
from tinylane.train.parameters import Choice
from tinylane.train.recipe import TuneRecipe
from tinylane.train.setup import prepare, start_model

ask, base, data = helpers_cli.ask, helpers_tune.base, helpers_tune.data  # fixtures


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("sft", ("--lora-rank", 2)),
        ("sft", ("--omega-per-layer", "--no-tune-biases", "--omega", "none")),
        ("kto", KTO),
        ("kto", (*KTO, "--full")),
    ],
)
def test_a_stopped_run_goes_on_with_the_same_losses(
    ask: Any, base: Path, data: Path, tmp_path: Path, task: str, more: tuple
) -> None:
    assert ask(*command(task, base, data, tmp_path / "whole", *more))[0] == 0
    for stop in (4, 9, 12):
        argv = command(task, base, data, tmp_path / "parts", *more, "--stop-at", stop)
        assert ask(*argv)[0] == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert [step for step, _ in losses(tmp_path / "whole")] == list(range(1, 13))
    file = "model.safetensors" if "--full" in more else "adapters.safetensors"
    assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_run_killed_at_any_instant_goes_on_with_the_same_losses(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """SIGKILL in processes of their own, at moments nobody chose: in kto's reference, between a
    state and its log, in the middle of a step."""
    more = ("--steps", 80, "--save-every", 7, "--lora-rank", 2, *KTO)
    out = tmp_path / "killed"
    argv = [sys.executable, "-m", "tinylane", *command("kto", base, data, out, *more)]
    kills = 0
    for lines in (0, 17):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        watched, until = out / ("log.jsonl" if lines else "recipe.json"), time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if watched.exists() and (not lines or watched.read_bytes().count(b"\n") >= lines):
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills  # where the machine is busy with others, the second may come too late
    for folder in (out, tmp_path / "whole"):
        assert ask(*command("kto", base, data, folder, *more))[0] == 0
    assert losses(out) == losses(tmp_path / "whole") and len(losses(out)) == 80
    assert not list(out.glob(".*.tmp"))


def test_a_mean_loss_that_a_stop_cut_in_two_is_the_same(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Lines every 5 steps, states every 3: the losses since the last line are in the state."""
    argv = lambda out: command("sft", base, data, tmp_path / out, "--every", 5, "--batch-size", 2)
    ask(*argv("whole"))
    for stop in (4, 8):
        ask(*argv("parts"), "--stop-at", stop)
    ask(*argv("parts"))
    assert [step for step, _ in losses(tmp_path / "whole")] == [5, 10, 12]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_another_seed_gives_other_losses(ask: Any, base: Path, data: Path, tmp_path: Path) -> None:
    """The negative control of the tests above."""
    for seed in (0, 1):
        ask(*command("sft", base, data, tmp_path / str(seed), "--seed", seed, "--batch-size", 3))
    assert losses(tmp_path / "0") != losses(tmp_path / "1")


def test_a_state_of_the_right_step_only(ask: Any, base: Path, data: Path, tmp_path: Path) -> None:
    """The negative control: a run that goes on from another run's state has other losses."""
    one, two = tmp_path / "one", tmp_path / "two"
    ask(*command("sft", base, data, one, "--stop-at", 6))
    ask(*command("sft", base, data, two, "--stop-at", 3))
    ask(*command("sft", base, data, tmp_path / "whole"))
    (two / "state.safetensors").write_bytes((one / "state.safetensors").read_bytes())
    ask(*command("sft", base, data, two))
    assert losses(two) != losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("--lr", "1e-3", "--lora-rank", 2), "lr was 0.0001, now 0.001"),
        (("--seed", 3), "seed was 0, now 3"),
        (("--no-tune-biases",), "tune_biases was True, now False"),
        (("--omega", "none"), "omega_start was 'learned', now 'none'"),
        (("--lag", 1, "--visibility", "star"), "visibility was 'joint', now 'star'"),
    ],
)
def test_a_run_directory_of_another_configuration_is_refused(
    ask: Any, base: Path, data: Path, tmp_path: Path, change: tuple, named: str
) -> None:
    more = ("--lora-rank", 2) if "--lora-rank" in change else ()
    assert ask(*command("sft", base, data, tmp_path, *more, "--stop-at", 1))[0] == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    code, _, err = ask(*command("sft", base, data, tmp_path, *change))
    assert code == 2 and err.splitlines()[-1].startswith("tinylane: error:")
    assert "another configuration" in err and named in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_other_data_and_another_model_are_another_configuration(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ask(*command("sft", base, data, out, "--stop-at", 1))
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))
    other = write_checkpoint(tmp_path / "other", seed=1)
    for argv, named in (
        (command("sft", base, fewer, out), "data was '"),
        (command("sft", other, data, out), "model was '"),
    ):
        code, _, err = ask(*argv)
        assert code == 2 and "another configuration" in err and named in err
    again = tmp_path / "copy.jsonl"
    again.write_text(data.read_text())
    assert ask(*command("sft", base, again, out))[0] == 0  # the same data by another name


def test_a_second_process_on_one_directory_is_refused(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    with run_dir.locked(tmp_path):
        code, _, err = ask(*command("sft", base, data, tmp_path))
        assert code == 2 and "another process is writing this run" in err
    assert ask(*command("sft", base, data, tmp_path, "--stop-at", 1))[0] == 0


def test_a_learning_rate_that_diverges_stops_and_keeps_the_last_good_state(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """The loss climbs beyond all sense, though it stays a number. What is kept has given a good
    loss: a state saved on the way up would have replaced it."""
    argv = command("sft", base, data, tmp_path, "--full", "--lr", 30, "--steps", 100)
    argv += ["--warmup", "30", "--save-every", "1"]
    code, _, err = ask(*argv)
    assert code == 2 and "training diverged" in err and "is kept" in err
    assert "Lower the learning rates" in err and "Traceback" not in err
    tuner = prepare(start_model(base), data, TuneRecipe(steps=100), Choice(full=True)).tuner
    first = tuner.outcome(0, gradients=False)
    tuner.load(tmp_path / "state.safetensors")
    found = tuner.outcome(tuner.step, gradients=False)
    assert 0 < tuner.step < 20 and found.nll is not None and first.nll is not None
    assert found.nll <= 1 + 2 * first.nll
    assert max(loss for _, loss in losses(tmp_path)) > 10 * found.nll


def test_a_loss_that_is_no_number_stops_at_once(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    argv = command("sft", base, data, tmp_path, "--full", "--lr", "1e30", "--save-every", 1)
    code, _, err = ask(*argv)
    assert code == 2 and "training diverged: the loss is nan at step 1" in err
    assert "no state was saved" in err and not (tmp_path / "model.safetensors").exists()


def test_a_divergence_in_the_last_step_is_not_saved(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Nobody computes a loss after the last step but the guard."""
    argv = command("sft", base, data, tmp_path, "--full", "--lr", "1e30", "--steps", 1)
    argv[argv.index("--warmup") + 1] = "0"
    code, _, err = ask(*argv)
    assert code == 2 and "training diverged" in err and "no state was saved" in err
    assert not (tmp_path / "model.safetensors").exists()


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Files may not grow beyond 4 KiB, as if the disk were full: the state of step 3 stays."""
    out = tmp_path / "out"
    assert ask(*command("sft", base, data, out, "--stop-at", 3, "--lora-rank", 2))[0] == 0
    before = (out / "state.safetensors").read_bytes()
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    argv = [sys.executable, "-m", "tinylane", *command("sft", base, data, out, "--lora-rank", 2)]
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=full, env=unmeasured())
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("tinylane: error:") and "cannot be written (File too large)" in last
    assert (out / "state.safetensors").read_bytes() == before
    assert ask(*command("sft", base, data, out, "--lora-rank", 2))[0] == 0
    ask(*command("sft", base, data, tmp_path / "whole", "--lora-rank", 2))
    assert losses(out) == losses(tmp_path / "whole")


def test_a_reference_of_other_data_is_refused_and_a_torn_one_completed(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ask(*command("kto", base, data, out, *KTO, "--stop-at", 2))
    reference = out / "reference.jsonl"
    whole = reference.read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 1 + 3
    reference.write_text("".join(lines[:2]) + lines[2][:20])
    assert ask(*command("kto", base, data, out, *KTO))[0] == 0
    assert reference.read_text() == whole
    reference.write_text(whole.replace('"digest": "', '"digest": "0'))
    code, _, err = ask(*command("kto", base, data, out, *KTO))
    assert code == 2 and "other data or another model" in err


def test_kto_of_a_resumed_run_keeps_its_untuned_reference(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Were the reference lost and made anew after step 9, it would be the tuned model's."""
    ask(*command("kto", base, data, tmp_path, *KTO, "--stop-at", 9))
    (tmp_path / "reference.jsonl").unlink()
    whole = tmp_path / "whole"
    ask(*command("kto", base, data, whole, *KTO))
    ask(*command("kto", base, data, tmp_path, *KTO))
    assert losses(tmp_path) == losses(whole)
    first = json.loads((tmp_path / "reference.jsonl").read_text().splitlines()[1])
    assert first == json.loads((whole / "reference.jsonl").read_text().splitlines()[1])


def test_pid_files_do_not_outlive_a_killed_process(tmp_path: Path) -> None:
    """The lock is the system's: it goes with the process, so no stale lock keeps a user out."""
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom tinylane.files.run_dir import locked\n"
        f"with locked(Path({str(tmp_path)!r})):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    (tmp_path / ".state.safetensors.x1.tmp").write_text("half")
    with run_dir.locked(tmp_path):
        assert not list(tmp_path.glob(".*.tmp"))
