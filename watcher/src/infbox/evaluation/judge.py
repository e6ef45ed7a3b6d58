"""A real model as the judge: how much less surprised it is by a commit's true new lines, given
what would have stood in front of the commit's question.

The model reads the context, the question, the file's path and the new lines. The mean negative
log-likelihood of the new lines' tokens, in nats, is what is compared: the lower, the better did
the context tell what was going to be written.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from infbox.errors import InputError
from infbox.kinds import FileKind, kind_of
from infbox.packing import hunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from infbox.evaluation.engine import Engine
    from infbox.evaluation.history import Save
    from infbox.packing.tokens import Model

JUDGED = ("none", "pack", "retrieved", "both")

MAX_TARGET_TOKENS = 200
"""New lines of a commit that are judged."""

MIN_TARGET_TOKENS = 8
"""Fewer say nothing of the context."""

MAX_QUESTION_TOKENS = 400


class Judge:
    """Asks an engine about samples of a history's commits.

    Args:
        engine: speaks ``/v1/completions`` with ``prompt_logprobs``, as vLLM does.
        model: the name that it serves the model by.
        tokenizer: that model's own.
        samples: commits that are judged, spread over the history.
        commits: that the history has.
    """

    def __init__(
        self, engine: Engine, model: str, tokenizer: Model, samples: int, commits: int
    ) -> None:
        self._engine, self._model, self._tokenizer = engine, model, tokenizer
        self._every = max(commits / samples, 1.0)
        self._due = 0.0
        self._nll: dict[str, list[float]] = defaultdict(list)
        self._tokens = 0

    def wants(self, commit: int) -> bool:
        """Say whether it is time for another sample.

        Args:
            commit: its number, from 0, in the history.
        """
        return commit >= self._due

    def judge(
        self, commit: int, question: str, saves: Iterable[Save], contexts: Mapping[str, str]
    ) -> None:
        """Judge a commit that is due; nothing is asked about one that writes too little.

        Args:
            commit: its number.
            question: its message.
            saves: what it changes.
            contexts: what stands in front of the question, by the name of the view.

        Raises:
            InputError: the engine does not answer, or cannot do this.
        """
        path, new = _new_lines(saves)
        target = list(self._tokenizer.ids(new))[:MAX_TARGET_TOKENS]
        if len(target) < MIN_TARGET_TOKENS:
            return
        self._due = max(self._due, commit) + self._every
        asked = list(self._tokenizer.ids(question))[:MAX_QUESTION_TOKENS]
        asked += self._tokenizer.ids(f"\n\n# {path}\n")
        self._tokens += len(target)
        for name in JUDGED:
            context = list(self._tokenizer.ids(contexts[name])) if name in contexts else []
            self._nll[name].append(self._surprise([*context, *asked], target))

    def result(self) -> dict[str, Any]:
        """Return ``samples``; ``tokens`` that were judged; ``nll`` by view, the mean over the
        samples; and ``better``, the share of samples in which a view did better than none."""
        without = self._nll["none"]
        return {
            "samples": len(without),
            "tokens": self._tokens,
            "nll": {name: _mean(self._nll[name]) for name in JUDGED},
            "better": {
                name: _mean([a < b for a, b in zip(self._nll[name], without, strict=True)])
                for name in JUDGED[1:]
            },
        }

    def _surprise(self, before: Sequence[int], target: Sequence[int]) -> float:
        """Return the mean negative log-likelihood of tokens that follow others."""
        body = {
            "model": self._model,
            "prompt": [*before, *target],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        answer = self._engine.post("/v1/completions", body)
        try:
            told = answer["choices"][0]["prompt_logprobs"][-len(target) :]
            found = [each[str(id_)]["logprob"] for each, id_ in zip(told, target, strict=True)]
            return -float(sum(found)) / len(found)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"--engine {self._engine.url}: its answer has no prompt_logprobs of the new lines: "
                "give an engine that tells them, and --tokenizer of the very model"
            ) from error


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return what ``Judge.result`` returned for people."""
    if not result["samples"]:
        return ["the engine judged no commit: none of them adds lines to a source file"]
    values = ", ".join(f"{name} {result['nll'][name]:.3f}" for name in JUDGED)
    better = ", ".join(f"{name} {share:.0%}" for name, share in result["better"].items())
    return [
        f"judged by the engine, {result['samples']} commits, {result['tokens']} tokens; mean "
        f"negative log-likelihood of the new lines: {values}",
        f"commits in which it is lower than with nothing: {better}",
    ]


def _new_lines(saves: Iterable[Save]) -> tuple[str, str]:
    """Return the path and the new lines of the source file to which a commit adds most."""
    best = "", ""
    for save in saves:
        if save.old and save.new and kind_of(save.path) is FileKind.SOURCE:
            added = hunks.added(save.old.text, save.new.text) or ""
            best = max(best, (save.path, added), key=lambda each: len(each[1]))
    return best


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
