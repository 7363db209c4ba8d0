"""The folder that a user means by `--model`: a local one, or the downloaded files of a hub id.

`huggingface_hub` downloads into its cache: only the files that a checkpoint needs and that are not
in the cache yet. It continues interrupted downloads. Without a network the cache is used.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import cast

from tinylane.checkpoints.weights import shards
from tinylane.core.errors import TinylaneError, show

# What stands beside config.json and the weights.
SMALL_FILES = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
]
MORE_TEMPLATES = "additional_chat_templates"  # a folder of them, each named by its file
# What is downloaded. A star also matches slashes, but patterns begin at the folder. Not
# `consolidated.safetensors` and the like, which are a second copy of the weights.
FILES = [
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    *SMALL_FILES,
    f"{MORE_TEMPLATES}/*.jinja",
    "adapter_config.json",
    "adapters.safetensors",
    "adapter_model.safetensors",
    "adapter/adapter_config.json",
    "adapter/adapters.safetensors",
]
NOTHING = "no config.json"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def resolve(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a checkpoint or adapter: `source` itself, or a hub id's snapshot in the cache.

    source: a local folder, or `owner/name`. revision: a branch, tag or commit, of a hub id only.
    Raises TinylaneError: missing folder, unknown id or revision, gated model, no network.
    """
    text = os.fspath(source)
    if not text.strip() or "\0" in text:
        raise TinylaneError(f"model {show(text)}: expected a folder or a hub id such as owner/name")
    # os.path's tests, unlike Path's, never raise: names that are too long, folders out of reach
    folder = Path(os.path.expanduser(text))
    if os.path.isdir(folder):
        if revision is not None:
            raise TinylaneError(f"{text} is a local folder and has no revision {show(revision)}")
        return folder
    if os.path.lexists(folder):
        raise TinylaneError(f"{text} is not a folder; expected that of a checkpoint or an adapter")
    if not _ID.fullmatch(text) or ".." in text:
        raise TinylaneError(f"{text}: no such folder (nor a hub id, which looks like owner/name)")
    return _download(text, revision)


def _download(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.constants import HF_HUB_OFFLINE
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise TinylaneError(
            f"{name}: no such folder, and downloading needs: pip install huggingface_hub"
        ) from error
    refusals: tuple[tuple[type[Exception], str], ...] = (  # a gated repository is "not found" too
        (GatedRepoError, " is gated: accept its terms on the hub, then `hf auth login`"),
        (
            RepositoryNotFoundError,
            ": no such folder here and no such model on the hub (or it is private)",
        ),
        (RevisionNotFoundError, f" has no revision {show(revision)} on the hub"),
        (
            LocalEntryNotFoundError,
            ": no such folder here, no network to the hub, and not (all of it) in the cache",
        ),
        (HFValidationError, ": neither a folder here nor a valid hub id"),
    )
    # the HTTP library's errors: of requests before huggingface_hub 1.0, of httpx since
    http = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
    failed: tuple[type[Exception], ...] = (OSError, EntryNotFoundError, HFValidationError, *http)
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except failed as error:
        for kind, text in refusals:
            if isinstance(error, kind):
                raise TinylaneError(name + text) from error
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise TinylaneError(
            f"{name}: download failed ({reason}); run again, it continues where it stopped"
        ) from error
    if lacks := _lacks(folder):
        try:
            HfApi().model_info(name, revision=revision, timeout=10)
        except failed as error:
            off = "the network is off" if HF_HUB_OFFLINE else "the hub cannot be reached"
            raise TinylaneError(
                f"{name}: the cache has only a part of it ({lacks}), and {off}; "
                + ("take HF_HUB_OFFLINE away" if HF_HUB_OFFLINE else "try again with a network")
            ) from error
        if lacks == NOTHING:
            raise TinylaneError(f"{name}: the hub has no config.json for it; not a checkpoint")
    return folder


def _lacks(folder: Path) -> str | None:
    """What a checkpoint or adapter cannot be read without and is not there; None: nothing.

    The weights that the hub itself does not have are for `weights.shards` to refuse.
    """
    if not (folder / "config.json").exists():
        tensors = (folder / "adapters.safetensors", folder / "adapter_model.safetensors")
        if not (folder / "adapter_config.json").exists():
            return NOTHING
        return None if any(map(os.path.exists, tensors)) else "no tensors of the adapter"
    try:
        shards(folder)
    except TinylaneError as error:
        return "no weights" if "no weights" in str(error) else str(error).partition(": ")[2]
    return None
