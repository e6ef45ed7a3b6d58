"""What would be put in front of a question about a tree, without any service or engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from infbox import kinds
from infbox.packing import layout
from infbox.packing.packer import seen_once
from infbox.retrieval import search
from infbox.retrieval.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infbox.packing.pack import Pack
    from infbox.packing.tokens import Tokenizer
    from infbox.retrieval.search import Chosen
    from infbox.tree.files import Tree


class Prompt(NamedTuple):
    """What stands before a question.

    Attributes:
        pack: the pack of the tree, as a watcher would begin with.
        chosen: what was found for the question besides.
        files: how many the tree has that may be shown.
    """

    pack: Pack
    chosen: Sequence[Chosen]
    files: int


def prompt_for(
    tree: Tree,
    question: str,
    budget: int,
    retrieve: int,
    tokenizer: Tokenizer,
    *,
    weights: kinds.Weights = kinds.DEFAULTS,
) -> Prompt:
    """Return what would be put in front of a question.

    Args:
        tree: the files.
        question: what is asked.
        budget: tokens in all.
        retrieve: tokens of them for what is found for the question.
        tokenizer: counts tokens.
        weights: what files are worth, by their kinds.

    Raises:
        GitError: git could not answer.
    """
    now = seen_once(tree, tokenizer, weights.pack)
    pack = layout.first(now, budget - retrieve, tokenizer)
    texts = Texts()
    texts.bring_up(now.digests, now.read)
    chosen = search.choose(
        texts,
        question,
        lambda path: pack.holds(path, now.digests.get(path, "")),
        retrieve,
        tokenizer,
        heat=lambda path: now.by_path[path].heat if path in now.by_path else 0.0,
        weights=weights.retrieval,
    )
    texts.close()
    return Prompt(pack, chosen, len(now.candidates))


def explained(prompt: Prompt, tokenizer: Tokenizer) -> str:
    """Return what stands before a question, piece by piece with the reason for each, and the text
    that was found."""
    in_full = [entry for entry in prompt.pack.entries if entry.path]
    found = search.rendered(prompt.chosen)
    lines = [
        f"pack: {len(in_full)} of {prompt.files} files in full, {prompt.pack.tokens} tokens:"
        " edited often and lately, small, imported by many",
        *(f"  {entry.tokens:6} {entry.path}" for entry in in_full),
        f"found for the question: {len(prompt.chosen)} chunks, {tokenizer.count(found)} tokens",
        *(
            f"  {tokenizer.count(each.text):6} {each.place.path}:{each.place.start}-"
            f"{each.place.end}  {each.reason}"
            for each in prompt.chosen
        ),
    ]
    return "\n".join([*lines, "", found.rstrip()]).rstrip()
