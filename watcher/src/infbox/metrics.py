"""What the watcher and the gateway count."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FAST = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LABELS = ("workspace",)


@dataclass(frozen=True)
class Usage:
    """Tokens of a request.

    Attributes:
        prompt: of the prompt.
        cached: how many of them were not computed; None where vLLM does not say.
        completion: of the answer.
    """

    prompt: int
    cached: int | None
    completion: int


SIGNED_IN = "@page"
"""Ends the name of somebody who signed in, and is the label of all of them."""


def user_label(user: str) -> str:
    """Return a user's label: one for all who signed in, of whom there may be any number. Users of
    keys are those of the inventory."""
    return SIGNED_IN if user.endswith(SIGNED_IN) else user


class WatcherMetrics:
    """The watcher's metrics, each by workspace."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"infbox_{name}", text, _LABELS, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"infbox_{name}", text, (*_LABELS, *labels), registry=self.registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"infbox_{name}", text, _LABELS, buckets=_FAST, registry=self.registry)

        self.events = counter("watch_events", "Events that inotify told.")
        self.overflows = counter("watch_overflows", "Times that inotify lost events.")
        self.rescans = counter("watch_rescans", "Times that the whole tree was listed.")
        self.files = gauge("workspace_files", "Files that may enter the pack.")
        self.unwatched = gauge("workspace_unwatched_directories", "Directories not watched.")
        self.polled = gauge("workspace_polled_directories", "Directories that are polled.")
        self.unreadable = gauge("workspace_unreadable_paths", "Files and directories not readable.")
        self.readable = gauge("workspace_readable", "1 while the last look at the tree worked.")
        self.unhealthy_since = gauge(
            "workspace_unhealthy_since_timestamp_seconds",
            "Since when the tree is not followed or packed; 0 while it is.",
        )
        self.text_index_failing = gauge(
            "text_index_failing", "1 while the text index cannot be kept up to the tree."
        )
        self.index_bytes = gauge("index_bytes", "Size of the index on disk, its log included.")
        self.tokens = Gauge(
            "infbox_pack_tokens",
            "Tokens of the pack, by section; superseded ones are counted in the others too.",
            (*_LABELS, "section"),
            registry=self.registry,
        )
        self.garbage = gauge("pack_garbage_ratio", "Share of the pack that is superseded.")
        self.generation = gauge("pack_generation", "Number of the pack's base.")
        self.version = gauge("pack_version", "Number of the pack's text.")
        self.warm = gauge("pack_warm", "1 while the published pack is proven to be in the cache.")
        self.prompt = gauge("pack_prompt_tokens", "Prompt tokens of the last probe.")
        self.cached = gauge("pack_cached_tokens", "Of them in the cache.")
        self.recomputed = counter("pack_recomputed_tokens", "Tokens computed by warm-ups.")
        self.requests = counter("warm_requests", "Requests to the engine, by result.", "result")
        self.prefetches = counter("warm_prefetches", "Prefetches by LMCache, by result.", "result")
        self.template_broken = gauge(
            "warm_template_broken", "1 while the model's chat template breaks the pack's prefix."
        )
        self.indexed = histogram(
            "save_to_indexed_seconds", "From a save's event to its commit in the index."
        )
        self.published = histogram("save_to_published_seconds", "From a save to a published pack.")
        self.warmed = histogram("save_to_warm_seconds", "From a save to a computed pack.")


class GatewayMetrics:
    """The gateway's metrics; ``workspace`` is empty for what passes untouched."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "infbox_gateway_requests",
            "Requests answered, by the user whose key they came with, and by status.",
            ("workspace", "user", "status"),
            registry=self.registry,
        )
        self.tokens = Counter(
            "infbox_gateway_tokens",
            "Tokens, by user and kind, of the answers that tell; cached ones are of the prompt's.",
            ("workspace", "user", "kind"),
            registry=self.registry,
        )
        self.uncounted = Counter(
            "infbox_gateway_uncounted_requests",
            "Requests whose tokens are not known, since their answer did not come to its end.",
            ("workspace", "user"),
            registry=self.registry,
        )
        self.first_byte = Histogram(
            "infbox_gateway_first_byte_seconds",
            "From a request's arrival to the first byte of its answer, by the user who asked.",
            ("workspace", "user"),
            buckets=_FAST,
            registry=self.registry,
        )
        self.cancelled = Counter(
            "infbox_gateway_cancelled",
            "Requests whose client went away first.",
            _LABELS,
            registry=self.registry,
        )
        self.cancelled.labels("")  # there, at 0, before the first: a rate would not see that step
        self.without_pack = Counter(
            "infbox_gateway_without_pack",
            "Requests that asked for a workspace whose pack is not there yet.",
            _LABELS,
            registry=self.registry,
        )
        self.queued = Gauge(
            "infbox_gateway_queued_requests",
            "Requests queued while the engine is away.",
            registry=self.registry,
        )
        self.forwarded = Counter(
            "infbox_gateway_forwarded",
            "Requests forwarded to a replica, by its name; it counts them as requests, too.",
            ("workspace", "replica"),
            registry=self.registry,
        )
        self.retried = Counter(
            "infbox_gateway_retried",
            "Times that a request was retried, since a replica was away or broke off.",
            ("reason",),
            registry=self.registry,
        )

        self.turns = Counter(
            "infbox_gateway_conversation_turns",
            "Requests of conversations, by the client's family, whether the conversation is new, "
            "kept its pack or moved, and what was the first to differ from what came before.",
            ("workspace", "client", "state", "first"),
            registry=self.registry,
        )
        self.told = Counter(
            "infbox_gateway_conversation_told_tokens",
            "Tokens of changes that conversations were told.",
            _LABELS,
            registry=self.registry,
        )
        self.retrievals = Counter(
            "infbox_gateway_retrievals",
            "Searches for what a question is about, by what came of them.",
            ("workspace", "result"),
            registry=self.registry,
        )
        self.retrieved = Counter(
            "infbox_gateway_retrieved_tokens",
            "Tokens that were found for questions and put in front of them.",
            _LABELS,
            registry=self.registry,
        )
        self.retrieval_seconds = Histogram(
            "infbox_gateway_retrieval_seconds",
            "Time that a question waited for what was found for it.",
            _LABELS,
            buckets=_FAST,
            registry=self.registry,
        )
        self.tool_calls = Counter(
            "infbox_gateway_tool_calls",
            "Calls of tools at /mcp, by tool, user and result.",
            ("workspace", "user", "tool", "result"),
            registry=self.registry,
        )
        self.tool_seconds = Histogram(
            "infbox_gateway_tool_seconds",
            "What calls of tools at /mcp took, by tool.",
            ("tool",),
            buckets=_FAST,
            registry=self.registry,
        )

    def count_turn(
        self, workspace: str, client: str, state: str, beginning: str, told_tokens: int
    ) -> None:
        """Count a turn of a conversation.

        Args:
            workspace: that it names.
            client: the family of the program that asks.
            state: whether the conversation is new, kept its pack or moved.
            beginning: what was the first to differ from what came before; empty for nothing.
            told_tokens: of changes, that the turn was told.
        """
        self.turns.labels(workspace, client, state, beginning or "none").inc()
        if told_tokens:
            self.told.labels(workspace).inc(told_tokens)

    def count_retrieval(self, workspace: str, result: str, seconds: float, tokens: int) -> None:
        """Count a search for what a question is about.

        Args:
            workspace: that was searched.
            result: what came of it.
            seconds: that it took.
            tokens: that were put in front of the question.
        """
        self.retrievals.labels(workspace, result).inc()
        self.retrieval_seconds.labels(workspace).observe(seconds)
        if tokens:
            self.retrieved.labels(workspace).inc(tokens)

    def count(
        self, workspace: str, user: str, status: int, usage: Usage | None, *, is_computed: bool
    ) -> None:
        """Count a request and its tokens.

        Args:
            workspace: that it named; empty for none.
            user: whose key it came with; empty where that is not known.
            status: of its answer; 0 where the client left before that.
            usage: its tokens; None where the answer does not tell.
            is_computed: whether it had any.
        """
        user = user_label(user)
        self.requests.labels(workspace, user, status or "none").inc()
        if usage is None:
            if is_computed:
                self.uncounted.labels(workspace, user).inc()
            return
        self.tokens.labels(workspace, user, "prompt").inc(usage.prompt)
        self.tokens.labels(workspace, user, "cached").inc(usage.cached or 0)
        self.tokens.labels(workspace, user, "completion").inc(usage.completion)
