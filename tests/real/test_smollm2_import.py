"""The folder that tutorials/smollm2.py makes, against what transformers imports from the same file.

Live: needs torch, transformers, gguf and the package's wheel from an index (.ci/run has them).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import helpers_real
import numpy as np
import pytest
from helpers_real import PROMPTS, recorded
from record_parity import distance

from tutorials import smollm2 as script

smollm2 = helpers_real.smollm2  # fixture
pytestmark = [
    pytest.mark.real,
    pytest.mark.xdist_group("smollm2_import"),
]  # they share what is made once
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")

TEXTS = [
    "",
    " ",
    "\n\n  \t x",
    "Hello, world! It's 1,234.5 degrees;  7 spaces\r\n",
    "def f(x):\n\treturn [x  for x in range(10)]  # ok\n    ",
    "今天天气很好。日本語のテスト 한국어 ไทย",
    "👩🏽‍🚀🌙 e\u0301 \u00a0\u200b\ufeff שלום العربية",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><repo_name>x<file_sep>",
    "\x00\x7f\ud7ff",
]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    path = script.unpack(script.download(folder), folder)
    return path


@pytest.fixture(scope="module")
def imported(gguf_file: Path) -> Any:
    """transformers' own import, float32."""
    how = transformers.GgufConfig(dequantize=True)
    return transformers.AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32, quantization_config=how
    )


def test_the_tokenizer_is_transformers_own_conversion(gguf_file: Path, smollm2: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    core = json.loads((smollm2 / "tokenizer.json").read_text())
    assert core == json.loads(theirs.backend_tokenizer.to_str())
    ours = transformers.AutoTokenizer.from_pretrained(smollm2)
    for text in TEXTS:
        ids = ours(text).input_ids
        assert ids == theirs(text).input_ids
        assert ours.decode(ids) == theirs.decode(ids)
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name, messages in PROMPTS.items():
        both = [
            words.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            for words in (ours, theirs)
        ]
        assert both[0] == both[1] == recorded()["prompts"][name]["ids"]


def test_the_weights_are_transformers_own_rounded_to_bfloat16(imported: Any, smollm2: Path) -> None:
    """And so are the logits; an unrounded weight moves them by far more (the control)."""
    ours = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    mine, theirs = ours.config.to_dict(), imported.config.to_dict()
    for key in set(theirs) - {"_model_name_or_path", "_name_or_path", "architectures",
                              "quantization_config", "rms_norm_eps", "unk_token_id"}:  # fmt: skip
        assert mine[key] == theirs[key], key
    assert np.float32(mine["rms_norm_eps"]) == np.float32(theirs["rms_norm_eps"])
    ids = torch.tensor([recorded()["prompts"]["code"]["ids"]])
    mine, theirs = ours.state_dict(), imported.state_dict()
    assert mine.keys() == theirs.keys() and len(mine) == 273
    with torch.no_grad():
        unrounded = imported(ids).logits.numpy()
        for name, weight in theirs.items():
            weight.copy_(weight.bfloat16())
            assert torch.equal(mine[name], weight), name
        expected, got = imported(ids).logits.numpy(), ours(ids).logits.numpy()
    assert distance(got, expected) < 1e-5
    assert distance(unrounded, expected) > 1e-3


def test_theta_is_in_both_spellings(smollm2: Path) -> None:
    raw = json.loads((smollm2 / "config.json").read_text())
    assert raw["rope_theta"] == raw["rope_parameters"]["rope_theta"] == 100000.0
    assert transformers.AutoConfig.from_pretrained(smollm2).rope_parameters["rope_theta"] == 1e5
    files = {path.name: os.stat(path).st_size for path in smollm2.iterdir()}
    assert set(files) == script.FILES and files["model.safetensors"] > 269_000_000
    assert np.float32(raw["rms_norm_eps"]) == np.float32(1e-5)
