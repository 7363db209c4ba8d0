"""Folders and hub ids, against a stand-in hub on 127.0.0.1: nothing here leaves the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers_hub import COMMIT, WEIGHTS, Server

import tinylane.checkpoints.hub
from tinylane.checkpoints.hub import resolve
from tinylane.core.errors import TinylaneError


@pytest.fixture
def hub(tmp_path):
    """Call with a source; gives (stdout, stderr line) of `resolve` in a process of its own."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = (
        "import sys\nfrom tinylane.checkpoints.hub import resolve\n"
        "from tinylane.core.errors import TinylaneError\n"
        "try: print(resolve(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))\n"
        "except TinylaneError as e: print('refused:', e)\n"
    )

    def call(*arguments: str, port: int | None = None, offline: bool = False) -> str:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))},
            **({"HF_HUB_OFFLINE": "1"} if offline else {}),
            "HF_ENDPOINT": f"http://127.0.0.1:{port or server.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
            "PYTHONPATH": str(Path(tinylane.__file__).parents[1]),
        }
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 1, done.stdout
        return lines[0]

    call.server = server  # type: ignore[attr-defined]
    yield call
    server.shutdown()
    server.server_close()


def dead_port() -> int:
    """A port of this machine that nobody listens on."""
    with Server() as closed:
        return closed.server_port


def test_only_needed_files_come_and_the_cache_serves_them_without_a_network(hub):
    folder = hub("owner/model")
    paths = [os.path.join(d, f) for d, _, files in os.walk(folder) for f in files]
    found = {os.path.relpath(path, folder) for path in paths}
    needed = {"config.json", "model.safetensors", "tokenizer.json", "adapter/adapter_config.json"}
    assert found == needed
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        assert file.read() == WEIGHTS
    assert hub("owner/model", port=dead_port()) == folder
    before = len(hub.server.asked)
    assert hub("owner/model", COMMIT) == folder
    fetched = [path for kind, path, _ in hub.server.asked[before:] if kind == "GET"]
    assert not [path for path in fetched if "/resolve/" in path]


def test_an_interrupted_download_is_continued_not_repeated(hub):
    hub.server.cut = True
    folder = hub("owner/model")
    if folder.startswith("refused: "):  # versions that do not retry by themselves
        assert "run again" in folder
        folder = hub("owner/model")
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        assert file.read() == WEIGHTS
    starts = [r for kind, path, r in hub.server.asked if kind == "GET" and "model.saf" in path]
    assert any(r and not r.startswith("bytes=0-") for r in starts)


def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(hub):
    assert hub("owner/absent") == (
        "refused: owner/absent: no such folder here and no such model on the hub (or it is private)"
    )
    assert "owner/gated is gated: accept its terms" in hub("owner/gated")
    assert "has no revision 'v9'" in hub("owner/model", "v9")


def test_a_hub_that_fails_and_a_repository_without_a_checkpoint_are_one_line(hub):
    line = hub("owner/broken")
    assert line.startswith("refused: owner/broken: ")
    assert "download failed (" in line and "run again, it continues where it stopped" in line
    assert hub("owner/notes") == (
        "refused: owner/notes: the hub has no config.json for it; not a checkpoint"
    )


def test_no_network_and_nothing_in_the_cache_is_one_line(hub):
    line = hub("owner/model", port=dead_port())
    assert line.startswith("refused: owner/model: ") and "no network" in line


def half_a_cache(home: Path, *names: str) -> Path:
    """The cache of a model of which only some files were asked for, by another program."""
    repo = home / "hub" / "models--owner--model"
    snapshot = repo / "snapshots" / COMMIT
    for folder in (snapshot, repo / "refs", repo / "blobs"):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    for name in names:
        (repo / "blobs" / name).write_text("{}")
        (snapshot / name).symlink_to(repo / "blobs" / name)
    return snapshot


PARTS = {
    ("config.json", "tokenizer.json"): "no weights",
    ("model.safetensors", "tokenizer.json"): "no config.json",
    ("adapter_config.json",): "no tensors of the adapter",
}


@pytest.mark.parametrize("names, lacks", PARTS.items(), ids=list(PARTS.values()))
def test_half_a_cache_without_a_network_says_what_is_not_there_and_why(hub, tmp_path, names, lacks):
    half_a_cache(tmp_path / "home", *names)
    line = hub("owner/model", port=dead_port())
    assert f"the cache has only a part of it ({lacks}), and the hub cannot be reached" in line
    line = hub("owner/model", offline=True)
    assert f"({lacks}), and the network is off; take HF_HUB_OFFLINE away" in line


def test_a_cache_that_lost_a_shard_is_half_a_cache(hub, tmp_path):
    folder = half_a_cache(tmp_path / "home", "config.json", "a-1.safetensors", "a-2.safetensors")
    index = {"weight_map": {"x": "a-1.safetensors", "y": "a-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert hub("owner/model", offline=True) == str(folder)
    (folder / "a-2.safetensors").resolve().unlink()
    line = hub("owner/model", offline=True)
    assert "(1 of 2 shards missing: a-2.safetensors), and the network is off" in line


def test_a_local_folder_is_itself(tmp_path):
    assert resolve(tmp_path) == tmp_path
    with pytest.raises(TinylaneError, match="local folder and has no revision 'main'"):
        resolve(tmp_path, "main")


MISSING = ["./absent", "/absent/model", "~/absent", "a/b/c", "absent", "a\\b", "../x", "a/.."]
MISSING += ["a" * 5000, "~nobody-here/model"]


@pytest.mark.parametrize("source", MISSING)
def test_a_missing_path_never_asks_the_hub(source, monkeypatch):
    monkeypatch.setattr(
        "tinylane.checkpoints.hub._download", lambda *a: pytest.fail("asked the hub")
    )
    with pytest.raises(TinylaneError, match="no such folder"):
        resolve(source)


def test_a_file_and_an_empty_name_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(TinylaneError, match="is not a folder"):
        resolve(tmp_path / "model.safetensors")
    for empty in ("", " ", "a\0b"):
        with pytest.raises(TinylaneError, match="expected a folder or a hub id"):
            resolve(empty)
