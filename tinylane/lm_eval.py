"""tinylane for the LM Evaluation Harness (lm-eval): its tasks on a model of tinylane.

    python -m tinylane.lm_eval --model tinylane --model_args pretrained=FOLDER --tasks NAME

is lm-eval's own command with this model registered. Choices of one question are scored as lanes
that do not read each other: the question is computed once. Texts are tokenized, cut and scored as
by lm-eval's `hf`. `model_args`: pretrained, backend, dtype, adapter, revision, max_length; what
lm-eval adds of its own (device, batch_size) is not used.

Not handled: several processes, sampling with several texts of one request, images.
Compared with lm-eval 0.4.13. Needs `pip install lm-eval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tinylane.core.errors import TinylaneError, whole

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise TinylaneError("tinylane.lm_eval needs lm-eval: pip install lm-eval") from error

from tinylane.checkpoints.chat_template import prompt_text
from tinylane.checkpoints.load import load
from tinylane.core.sampling import Sampler
from tinylane.evaluate.likelihood import scores
from tinylane.methods.decoding import generate

UNUSED = {"device", "batch_size", "max_batch_size", "trust_remote_code"}  # lm-eval gives them
Pair = tuple[Any, list[int], list[int]]  # the texts, context and continuation as tokens


@register_model("tinylane")
class TinylaneLM(TemplateLM):  # type: ignore[misc]
    """A model of tinylane as lm-eval asks for it. Raises TinylaneError as `tinylane.load` does, for
    a checkpoint without a tokenizer, and for arguments that do not exist."""

    def __init__(
        self,
        pretrained: str,
        backend: str = "auto",
        dtype: str = "auto",
        adapter: Any = None,
        revision: str | None = None,
        max_length: int | None = None,
        **other: Any,
    ) -> None:
        super().__init__()
        if unknown := other.keys() - UNUSED:
            raise TinylaneError(f"model_args: {min(unknown)!r} is not known to tinylane.lm_eval")
        self.model = load(pretrained, backend, dtype, adapter, revision)
        if self.model.tokenizer is None:
            raise TinylaneError(f"{pretrained}: has no tokenizer.json; lm-eval's tasks are text")
        self._tok, context = self.model.tokenizer, self.model.config.context
        self.max_length = (
            context if max_length is None else whole("max_length", max_length, 2, context)
        )

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text: the tokenizer's own, else the first that is known."""
        named = self._tok.core.token_to_id(self._tok.names.get("eos_token", ""))
        return min(self.model.config.eos_ids) if named is None else named

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced by."""
        return self.eot_token_id if self._tok.bos_id is None else self._tok.bos_id

    @property
    def tokenizer_name(self) -> str:
        """Names lm-eval's cache of requests."""
        return self.model.identity

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The checkpoint's template, or the one of that name."""
        name = chat_template if isinstance(chat_template, str) else "default"
        return self._tok.templates.get(name)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as the checkpoint's template writes them; without the opening of an answer the
        last of them goes on, as where a task begins the answer itself."""
        if self.chat_template() is None:
            raise TinylaneError(
                "this checkpoint has no chat template; leave --apply_chat_template out"
            )
        goes_on = {"continue_final_message": not add_generation_prompt}
        return prompt_text(self._tok.templates, self._tok.names, chat_history, None, goes_on)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of a text; with the BOS that the tokenizer adds, unless it is there or unwanted."""
        if not string or add_special_tokens is False:
            return self._tok.encode(string)
        return self._tok.prompt_ids(string, raw=True)

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_: Any) -> list[tuple[float, bool]]:
        """Of each continuation its log-probability, and whether greedy decoding would write it."""
        scored: list[tuple[float, bool]] = []
        cut = [self._cut(context, text) for _, context, text in requests]
        for context, group in groupby(cut, key=lambda pair: pair[0]):
            texts = [text for _, text in group]
            for logprobs, likeliest in scores(self.model, context, texts):
                scored.append((float(logprobs.sum()), bool(likeliest.all())))
        return scored

    def _cut(self, context: list[int], text: list[int]) -> tuple[list[int], list[int]]:
        """Their last tokens, as many as fit: one more than the model sees, for the last is only
        asked for."""
        both = (context + text)[-(self.max_length + 1) :]
        split = max(len(both) - len(text), 1)
        return both[:split], both[split:]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probabilities of whole texts, by windows that lm-eval cuts."""
        sums = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, 1
            )
            pairs = [(None, *make_disjoint_window(pair)) for pair in windows]
            sums.append(sum(total for total, _ in self._loglikelihood_tokens(pairs)))
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """A text for each request, greedy unless it asks for samples."""
        texts = []
        for context, asked in (request.args for request in requests):
            until = asked.get("until") or []
            until = [until] if isinstance(until, str) else [text for text in until if text]
            tokens = min(int(asked.get("max_gen_toks", 256)), self.max_length - 1)
            ids = self.tok_encode(context)[-(self.max_length - tokens) :]
            sampled = bool(asked.get("do_sample")) and float(asked.get("temperature", 1)) > 0
            more = {k: asked[k] for k in ("temperature", "top_p", "top_k", "min_p") if k in asked}
            sampler = Sampler(**(more if sampled else {"temperature": 0.0}))
            result = generate(self.model, ids, max_tokens=tokens, stop=until, sampler=sampler)
            texts.append(result.texts[0])
        return texts


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
