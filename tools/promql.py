"""PromQL as it stands in dashboards and alert rules."""

from typing import Any

import promql_parser

# What Grafana puts in: hosts that were chosen, and four times the scrape interval.
VARIABLES = {"$host": ".+", "$__rate_interval": "1m"}


def filled(query: str) -> str:
    """Return a dashboard's query as Grafana sends it."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def metric_names(query: str) -> set[str]:
    """Return the names of the metrics in a query.

    Raises:
        ValueError: it is not PromQL; the message says why.
    """
    return set(_names(promql_parser.parse(filled(query))))


def _names(node: Any) -> list[str]:
    """Return the names below a node, of which each kind has its own attributes."""
    if isinstance(node, promql_parser.VectorSelector):
        return [node.name or ""]
    below = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector")]
    below += getattr(node, "args", [])
    return [name for inner in below if inner is not None for name in _names(inner)]
