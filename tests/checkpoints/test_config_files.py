"""config.json as a file: strict JSON, bounded and regular, written whole or not at all."""

from __future__ import annotations

import json
import os

import pytest

from tinylane.checkpoints.config_json import read_config
from tinylane.core.errors import TinylaneError
from tinylane.files.io import MAX_JSON, parse_json, read_json
from tinylane.files.writing import write_json

CONFIG = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize(
    "text, words",
    [
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "not finite"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "too deeply"),
        (b"[1]", "expected a JSON object"),
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a": "\xff"}', "UTF-8"),
    ],
)
def test_strict_json_refuses_in_one_line(text, words):
    with pytest.raises(TinylaneError) as caught:
        parse_json(text, "x.json")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("x.json: ")


def test_config_files_are_bounded_regular_files(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(TinylaneError, match=r"no config\.json"):
        read_config(folder)
    file = folder / "config.json"
    file.write_bytes(b'{"a": "' + b"x" * MAX_JSON + b'"}')
    with pytest.raises(TinylaneError, match="larger than"):
        read_config(folder)
    file.unlink()
    os.mkfifo(file)  # opening it for reading would wait for a writer for ever
    with pytest.raises(TinylaneError, match="not a regular file"):
        read_config(folder)
    file.unlink()
    file.mkdir()
    with pytest.raises(TinylaneError, match="regular file"):
        read_config(folder)
    with pytest.raises(TinylaneError, match="cannot be read"):
        read_json(tmp_path / "absent.json")


def test_config_reads_from_a_folder_and_names_its_file(tmp_path):
    write_json(tmp_path / "config.json", {**CONFIG, "hidden_size": 60})
    with pytest.raises(TinylaneError, match=str(tmp_path / "config.json")):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("\ufeff" + json.dumps(CONFIG), encoding="utf-8")
    assert read_config(tmp_path).source == str(tmp_path / "config.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", {"kept": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"kept": object()})
    assert read_json(tmp_path / "a.json") == {"kept": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(TinylaneError, match="cannot be written"):
        write_json(tmp_path / "absent" / "a.json", {})
