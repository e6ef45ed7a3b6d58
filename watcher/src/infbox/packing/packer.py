"""From the index to a published pack. Blocking, one call at a time."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import accumulate
from typing import TYPE_CHECKING

from infbox.kinds import PACK_WEIGHTS, described, kind_of
from infbox.log import line
from infbox.packing import context, layout, overlay, rank, store
from infbox.packing.context import Centre, KnownImports
from infbox.packing.erasure import erasing
from infbox.packing.erasure.erasing import Eraser
from infbox.packing.erasure.shown_paths import Past, ShownPaths
from infbox.packing.pack import Kind, Pack, common_length, plain
from infbox.packing.store import State
from infbox.tree import git
from infbox.tree.rules import as_utf8
from infbox.watching import edit_frequency
from infbox.watching.index import check_on_disk, is_damage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from infbox.kinds import KindWeights
    from infbox.packing.erasure.cached_chunks import CachedChunks
    from infbox.packing.overlay import BaseWorkspace
    from infbox.packing.pack import Entry
    from infbox.packing.tokens import Ids, Tokenizer
    from infbox.tree.files import Content, Tree
    from infbox.watching.index import File, Reader

_logger = logging.getLogger(__name__)

FORMAT = 2
"""Of the text; another one calls for a new pack."""

MANY_EDITS = 64
"""Files edited at once, as by a checkout: the pack is laid out anew instead of taking in each."""

_NO_PAST = Past()

_SECTIONS = {Kind.INTRO: "intro", Kind.MAP: "map", Kind.BASE: "base"}


@dataclass(frozen=True)
class Publication:
    """A pack as others see it.

    Attributes:
        workspace: its name.
        model: the name the engine serves.
        generation: number of the frozen base.
        version: number of the text.
        sha256: of the text, hex.
        tokens: of the text.
        text: what goes in front of a question.
        sections: where each of its sections ends: characters of the text, and tokens, until there.
        ids: the text's token ids, as the sections' ids joined; None where they are not known.
        entries: what each of its sections is about: what it says, the path, the digest of the file
            after it, and of a renamed file the old path.
        past: what there is to say of earlier packs.
        told: the paths that each of its sections tells of.
    """

    workspace: str
    model: str
    generation: int
    version: int
    sha256: str
    tokens: int
    text: str
    sections: tuple[tuple[int, int], ...]
    ids: Ids[int] | None = field(default=None, compare=False, repr=False)
    entries: tuple[tuple[str, str, str, str], ...] = field(default=(), repr=False)
    past: Past = field(default=Past(), compare=False, repr=False)
    told: tuple[frozenset[str], ...] = field(default=(), compare=False, repr=False)


class Packer:
    """The pack of one workspace.

    Args:
        name: of the workspace.
        model: the name the engine serves.
        tree: the files.
        index: what is known of them.
        budget: of the pack, in tokens.
        tokenizer: counts tokens.
        state_dir: of the watcher; the pack lies below it.
        base: with whose pack this one begins; None for none. It is closed with this.
        chunks: what LMCache keeps of the packs; None where there is none.
        weights: what edits are worth, by the kind of their file.

    Raises:
        InputError: a newer version wrote what is kept.
        OSError, sqlite3.Error: the state directory cannot be used.
    """

    def __init__(
        self,
        *,
        name: str,
        model: str,
        tree: Tree,
        index: Reader,
        budget: int,
        tokenizer: Tokenizer,
        state_dir: Path,
        base: BaseWorkspace | None = None,
        chunks: CachedChunks | None = None,
        weights: KindWeights = PACK_WEIGHTS,
    ) -> None:
        self.name = name
        self._weights = weights
        self._chunks = chunks
        self._base = base
        self._model = model
        self._tree = tree
        self._index = index
        self._budget = budget
        self._tokenizer = tokenizer
        over = f", over {base.name}" if base else ""
        weighed = described(weights, PACK_WEIGHTS)
        weighed = f", {weighed}" if weighed else ""
        self._policy = (
            f"format {FORMAT}, {budget} tokens counted by {tokenizer.name}{over}{weighed}"
        )
        directory = state_dir / "packs" / name
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._published = directory / "pack.json"
        self._store = store.opened(directory / "pack.db")
        self._past = Past()
        self.publication: Publication | None = None
        """What is published, by this process or one before it."""
        self.candidate: Publication | None = None
        """The next generation, to be warmed before ``adopt`` publishes it."""
        self._next: Pack | None = None
        self._state: State
        self._pack: Pack
        try:
            self._read_store()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._begin_store_anew(error)

    def close(self) -> None:
        """Close what is kept."""
        self._store.close()
        if self._base:
            self._base.close()

    @property
    def entries(self) -> Sequence[Entry]:
        """What is published, for those that begin with it; none before there is a pack, or where it
        was made by another policy. For any thread."""
        state, entries = self._kept
        return entries if state.policy == self._policy else ()

    @property
    def erased(self) -> frozenset[erasing.Text]:
        """Texts that were erased, for those that begin with this pack. For any thread."""
        return self._eraser.texts

    @property
    def waits_for(self) -> str:
        """The base that has no pack yet, so that there is none here; else empty."""
        is_waiting = self._base and not self._base.is_there
        return self._base.name if self._base and is_waiting and not self.publication else ""

    @property
    def shared(self) -> int:
        """Tokens that the pack shares with the base's as that is now; 0 where there is no base."""
        return self._base.shared(self._pack) if self._base and self.publication else 0

    def update(self) -> bool:
        """Bring the pack up to the index.

        What is missing follows from the two alone, so that nothing is lost between them. Where what
        is kept turns out to be damaged, the pack is made anew from the index.

        Returns:
            Whether ``publication`` or ``candidate`` is another one now.

        Raises:
            OSError, sqlite3.Error: what is kept cannot be read or written at present.
            GitError: git could not answer.
        """
        try:
            return self._update()
        except sqlite3.DatabaseError:
            if not self._replace_damaged_store():
                raise
        return self._update()

    def _replace_damaged_store(self) -> bool:
        """Begin the store anew if it is damaged; say whether it was. The index may be it too."""
        try:
            check_on_disk(self._store.file)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                return False
            self._begin_store_anew(error)
            return True
        return False

    def _begin_store_anew(self, reason: sqlite3.Error) -> None:
        self._store.close()
        self._store = store.begun_anew(self._store.file, reason)
        self._read_store()
        if self.publication:  # so that no number names two texts
            told = self.publication
            self._state = replace(self._state, generation=told.generation, version=told.version)

    def _update(self) -> bool:
        if self._state.policy != self._policy:
            if self._base and not self._base.is_there:
                return False
            self._begin()
            return True
        if self._eraser.must_forget:
            self._forget_deleted()
        if self._erase():
            return True
        last = self._index.last_edit()
        # An index that was begun anew while the clock was behind counts from less.
        edited = self._index.edited_since(self._state.edit if last >= self._state.edit else 0)
        state = replace(self._state, edit=last, edited=self._state.edited + _tokens(edited))
        if len(edited) > MANY_EDITS:
            self._follow(state)
            return self._adopt()
        for pack in self._packs():
            self._take_in(pack, edited, last)
        if self._is_due() and not self._next:
            self._follow(state)
        if self._follow_base(state) or (self._next and self._pack.tokens > self._budget):
            return self._adopt()
        is_new = self._publish_changes(state)
        return self._describe_candidate() or is_new

    def adopt(self) -> bool:
        """Publish the candidate, if there is one; say whether there was.

        Raises:
            OSError, sqlite3.Error: it cannot be written at present.
        """
        return self._next is not None and self._adopt()

    def sections(self) -> dict[str, int]:
        """Return the pack's tokens by section; what is superseded is counted by itself."""
        counts = Counter({"intro": 0, "map": 0, "base": 0, "tail": 0})
        for entry in self._pack.entries:
            counts[_SECTIONS.get(entry.kind, "tail")] += entry.tokens
        return {**counts, "superseded": self._pack.superseded}

    def _erase(self) -> bool:
        """Begin the pack anew before what must not be shown any more, and publish it at once.

        Returns:
            Whether there was anything to erase.
        """
        entries = [entry for pack in self._packs() for entry in pack.entries]
        paths = self._eraser.forbidden(entries)
        is_judged = self._eraser.is_judged
        texts = set() if is_judged else self._eraser.refused_texts(entries)
        texts |= self._erased_below(entries)
        if not paths and not texts:
            if not is_judged:
                self._eraser.judged()
            return False
        last = self._index.last_edit()
        now = self._tree_now(last)
        cut = erasing.first_about(self._pack.entries, paths, texts)
        self._next = self.candidate = None
        if cut is not None:
            self._pack = self._laid(now) or layout.beginning(self._pack, cut, now)
        state = replace(
            self._state,
            edit=last,
            generation=self._state.generation + 1,
            version=self._state.version + 1,
            min_worth=layout.min_worth(self._pack, now),
        )
        _logger.info(
            line("pack-erased", workspace=self.name, files=len(paths | {p for p, _ in texts}))
        )
        self._eraser.begin(entries, paths, texts)
        if self._chunks:
            self._chunks.drop(paths | {path for path, _ in texts})
        self._write(state)
        self._eraser.judged()
        is_new = self._publish()
        self._forget_deleted()
        return is_new

    def _forget_deleted(self) -> None:
        """Leave nothing of what was erased on the disk; where it cannot be done just now, the next
        look does it."""
        try:
            self._store.forget_deleted()
        except sqlite3.OperationalError as error:
            _logger.warning(line("pack-not-cleaned", workspace=self.name, reason=error))
            return
        self._eraser.forgotten()

    def _erased_below(self, entries: Sequence[Entry]) -> set[erasing.Text]:
        """Return texts of the base's that were erased there, and that this tree does not have."""
        if self._base is None:
            return set()
        erased = self._base.erased()
        texts = {(e.path, e.digest) for e in entries if (e.path, e.digest) in erased}
        own = self._index.digests({path for path, _ in texts})
        return {(path, digest) for path, digest in texts if own.get(path) != digest}

    def _is_due(self) -> bool:
        return self._base.is_due(self._pack) if self._base else self._pack.is_due

    def _follow_base(self, state: State) -> bool:
        """Lay the pack over the base anew where that pays.

        Returns:
            Whether that computes no more than to go on would, so that nothing is to be waited for.
        """
        if self._base is None or self._next or not self._base.may_pay(self._pack):
            return False
        self._follow(state)
        assert self._next is not None  # noqa: S101  # it was just made
        if not self._base.pays(self._pack, self._next):
            self._next = None
            return False
        same = common_length(self._stored, self._pack.entries)
        going_on = sum(entry.tokens for entry in self._pack.entries[same:])
        return 0 < going_on >= self._next.tokens - self._base.shared(self._next)

    def _packs(self) -> Iterable[Pack]:
        return filter(None, (self._pack, self._next))

    def _take_in(self, pack: Pack, edited: Sequence[File], last: int) -> None:
        """Bring one pack up to the index."""
        files = {file.path: file for file in edited}
        shown = pack.shown
        digests = self._index.digests(shown) | {path: file.digest for path, file in files.items()}
        layout.take_absences(pack, digests)
        stale = [path for path, s in shown.items() if digests.get(path, "") != s.entry.digest]
        for path in [*sorted(path for path in stale if path not in files), *files]:
            source = self._read(path, digests.get(path, ""))
            if source:
                committed = partial(self._committed, path)
                is_worth_space = path in files and self._is_worth_space(files[path], last)
                pack.save(path, source, committed=committed, is_worth_space=is_worth_space)

    def _is_worth_space(self, file: File, last: int) -> bool:
        return self._candidate(file, last).worth >= self._state.min_worth

    def _publish_changes(self, state: State) -> bool:
        """Publish the pack if its text changed, or was not told of by this process yet."""
        if [e.text for e in self._pack.entries] != [e.text for e in self._stored]:
            self._write(replace(state, version=state.version + 1))
            return self._publish()
        if state != self._state:
            self._write(state)
        return self._publish()

    def _begin(self) -> None:
        """Make and publish a pack from nothing."""
        last = self._index.last_edit()
        now = self._tree_now(last)
        self._next, self.candidate = None, None
        self._pack = self._laid(now) or layout.first(now, self._budget, self._tokenizer)
        self._eraser.judged()
        state = State(
            generation=self._state.generation + 1,
            version=self._state.version + 1,
            edit=last,
            policy=self._policy,
            min_worth=layout.min_worth(self._pack, now),
        )
        self._write(state)
        self._publish()

    def _follow(self, state: State) -> None:
        """Make the next generation, for the edits that a state has taken in."""
        now = self._tree_now(state.edit)
        self._next = self._laid(now) or layout.following(self._pack, now, state.edited)
        same = common_length(self._pack.entries, self._next.entries)
        cost = sum(entry.tokens for entry in self._next.entries[same:])
        self._next_state = replace(
            state,
            edited=layout.left_to_spend(state.edited, cost),
            min_worth=layout.min_worth(self._next, now),
        )

    def _laid(self, now: layout.Tree) -> Pack | None:
        """Return the pack over the base; None where there is none, or it cannot be read."""
        base = self._base.now() if self._base else None
        if base is None:
            return None
        base = replace(base, entries=self._allowed(base.entries))
        return overlay.laid(base, now, self._budget, self._tokenizer)

    def _allowed(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the base's entries until the first about a file that this tree must not show."""
        paths = self._eraser.forbidden(entries)
        return entries[: erasing.first_about(entries, paths)]

    def _adopt(self) -> bool:
        """Publish the next generation."""
        assert self._next is not None  # noqa: S101  # the callers have seen to it
        state = replace(
            self._next_state,
            edit=max(self._state.edit, self._next_state.edit),
            generation=self._state.generation + 1,
            version=self._state.version + 1,
        )
        self._pack, self._next, self.candidate = self._next, None, None
        self._write(state)
        return self._publish()

    def _describe_candidate(self) -> bool:
        """Bring ``candidate`` up to the next generation; say whether it changed."""
        if not self._next:
            return False
        before = self.candidate
        state = self._state
        self.candidate = self._describe(self._next, state.generation + 1, state.version + 1)
        return before is None or before.sha256 != self.candidate.sha256

    def _tree_now(self, last: int) -> layout.Tree:
        """Return the tree as the index knows it."""
        files = self._index.kept()
        digests = {file.path: file.digest for file in files}
        is_judged = self._is_index_judged()

        def read(path: str) -> Content | None:
            return self._tree.readable(path, digests.get(path, "") if is_judged else "")

        central = self._centre.centralities(digests, read)
        candidates = [self._candidate(file, last, central.get(file.path, 0.0)) for file in files]
        if self._base:
            heats = self._base.heats()
            candidates = [replace(c, heat=max(c.heat, heats.get(c.path, 0.0))) for c in candidates]
        return layout.Tree(
            name=self.name,
            candidates=rank.ranked(candidates),
            read=read,
            committed=self._committed,
            draw_map=lambda rest, space: context.drawn_map(rest, read, space, self._tokenizer),
        )

    def _candidate(self, file: File, last: int, centrality: float = 0.0) -> rank.Candidate:
        heat = edit_frequency.cooled(file.heat, last - file.edit)
        weight = self._weights[kind_of(file.path)]
        return rank.Candidate(file.path, file.digest, file.size, heat, centrality, weight)

    def _read(self, path: str, digest: str) -> Content | None:
        """Read a file as it stands in the index; one that went on since is told of again."""
        source = self._tree.readable(path, digest if self._is_index_judged() else "")
        return source if source and source.digest == digest else None

    def _is_index_judged(self) -> bool:
        """Say whether the index was made by the rules as they are now: after an upgrade it takes a
        while until it is, and what is read until then is judged here."""
        return self._index.policy() == self._tree.policy

    def _committed(self, path: str) -> str | None:
        """Return a file's text in the last commit, the base's where there is one; None where there
        is none, or it may not be shown: a secret that was taken out is in it still."""
        roots = [self._base.root] if self._base else []
        return _committed(self._tree, [*roots, self._tree.root], path)

    def _read_store(self) -> None:
        """Take up all that the store keeps."""
        self._centre = Centre(self._store)
        self._eraser = Eraser(self._store.database, self._index, self._tree)
        self._shown_paths = ShownPaths(self._store.database, self._index, self._tree)
        self._load()

    def _load(self) -> None:
        """Go on from what is stored."""
        self._state = self._store.state()
        self._stored = tuple(self._store.entries())
        self._kept = self._state, self._stored
        self._pack = Pack(self._stored, self._budget, self._tokenizer)
        self._next = None
        self.candidate = None

    def _write(self, state: State) -> None:
        entries = tuple(self._pack.entries)
        try:
            self._store.write(state, entries, common_length(self._stored, entries))
        except sqlite3.Error:
            self._load()  # so that the next look tries again
            raise
        self._state, self._stored = self._kept = state, entries

    def _publish(self) -> bool:
        """Replace the published file if it is not what it should be, as after a crash."""
        told = self.publication
        state = self._state
        begins_anew = self._eraser.begins_anew
        past = self._shown_paths.past(self._pack.entries, state.version, begin_anew=begins_anew)
        if begins_anew:
            self._eraser.began_anew()
        if self._chunks and past.withdrawn != self._past.withdrawn:
            self._chunks.drop([path for path, _ in past.withdrawn])
        if told and told.version == state.version and self._past == past:
            return False
        self._past = past
        publication = self._describe(self._pack, state.generation, state.version, past)
        wanted = _as_json(publication)
        if _read_or_empty(self._published) != wanted:
            _write_atomically(self._published, wanted)
        if told == publication:
            return False
        self.publication = publication
        return True

    def _describe(
        self, pack: Pack, generation: int, version: int, past: Past = _NO_PAST
    ) -> Publication:
        text = pack.text
        return Publication(
            workspace=self.name,
            model=self._model,
            generation=generation,
            version=version,
            sha256=sha256(text.encode()).hexdigest(),
            tokens=pack.tokens,
            text=text,
            sections=_ends(pack),
            ids=pack.ids,
            entries=tuple(
                (e.kind.value, plain(e.path), e.digest, plain(e.old_path)) for e in pack.entries
            ),
            past=past,
            told=tuple(frozenset(erasing.told([entry])) for entry in pack.entries),
        )


def packed(
    tree: Tree, budget: int, tokenizer: Tokenizer, over: tuple[Tree, int] | None = None
) -> tuple[Pack, int, int]:
    """Return the pack that a watcher would begin with, how many files it was made from, and how
    many of its tokens are those of its base's pack.

    Args:
        tree: the files.
        budget: of the pack, in tokens.
        tokenizer: counts tokens.
        over: the base's files, and the budget of its pack; None for no base.

    Raises:
        GitError: git could not answer.
    """
    now = seen_once(tree, tokenizer)
    if over is None:
        return layout.first(now, budget, tokenizer), len(now.candidates), 0
    below = seen_once(over[0], tokenizer)
    base = layout.first(below, over[1], tokenizer)
    now = replace(now, committed=partial(_committed, tree, [over[0].root, tree.root]))
    pack = overlay.laid(overlay.Base(base.entries, below.digests), now, budget, tokenizer)
    same = common_length(base.entries, pack.entries)
    return pack, len(now.candidates), sum(entry.tokens for entry in pack.entries[:same])


def _committed(tree: Tree, roots: Iterable[Path], path: str) -> str | None:
    """Return a file's text in the last commit of the first that has it, as far as the tree's rules
    let it be shown; or None."""
    for data in (git.committed(root, path, tree.max_bytes) for root in roots):
        if data is not None:
            refused = tree.rules.by_content(data, path)
            return None if refused else as_utf8(data).decode(errors="replace")
    return None


def seen_once(tree: Tree, tokenizer: Tokenizer, weights: KindWeights = PACK_WEIGHTS) -> layout.Tree:
    """Return a tree as it is, of which nothing is known yet.

    Args:
        tree: the files; all that may be shown are read, and kept.
        tokenizer: counts tokens.
        weights: what edits are worth, by the kind of their file.

    Raises:
        GitError: git could not answer.
    """
    contents = {path: tree.readable(path) for path in sorted(tree.scan())}
    heats = edit_frequency.heats_from_git(tree.root)
    digests = {path: content.digest for path, content in contents.items() if content}
    central = Centre(KnownImports()).centralities(digests, contents.get)
    candidates = [
        rank.Candidate(
            path,
            content.digest,
            len(content.data),
            heats.get(path, 0.0),
            central.get(path, 0.0),
            weights[kind_of(path)],
        )
        for path, content in contents.items()
        if content
    ]
    return layout.Tree(
        name=tree.root.name,
        candidates=rank.ranked(candidates),
        read=contents.get,
        committed=lambda _: None,
        draw_map=lambda rest, space: context.drawn_map(rest, contents.get, space, tokenizer),
    )


def _ends(pack: Pack) -> tuple[tuple[int, int], ...]:
    """Return how many characters and tokens there are until the end of each section."""
    characters = accumulate(len(entry.text) for entry in pack.entries)
    return tuple(zip(characters, accumulate(e.tokens for e in pack.entries), strict=True))


def _tokens(files: Iterable[File]) -> float:
    return sum(rank.Candidate(file.path, file.digest, file.size).tokens for file in files)


def _as_json(publication: Publication) -> str:
    told = {
        key: value for key, value in vars(publication).items() if key not in ("ids", "past", "told")
    }
    return json.dumps(told | vars(publication.past), ensure_ascii=False)


def _read_or_empty(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _write_atomically(file: Path, text: str) -> None:
    """Replace a file in one step, mode 0640.

    It is not flushed to the disk: after a power cut the store, which is, writes it again.
    """
    beside = file.with_suffix(".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    beside.replace(file)
