"""tutorials/bench/again.py: the commands of the page of times, run again and kept."""

from __future__ import annotations

from pathlib import Path

from tutorials.bench import again

PAGE = (Path(__file__).parents[2] / "tutorials" / "site" / "speed.md").read_text(encoding="utf-8")


def test_every_command_of_the_page_s_last_block_is_run_under_a_name_of_its_own() -> None:
    commands = again.commands()
    shown = [
        line
        for line in PAGE.splitlines()
        if line.startswith(("python tutorials/bench --", "tinylane bench "))
    ]
    assert len(shown) >= 6 and set(shown) <= set(commands)
    assert not any(command.startswith(("pip", "model=", "#")) for command in commands)
    names = [again.name_of(command, k) for k, command in enumerate(commands)]
    assert len(set(names)) == len(names)


def test_what_a_command_prints_is_kept_and_what_failed_is_run_again(tmp_path: Path) -> None:
    file = tmp_path / "01-x.txt"
    assert again.run("tinylane --version; echo $model", file, "the-model") == 0
    said = file.read_text()
    assert (
        "tinylane 0." in said and "the-model" in said and said.splitlines()[-1].endswith("exit 0")
    )
    file = tmp_path / "02-x.txt"
    assert again.run("tinylane generate --lanes 0", file, "") == 2
    assert not file.exists() and "--lanes is 0" in file.with_suffix(".part").read_text()
