"""Hostile settings and tokenizers for `hostile.py`."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from helpers_cli import CONFIG

from tinylane.files.safetensors import TensorFile, write_tensors

Make = Callable[[Path], None]

REALS = ("rms_norm_eps", "rope_theta")
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
)


def text(name: str, data: bytes | str) -> Make:
    return lambda folder: put(folder / name, data)


def put(path: Path, data: bytes | str) -> None:
    """Write a file, after removing the old one, which may be a link to the base's."""
    path.unlink(missing_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))


def not_json(name: str, base: Path) -> Iterator[tuple[str, Make]]:
    """Bad contents for any file that should hold a JSON object."""
    for what, data in {
        "empty": b"",
        "a list": b"[]",
        "null": b"null",
        "cut": b'{"a": ',
        "two": b"{} {}",
        "UTF-16": "{}".encode("utf-16"),
        "not UTF-8": b'{"a": "\xff"}',
        "binary": bytes(range(256)),
    }.items():
        yield f"{name} {what}", text(name, data)

    def link(target: Path | str) -> Make:
        def make(folder: Path) -> None:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(target)

        return make

    outside = base.parent / "outside" / name
    outside.parent.mkdir(exist_ok=True)
    outside.write_text("{}")
    yield f"{name} a link outside", link(outside)
    yield f"{name} a link to a device", link("/dev/zero")

    def pipe(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    yield f"{name} a pipe", pipe


def configs(base: Path) -> Iterator[tuple[str, Make]]:
    def changed(**changes: Any) -> Make:
        return text("config.json", json.dumps({**CONFIG, **changes}))

    for key in (*SIZES, *REALS):
        for value in (0, -1, 1e30, 10**25, float("nan"), float("inf"), "64", [64], {}, True):
            yield f"{key} {json.dumps(value)}", changed(**{key: value})
        yield f"{key} fractional", changed(**{key: 2.5 if key != "rope_theta" else 0.5})
        yield (
            f"{key} 1e999",
            text("config.json", json.dumps({**CONFIG, key: "#"}).replace('"#"', "1e999")),
        )
    for key in SIZES[:-1]:
        yield f"{key} one more", changed(**{key: CONFIG[key] + 1})
        yield f"{key} 10^9", changed(**{key: 10**9})
    for what, changes in {
        "more kv heads than heads": {"num_key_value_heads": 4},
        "two bases": {"rope_parameters": {"rope_theta": 5.0}},
        "two kinds": {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}},
        "an unknown kind": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "a kind in a list": {"rope_scaling": {"type": ["linear"], "factor": 2.0}},
        "rope a list": {"rope_scaling": [1]},
        "factor 0": {"rope_scaling": {"type": "linear", "factor": 0}},
        "factor NaN": {"rope_scaling": {"type": "linear", "factor": float("nan")}},
        "yarn upside down": {
            "rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 1, "beta_slow": 9}
        },
        "llama3 upside down": {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 1.0,
            }
        },
        "another family's class": {"architectures": ["LlamaForCausalLM"]},
        "no architecture's name": {"architectures": "Qwen3ForCausalLM"},
        "architectures of numbers": {"architectures": [1]},
        "a family that is none": {"model_type": "gpt2"},
        "a family in a list": {"model_type": ["qwen3"]},
        "no family": {"model_type": None, "architectures": None},
        "experts": {"num_experts": 8},
        "a sliding window": {
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 0,
        },
        "a window of text": {"use_sliding_window": True, "sliding_window": "4"},
        "layer types too few": {"layer_types": ["full_attention"]},
        "layer types of lists": {"layer_types": [[], []]},
        "another activation": {"hidden_act": "gelu"},
        "an activation in a list": {"hidden_act": ["silu"]},
        "EOS fractional": {"eos_token_id": 1.5},
        "EOS a flag": {"eos_token_id": True},
        "EOS of text": {"eos_token_id": ["</s>"]},
        "EOS an object": {"eos_token_id": {"id": 1}},
        "tied by text": {"tie_word_embeddings": "yes"},
        "a dtype that is a number": {"torch_dtype": 7},
        "a dtype in a list": {"torch_dtype": ["float32"]},
        "GPTQ": {"quantization_config": {"quant_method": "gptq"}},
        "quantization a number": {"quantization": 4},
        "two quantizations": {"quantization": {"bits": 4}, "quantization_config": {"bits": 8}},
        "untied": {"tie_word_embeddings": False},
        "another family of the same sizes": {"model_type": "llama", "architectures": None},
    }.items():
        yield what, changed(**changes)
    for depth in (70, 300, 900, 960, 980, 985, 990, 995, 5000):
        deep = "[" * depth + "]" * depth
        for key in ("model_type", "unknown", "rope_scaling"):
            raw = json.dumps({**CONFIG, key: "#"}).replace('"#"', deep)
            yield f"{key} {depth} deep", text("config.json", raw)
    whole = json.dumps(CONFIG)
    yield "a key twice", text("config.json", whole[:-1] + ', "head_dim": 8}')
    yield "2 MiB", text("config.json", whole[:-1] + ', "x": "' + "x" * (2 << 20) + '"}')
    yield "absent", lambda folder: (folder / "config.json").unlink()
    yield "1 MiB of lists", text("config.json", '{"model_type": [' + "[]," * 340_000 + "0]}")
    yield from not_json("config.json", base)
    for key, values in {
        "temperature": (-1, 1e30, "x", [1], {}, True, float("nan")),
        "top_p": ({}, -1, 2, "x", [0.9]),
        "top_k": (-2, 1.5, "x", [1]),
        "min_p": (-1, 2, "x"),
        "repetition_penalty": (0, -1, "x"),
        "do_sample": ("yes", 1, []),
        "eos_token_id": ({}, True, "x", [[1]], 1.5),
    }.items():
        for value in values:
            yield (
                f"generation {key} {json.dumps(value)}",
                text("generation_config.json", json.dumps({"do_sample": True, key: value})),
            )
    yield from not_json("generation_config.json", base)


def tokenizers(base: Path) -> Iterator[tuple[str, Make]]:
    good = json.loads((base / "tokenizer.json").read_text())
    vocab = good["model"]["vocab"]

    def changed(**changes: Any) -> Make:
        return text("tokenizer.json", json.dumps({**good, **changes}))

    def model(**changes: Any) -> Make:
        return changed(model={**good["model"], **changes})

    def added(*tokens: dict[str, Any]) -> Make:
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return changed(added_tokens=[{"id": 0, **plain, "special": True, **t} for t in tokens])

    def split(regex: str) -> dict[str, Any]:
        how = {"pattern": {"Regex": regex}, "behavior": "Removed", "invert": False}
        return {"type": "Split", **how}

    bpe = {"type": "BPE", "vocab": {"a": 0, "é": 1, "b": 2, "ab": 3}, "merges": []}
    double = {"type": "Replace", "pattern": {"String": "p"}, "content": "pp"}
    fill = {"type": "Replace", "pattern": {"Regex": ""}, "content": "p" * 1000}

    def wide(folder: Path) -> None:  # a model of 3000 tokens
        rows = {"model.embed_tokens.weight": np.zeros((3000, 16), np.float32)}
        with TensorFile(base / "model.safetensors") as file:
            write_tensors(
                folder / "model.safetensors",
                {name: x.read() for name, x in file.tensors.items()} | rows,
            )
        put(folder / "config.json", json.dumps({**CONFIG, "vocab_size": 3000}))

    yield "without ids the model has", wide
    yield (
        "more tokens than the model",
        model(vocab={**vocab, **{f"x{k}": 50 + k for k in range(90)}}),
    )
    yield (
        "all tokens with one id",
        model(vocab={"<unk>": 0, "<end>": 1, **{f"x{k}": 0 for k in range(90)}}),
    )
    yield "an id of 2**32", model(vocab={**vocab, "cups": 2**32})
    yield "an id of 2**32 - 1", model(vocab={**vocab, "cups": 2**32 - 1})
    yield "a negative id", model(vocab={**vocab, "cups": -1})
    yield "a fractional id", model(vocab={**vocab, "cups": 1.5})
    yield "vocabulary a list", model(vocab=list(vocab))
    yield "no vocabulary", model(vocab=None)
    yield "an unknown model", changed(model={"type": "Other"})
    yield "merges of unknown tokens", changed(model={**bpe, "merges": [["x", "y"]]})
    yield "merges whose product is missing", changed(model={**bpe, "merges": [["b", "a"]]})
    yield "merges of three", changed(model={**bpe, "merges": ["a b c"]})
    for prefix in ("#", "##########"):  # the library slices by its length
        yield (
            f"a prefix {prefix} that cuts a character",
            changed(model={**bpe, "merges": [["a", "é"]], "continuing_subword_prefix": prefix}),
        )
    yield (
        "unigram without an unknown",
        changed(model={"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}),
    )
    yield "an added token of 2 MiB", added({"content": "x" * (2 << 20)})
    yield (
        "30,000 added tokens of 40",
        added(*({"id": 50 + k, "content": f"{k:040}"} for k in range(30_000))),
    )
    yield "an added token of a number", added({"content": 3})
    yield (
        "an added token with half a surrogate",
        text(
            "tokenizer.json", json.dumps({**good, "added_tokens": [{"id": 0, "content": "\ud800"}]})
        ),
    )
    for value in ({}, 1, "x", [1], [[]]):
        yield f"added tokens {value!r}", changed(added_tokens=value)
    for what, body in {
        "empty": b"",
        "short": b"\0\0\0",
        "of 2**32 units": b"\xff" * 64,
        "looping": struct.pack("<I", 8) + b"\1\1\0\0" * 2 + b"abc",
    }.items():
        charsmap = base64.b64encode(body).decode()
        yield (
            f"a character map {what}",
            changed(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap}),
        )
    hidden = json.dumps({**good, "normalizer": {"#": "#", "precompiled_charsmap": "/" * 64}})
    yield (
        "a character map behind escapes",
        text(
            "tokenizer.json",
            hidden.replace('"#": "#"', '"t\\u0079pe": "Precompile\\u0064"'),
        ),
    )
    yield (
        "a text that doubles 25 times",
        changed(normalizer={"type": "Sequence", "normalizers": [double] * 25}),
    )
    yield (
        "a text that fills in thousands",
        changed(normalizer={"type": "Sequence", "normalizers": [fill, fill, fill]}),
    )
    yield (
        "nested sequences that double",
        changed(
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Sequence", "normalizers": [double] * 5}] * 5,
            }
        ),
    )
    yield "a long beginning", changed(normalizer={"type": "Prepend", "prepend": "p" * 5000})
    first = '"normalizer": {"type":"Precompiled","precompiled_charsmap":"////////"}, '
    yield (
        "a normalizer twice",
        text(
            "tokenizer.json",
            json.dumps({**good, "normalizer": None}).replace(
                '"normalizer"', first + '"normalizer"'
            ),
        ),
    )
    yield "an untagged character map", changed(normalizer={"precompiled_charsmap": "/" * 64})
    yield "pieces of length 0", changed(pre_tokenizer={"type": "FixedLength", "length": 0})
    yield (
        "ids without end",
        changed(
            post_processor={
                "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
                "pair": [],
                "special_tokens": {"x": {"id": "x", "ids": [1] * 99_999, "tokens": ["x"] * 99_999}},
            }
        ),
    )
    yield (
        "a decoder that doubles 30 times",
        changed(
            decoder={"type": "Sequence", "decoders": [{**double, "pattern": {"String": "A"}}] * 30}
        ),
    )
    for regex in ("(c+)+$", "(c|c)*$", "(?:(?:c?){40}c){40}!"):
        yield f"the expression {regex}", changed(pre_tokenizer=split(regex))
    for regex in ("((", "(?<n>a)(?<n>b)\\k<m>", "[z-a]", "a{99999999}"):
        yield f"the expression {regex}", changed(pre_tokenizer=split(regex))
    yield (
        "a template of 100,000 parts",
        changed(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 100_000,
                "pair": [],
                "special_tokens": {},
            }
        ),
    )
    yield "an unknown normalizer", changed(normalizer={"type": "Python", "code": "import os"})
    deep = '{"type":"Sequence","normalizers":[' * 3000
    yield (
        "a normalizer 3000 deep",
        text("tokenizer.json", json.dumps({**good, "normalizer": "#"}).replace('"#"', deep)),
    )
    yield "a version of tomorrow", changed(version="9.0")

    def long(folder: Path) -> None:
        text("tokenizer.json", json.dumps(good))(folder)
        os.truncate(folder / "tokenizer.json", 70 << 20)

    yield "70 MiB", long
    yield "8 MiB for 30 tokens", text("tokenizer.json", json.dumps(good) + " " * (8 << 20))
    yield from not_json("tokenizer.json", base)
    settings = "tokenizer_config.json"
    for what, raw in {
        "EOS of another tokenizer": {"eos_token": "</s>"},
        "EOS of half a surrogate": {"eos_token": "\ud800"},
        "another token of half a surrogate": {"pad_token": "\udfff", "eos_token": "\udfff"},
        "a template that is a number": {"chat_template": 3},
        "a template in a list": {"chat_template": [{"name": "default", "template": ["x"]}]},
        "templates that are none": {"chat_template": [[]]},
    }.items():
        yield what, text(settings, json.dumps(raw))
    yield "a settings file of lists", text(settings, '{"a": [' + "[]," * (2_700_000) + "0]}")
    yield "a settings file 3000 deep", text(settings, '{"a":' * 3000 + "1" + "}" * 3000)
    yield from not_json(settings, base)
    yield from not_json("special_tokens_map.json", base)
    yield from list(not_json("chat_template.json", base))
    for what, make in not_json("chat_template.jinja", base):
        if what.endswith(("outside", "device", "pipe", "not UTF-8", "binary")):
            yield what, make
