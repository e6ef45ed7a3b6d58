"""Write Grafana's dashboards, files/dashboards/*.json, from what stands here.

    python tools/dashboards.py            write the dashboards
    python tools/dashboards.py --check    write nothing, name the stale ones, exit with 1

Made with Grafana's own typed builders, so that what comes out is in Grafana's own form.
"""

import argparse
import itertools
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import promql
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    VariableRefresh,
    VariableSort,
)

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "files" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
WIDTH, HEIGHT = 8, 8  # of a panel, in Grafana's units; a page is 24 wide
COUNTS_PER_SECOND = "cps"
TOKENS = "suffix: tokens"
TOKENS_PER_SECOND = "suffix: tokens/s"
HOST = 'host=~"$host"'
FAILED = HOST + ',status=~"5.."'
CADDY = "caddy_http_request_duration_seconds_count"
IDLE = HOST + ',mode="idle"'


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        unit: Grafana's name of the unit.
        description: what to do when it looks wrong, in one sentence.
        queries: legends and the PromQL behind them.
        now: show the newest values as numbers, in place of lines.
    """

    title: str
    unit: str
    description: str
    queries: dict[str, str] = field(default_factory=dict)
    now: bool = False


@dataclass(frozen=True)
class Page:
    """One dashboard: the name of its file, its title, and rows of panels by their headings."""

    name: str
    title: str
    rows: dict[str, tuple[Panel, ...]]


def value(name: str) -> str:
    """Return a metric as it is."""
    return f"{name}{{{HOST}}}"


def rate(name: str, labels: str = HOST) -> str:
    """Return the growth of a counter a second."""
    return f"rate({name}{{{labels}}}[$__rate_interval])"


def total(name: str, by: str = "host", labels: str = HOST) -> str:
    """Return the growth of a counter a second, summed by some labels."""
    return f"sum by ({by}) ({rate(name, labels)})"


def quantiles(name: str, by: str = "host", labels: str = HOST) -> dict[str, str]:
    """Return queries for the median and the 95th percentile of a histogram, by some labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    buckets = total(f"{name}_bucket", f"{by}, le", labels)
    return {
        f"{legend} {word}": f"histogram_quantile({level}, {buckets})"
        for word, level in (("median", 0.5), ("p95", 0.95))
    }


def share(part: str, whole: str) -> str:
    """Return a ratio that is empty, and not a division by nothing, while nothing happens."""
    return f"{part} / ({whole} > 0)"


def mean(name: str, by: str = "host") -> str:
    """Return the mean of what a histogram saw."""
    return share(total(f"{name}_sum", by), total(f"{name}_count", by))


SERVING = Page(
    "serving",
    "infbox / Serving",
    {
        "How soon": (
            Panel(
                "First byte, as clients see it",
                units.Seconds,
                "Above 2.5 s for more than 5 of 100: look at the queue, then at the cached share "
                "on KV cache; docs/runbooks/FirstByteLateFast.md goes on.",
                quantiles("infbox_gateway_first_byte_seconds", "host, workspace"),
            ),
            Panel(
                "First byte by user",
                units.Seconds,
                "One user waits far longer than the others: his prompts are long or begin with "
                "something new each time; ask which client he uses.",
                quantiles("infbox_gateway_first_byte_seconds", "user"),
            ),
            Panel(
                "First token, in the engine",
                units.Seconds,
                "Much below what clients see: the time is lost before the engine, in gateway or "
                "Caddy. Warm-ups of packs count here too.",
                quantiles("vllm:time_to_first_token_seconds", "host, preset"),
            ),
            Panel(
                "Between tokens",
                units.Seconds,
                "Rises with the number of running requests: lower max_num_seqs in the preset, or "
                "look for a hot card on GPU and host.",
                quantiles("vllm:inter_token_latency_seconds", "host, preset"),
            ),
            Panel(
                "Requests in the engine",
                units.Short,
                "Waiting stays above zero: the engine is full; see KV in use, and give it fewer "
                "or shorter requests, or another card.",
                {
                    "{{host}} running": f"sum by (host) (vllm:num_requests_running{{{HOST}}})",
                    "{{host}} waiting": f"sum by (host) (vllm:num_requests_waiting{{{HOST}}})",
                },
            ),
            Panel(
                "Wait in the queue",
                units.Seconds,
                "Seconds here with few requests running: KV is full, so see KV cache.",
                quantiles("vllm:request_queue_time_seconds"),
            ),
            Panel(
                "Whole answer",
                units.Seconds,
                "Rises while first tokens stay fast: answers became longer, or tokens slower.",
                quantiles("vllm:e2e_request_latency_seconds"),
            ),
        ),
        "How much": (
            Panel(
                "Tokens by preset",
                TOKENS_PER_SECOND,
                "Falls while requests wait: compare with GPU use, then restart the engine if "
                "cards idle.",
                {
                    "{{host}} {{preset}} written": total(
                        "vllm:generation_tokens_total", "host, preset"
                    ),
                    "{{host}} {{preset}} read": total("vllm:prompt_tokens_total", "host, preset"),
                },
            ),
            Panel(
                "Tokens by user",
                TOKENS_PER_SECOND,
                "One user takes most of it: agree on infbox_user_limits.",
                {"{{user}} {{kind}}": total("infbox_gateway_tokens_total", "user, kind")},
            ),
            Panel(
                "Requests by user",
                units.RequestsPerSecond,
                "A user who asks far more than before may have a client that tries again without "
                "end: see the answers by status.",
                {"{{user}}": total("infbox_gateway_requests_total", "user")},
            ),
            Panel(
                "Requests by workspace",
                units.RequestsPerSecond,
                "None for a workspace that people use: they ask for the plain model, without "
                "context.",
                {
                    "{{host}} {{workspace}}": total(
                        "infbox_gateway_requests_total", "host, workspace"
                    )
                },
            ),
        ),
        "What went wrong": (
            Panel(
                "Answers by status",
                units.RequestsPerSecond,
                "5xx: read `make logs`; 429: a user is at his limit; 4xx: a client asks wrongly.",
                {"{{host}} {{status}}": total("infbox_gateway_requests_total", "host, status")},
            ),
            Panel(
                "Share of failed requests",
                units.PercentUnit,
                "Above 5 %: docs/runbooks/ErrorsHigh.md.",
                {
                    "failed": share(
                        f"(sum({rate('infbox_gateway_requests_total', FAILED)}) or vector(0))",
                        f"sum({rate('infbox_gateway_requests_total')})",
                    )
                },
            ),
            Panel(
                "Who was let in",
                units.RequestsPerSecond,
                "Many refused: a key was rotated and a client has the old one, or somebody "
                "guesses; Caddy's log has the address.",
                {"{{host}} {{result}}": total("infbox_keys_requests_total", "host, result")},
            ),
            Panel(
                "Answers of Caddy by code",
                units.PercentUnit,
                "More of 502 and 503: who is behind it is away; see Fleet.",
                {
                    # Each handler counts a request of its own, so only shares tell something.
                    "{{host}} {{code}}": f"{total(CADDY, 'host, code')} / on (host) group_left () "
                    f"({total(CADDY)} > 0)"
                },
            ),
            Panel(
                "How the engine ended requests",
                units.RequestsPerSecond,
                "abort: clients hang up, often since answers come too late; error: read vLLM's "
                "log.",
                {
                    "{{host}} {{finished_reason}}": total(
                        "vllm:request_success_total", "host, finished_reason"
                    )
                },
            ),
            Panel(
                "Clients that hung up",
                units.RequestsPerSecond,
                "More than a few: first bytes come later than the client's timeout.",
                {
                    "{{host}} {{workspace}}": total(
                        "infbox_gateway_cancelled_total", "host, workspace"
                    )
                },
            ),
        ),
    },
)

KV_CACHE = Page(
    "kv-cache",
    "infbox / KV cache",
    {
        "Where prompts come from": (
            Panel(
                "Prompt tokens by source",
                TOKENS_PER_SECOND,
                "local_compute rises with the same questions: packs are not warm, or KV is thrown "
                "out; see Code context and the room below.",
                {
                    "{{host}} {{source}}": total(
                        "vllm:prompt_tokens_by_source_total", "host, source"
                    )
                },
            ),
            Panel(
                "Cached tokens by tier",
                TOKENS_PER_SECOND,
                "Less from device and more from host or disk: the cards' KV became too small for "
                "what people ask about.",
                {
                    "{{host}} {{source}}": total(
                        "vllm:prompt_tokens_cached_by_source_total", "host, source"
                    )
                },
            ),
            Panel(
                "Share of prompt tokens found",
                units.PercentUnit,
                "Half of what it was: docs/runbooks/CacheHitCollapse.md.",
                {
                    "{{host}} in the cards": share(
                        total("vllm:prefix_cache_hits_total"),
                        total("vllm:prefix_cache_queries_total"),
                    ),
                    "{{host}} in LMCache": share(
                        total("vllm:external_prefix_cache_hits_total"),
                        total("vllm:external_prefix_cache_queries_total"),
                    ),
                },
            ),
            Panel(
                "Share that LMCache finds",
                units.PercentUnit,
                "Low after a restart is right: it fills again. Low all the time: prompts do not "
                "begin alike, so see that clients name a workspace.",
                {
                    "{{host}} RAM": share(
                        total("lmcache_mp_lookup_hit_l1_tokens_total"),
                        total("lmcache_mp_lookup_requested_tokens_total"),
                    ),
                    "{{host}} disk": share(
                        total("lmcache_mp_lookup_hit_l2_tokens_total"),
                        total("lmcache_mp_lookup_requested_tokens_total"),
                    ),
                },
            ),
            Panel(
                "What answers say was cached",
                units.PercentUnit,
                "The figure that clients are told; if it differs from the engine's, requests go "
                "past the gateway.",
                {
                    "{{host}} {{workspace}}": share(
                        total(
                            "infbox_gateway_tokens_total",
                            "host, workspace",
                            HOST + ',kind="cached"',
                        ),
                        total(
                            "infbox_gateway_tokens_total",
                            "host, workspace",
                            HOST + ',kind="prompt"',
                        ),
                    )
                },
            ),
            Panel(
                "Time of a look-up in LMCache",
                units.Seconds,
                "Above 0.1 s: LMCache is short of CPU; see GPU and host.",
                {"{{host}}": mean("vllm:lmcache_mp_lookup_duration_seconds")},
            ),
        ),
        "Room": (
            Panel(
                "KV of the cards in use",
                units.PercentUnit,
                "At 100 % with requests waiting: fewer or shorter requests at once, or a smaller "
                "model; docs/runbooks/KvThrash.md.",
                {"{{host}} {{engine}}": value("vllm:kv_cache_usage_perc")},
            ),
            Panel(
                "Requests that lost their KV",
                COUNTS_PER_SECOND,
                "More than now and then: docs/runbooks/KvThrash.md.",
                {"{{host}}": total("vllm:num_preemptions_total")},
            ),
            Panel(
                "LMCache's RAM in use",
                units.PercentUnit,
                "Full is right. Full and packs not warm: give l1_size_gb more.",
                {"{{host}}": value("lmcache_mp_l1_usage_ratio")},
            ),
            Panel(
                "KV in LMCache",
                units.BytesIEC,
                "Disk stays far below l2_size_gb and does not grow: read LMCache's log for failed "
                "writes.",
                {
                    "{{host}} RAM": value("lmcache_mp_l1_memory_usage_bytes"),
                    "{{host}} disk": value("lmcache_mp_l2_usage_bytes"),
                },
            ),
        ),
        "Traffic": (
            Panel(
                "Chunks to and from LMCache's RAM",
                COUNTS_PER_SECOND,
                "Many written and none read: what is kept is not what is asked for.",
                {
                    "{{host}} read": total("lmcache_mp_l1_read_chunks_total"),
                    "{{host}} written": total("lmcache_mp_l1_write_chunks_total"),
                },
            ),
            Panel(
                "Chunks to and from disk",
                COUNTS_PER_SECOND,
                "Fewer written than RAM gets, for long: the disk is too slow or full. Many "
                "read: RAM is too small for what people ask about.",
                {
                    "{{host}} read": total("lmcache_mp_l2_prefetch_load_completed_chunks_total"),
                    "{{host}} written": total("lmcache_mp_l2_store_completed_objects_chunks_total"),
                },
            ),
            Panel(
                "Throughput of the disk",
                units.GigabytesPerSecond,
                "Far below what the disk can: something else uses it; see disks on GPU and host.",
                {
                    "{{host}} read": mean("lmcache_mp_l2_load_throughput_GB_per_second"),
                    "{{host}} written": mean("lmcache_mp_l2_store_throughput_GB_per_second"),
                },
            ),
            Panel(
                "Chunks thrown out of LMCache's RAM",
                COUNTS_PER_SECOND,
                "As many as are written, and as many read from disk: give l1_size_gb more.",
                {"{{host}}": total("lmcache_mp_l1_evicted_chunks_total")},
            ),
        ),
        "Cake, where a preset switches it on": (
            Panel(
                "Prompts raced for, by end",
                COUNTS_PER_SECOND,
                "Mostly computed: the disk is far slower than computing, so Cake gains nothing; "
                "see the disk's throughput.",
                {"{{host}} {{end}}": total("infbox_cake_prompts_total", "host, end")},
            ),
            Panel(
                "Chunks by way",
                COUNTS_PER_SECOND,
                "All computed, for long: as above. All loaded: the disk is so fast that Cake "
                "gains nothing either, and costs nothing.",
                {"{{host}} {{way}}": total("infbox_cake_chunks_total", "host, way")},
            ),
            Panel(
                "Speed of staging",
                COUNTS_PER_SECOND,
                "Chunks a second, as Cake decides by. Far below what the disk can: something else "
                "uses it; see disks on GPU and host.",
                {"{{host}}": value("infbox_cake_staged_chunks_per_second")},
            ),
        ),
    },
)

CODE_CONTEXT = Page(
    "code-context",
    "infbox / Code context",
    {
        "From a save to a warm pack": (
            Panel(
                "Save to indexed",
                units.Seconds,
                "Above 0.1 s: the watcher is short of CPU or its disk is slow.",
                quantiles("infbox_save_to_indexed_seconds", "host, workspace"),
            ),
            Panel(
                "Save to published",
                units.Seconds,
                "Above 10 s: docs/runbooks/WatcherBehind.md.",
                quantiles("infbox_save_to_published_seconds", "host, workspace"),
            ),
            Panel(
                "Save to warm",
                units.Seconds,
                "Above what computing the tail should take: warm-ups wait behind people's "
                "requests; see Requests in the engine.",
                quantiles("infbox_save_to_warm_seconds", "host, workspace"),
            ),
            Panel(
                "Warm",
                units.BoolYesNo,
                "No for a quarter of an hour: docs/runbooks/PackNotWarm.md.",
                {"{{host}} {{workspace}}": value("infbox_pack_warm")},
                now=True,
            ),
            Panel(
                "Warm-ups by result",
                COUNTS_PER_SECOND,
                "away: the engine does not answer; anything else but warm: read the watcher's "
                "journal.",
                {
                    "{{host}} {{workspace}} {{result}}": total(
                        "infbox_warm_requests_total", "host, workspace, result"
                    )
                },
            ),
            Panel(
                "Recomputed tokens",
                TOKENS_PER_SECOND,
                "Far more than what people save: the base is rebuilt too often; see the garbage.",
                {
                    "{{host}} {{workspace}}": total(
                        "infbox_pack_recomputed_tokens_total", "host, workspace"
                    )
                },
            ),
        ),
        "Packs": (
            Panel(
                "Tokens by section",
                TOKENS,
                "No base: nothing was found worth packing; `infbox-watch scan` says what is left "
                "out.",
                {"{{host}} {{workspace}} {{section}}": value("infbox_pack_tokens")},
            ),
            Panel(
                "Garbage",
                units.PercentUnit,
                "Above 10 % for long: no new generation is computed; see Warm-ups by result.",
                {"{{host}} {{workspace}}": value("infbox_pack_garbage_ratio")},
            ),
            Panel(
                "Prompt of the last warm-up",
                TOKENS,
                "Cached far below the prompt: the pack's KV was thrown out; see KV cache.",
                {
                    "{{host}} {{workspace}} prompt": value("infbox_pack_prompt_tokens"),
                    "{{host}} {{workspace}} cached": value("infbox_pack_cached_tokens"),
                },
            ),
            Panel(
                "Generation",
                units.Short,
                "Climbs by the hour: large changes come in, such as generated files; leave them "
                "out by .infboxignore.",
                {"{{host}} {{workspace}}": value("infbox_pack_generation")},
                now=True,
            ),
        ),
        "Trees": (
            Panel(
                "Files",
                units.Short,
                "Falls to zero: the tree is gone or not readable; docs/runbooks/WatcherBlind.md.",
                {"{{host}} {{workspace}}": value("infbox_workspace_files")},
                now=True,
            ),
            Panel(
                "What the watcher does not see",
                units.Short,
                "Above zero: docs/runbooks/WatcherBlind.md.",
                {
                    "{{host}} {{workspace}} directories": value(
                        "infbox_workspace_unwatched_directories"
                    ),
                    "{{host}} {{workspace}} unreadable": value("infbox_workspace_unreadable_paths"),
                },
            ),
            Panel(
                "Events",
                COUNTS_PER_SECOND,
                "Thousands: a build writes into the tree; leave its output out by .infboxignore.",
                {"{{host}} {{workspace}}": total("infbox_watch_events_total", "host, workspace")},
            ),
            Panel(
                "Overflows and rescans",
                COUNTS_PER_SECOND,
                "Each overflow costs a scan of the whole tree: raise fs.inotify.max_queued_events.",
                {
                    "{{host}} {{workspace}} overflows": total(
                        "infbox_watch_overflows_total", "host, workspace"
                    ),
                    "{{host}} {{workspace}} rescans": total(
                        "infbox_watch_rescans_total", "host, workspace"
                    ),
                },
            ),
            Panel(
                "Index",
                units.BytesIEC,
                "Far larger than the tree's text: stop the watcher, remove its index and start it.",
                {"{{host}} {{workspace}}": value("infbox_index_bytes")},
            ),
        ),
        "Git remotes that are followed": (
            Panel(
                "Polls by result",
                COUNTS_PER_SECOND,
                "failed: docs/runbooks/RemoteNotFollowed.md.",
                {
                    "{{host}} {{workspace}} {{result}}": total(
                        "infbox_remote_polls_total", "host, workspace, result"
                    )
                },
            ),
            Panel(
                "Calls of forges",
                COUNTS_PER_SECOND,
                "None after a push: the forge does not call, and the host sees the push with its "
                "next poll; docs/workspaces.md says how to set the hook up.",
                {
                    "{{host}} {{workspace}} {{result}}": total(
                        "infbox_remote_calls_total", "host, workspace, result"
                    )
                },
            ),
            Panel(
                "Last successful poll",
                units.Seconds,
                "Longer ago than a few polls: docs/runbooks/RemoteNotFollowed.md.",
                {
                    "{{host}} {{workspace}}": "time() - "
                    + value("infbox_remote_last_success_timestamp_seconds")
                },
                now=True,
            ),
        ),
    },
)

GPU_AND_HOST = Page(
    "gpu-and-host",
    "infbox / GPU and host",
    {
        "Cards": (
            Panel(
                "Use",
                units.Percent,
                "0 with requests waiting: the engine hangs; docs/runbooks/EngineDown.md.",
                {"{{host}} {{gpu}}": value("DCGM_FI_DEV_GPU_UTIL")},
            ),
            Panel(
                "Memory in use",
                units.PercentUnit,
                "More than gpu_memory_utilization: somebody else uses the card; `nvidia-smi` says "
                "who.",
                {
                    "{{host}} {{gpu}}": f"DCGM_FI_DEV_FB_USED{{{HOST}}} / "
                    f"(DCGM_FI_DEV_FB_USED{{{HOST}}} + DCGM_FI_DEV_FB_FREE{{{HOST}}})"
                },
            ),
            Panel(
                "Power",
                units.Watt,
                "At the card's limit all the time is right under load; far below with a full "
                "queue is not: see temperature.",
                {"{{host}} {{gpu}}": value("DCGM_FI_DEV_POWER_USAGE")},
            ),
            Panel(
                "Temperature",
                units.Celsius,
                "Above 87 °C: docs/runbooks/GpuHot.md.",
                {"{{host}} {{gpu}}": value("DCGM_FI_DEV_GPU_TEMP")},
            ),
            Panel(
                "Last Xid",
                units.Short,
                "Not 0: docs/runbooks/GpuXid.md says which mean a broken card.",
                {"{{host}} {{gpu}}": value("DCGM_FI_DEV_XID_ERRORS")},
                now=True,
            ),
            Panel(
                "Memory rows taken out of use",
                units.Short,
                "Uncorrectable ones grow: docs/runbooks/GpuEcc.md.",
                {
                    "{{host}} {{gpu}} lost": value("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS"),
                    "{{host}} {{gpu}} worn": value("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS"),
                },
            ),
            Panel(
                "NVLink",
                units.BytesPerSecondIEC,
                "None with tensor_parallel_size above 1: cards talk over PCIe, which is slow; "
                "`nvidia-smi topo -m` says why.",
                {"{{host}} {{gpu}}": value("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL")},
            ),
        ),
        "Host": (
            Panel(
                "CPU busy",
                units.PercentUnit,
                "Near 100 %: watcher, LMCache and tokenizing slow down; `top` says who takes it.",
                {"{{host}}": f"1 - avg by (host) ({rate('node_cpu_seconds_total', IDLE)})"},
            ),
            Panel(
                "Memory left",
                units.BytesIEC,
                "Below a twentieth of all: docs/runbooks/MemoryShort.md.",
                {
                    "{{host}} left": value("node_memory_MemAvailable_bytes"),
                    "{{host}} all": value("node_memory_MemTotal_bytes"),
                },
            ),
            Panel(
                "Disk left",
                units.PercentUnit,
                "Below 5 %: docs/runbooks/DiskNearlyFull.md.",
                {
                    "{{host}} {{mountpoint}}": f"node_filesystem_avail_bytes{{{HOST}}} / "
                    f"node_filesystem_size_bytes{{{HOST}}}"
                },
            ),
            Panel(
                "Disk traffic",
                units.BytesPerSecondIEC,
                "Reads at the disk's limit while a model loads are right; writes that never end "
                "are not.",
                {
                    "{{host}} {{device}} read": total("node_disk_read_bytes_total", "host, device"),
                    "{{host}} {{device}} written": total(
                        "node_disk_written_bytes_total", "host, device"
                    ),
                },
            ),
            Panel(
                "Network",
                units.BytesPerSecondIEC,
                "Far more than answers need: a model or an image is being fetched.",
                {
                    "{{host}} {{device}} in": total(
                        "node_network_receive_bytes_total", "host, device"
                    ),
                    "{{host}} {{device}} out": total(
                        "node_network_transmit_bytes_total", "host, device"
                    ),
                },
            ),
            Panel(
                "Units that run",
                units.BoolYesNo,
                "No: `systemctl status UNIT` on the host; docs/runbooks/UnitFailed.md.",
                {"{{host}} {{name}}": f'node_systemd_unit_state{{{HOST},state="active"}}'},
                now=True,
            ),
        ),
    },
)

FLEET = Page(
    "fleet",
    "infbox / Fleet",
    {
        "All hosts": (
            Panel(
                "Who answers",
                units.BoolYesNo,
                "No: docs/runbooks/PartDown.md, and EngineDown.md for vllm.",
                {"{{host}} {{job}}": value("up")},
                now=True,
            ),
            Panel(
                "Alerts",
                units.Short,
                "Above zero: each has a page in docs/runbooks; Prometheus's own page Alerts lists "
                "them.",
                {"firing": f'count(ALERTS{{{HOST},alertstate="firing"}}) or vector(0)'},
                now=True,
            ),
            Panel(
                "Answers through Caddy",
                units.BoolYesNo,
                "No: docs/runbooks/SiteUnreachable.md, or ModelMissing.md for model.",
                {"{{host}} {{probe}}": value("probe_success")},
                now=True,
            ),
            Panel(
                "Certificate holds for",
                units.Seconds,
                "Less than two weeks with acme, less than an hour with internal: "
                "docs/runbooks/CertificateNearEnd.md.",
                {"{{host}}": f"probe_ssl_earliest_cert_expiry{{{HOST}}} - time()"},
                now=True,
            ),
            Panel(
                "Engine up for",
                units.Seconds,
                "Minutes, and nobody restarted it: docs/runbooks/EngineRestarting.md.",
                {"{{host}}": f'time() - process_start_time_seconds{{{HOST},job="vllm"}}'},
                now=True,
            ),
            Panel(
                "Requests by host and preset",
                units.RequestsPerSecond,
                "All on one host: share the clients out.",
                {"{{host}} {{preset}}": total("infbox_gateway_requests_total", "host, preset")},
            ),
            Panel(
                "First byte by host, p95",
                units.Seconds,
                "One host far above the others: see it alone on Serving.",
                {
                    "{{host}}": "histogram_quantile(0.95, "
                    f"{total('infbox_gateway_first_byte_seconds_bucket', 'host, le')})"
                },
            ),
            Panel(
                "Series kept",
                units.Short,
                "Doubles overnight: a label has too many values; see Status in Prometheus.",
                {"{{host}}": value("prometheus_tsdb_head_series")},
            ),
        ),
        "Replicas": (
            Panel(
                "Requests handed to replicas",
                units.RequestsPerSecond,
                "All to one replica though several workspaces are asked about: see who answers, "
                "above.",
                {
                    "{{host}} to {{replica}}": total(
                        "infbox_gateway_forwarded_total", "host, replica"
                    )
                },
            ),
            Panel(
                "Asked again of another",
                units.RequestsPerSecond,
                "Above zero for longer than a restart takes: a replica is away (away) or ends "
                "before it answers (broken); see who answers, above.",
                {"{{host}} {{reason}}": total("infbox_gateway_retried_total", "host, reason")},
            ),
        ),
    },
)

PAGES = (SERVING, KV_CACHE, CODE_CONTEXT, GPU_AND_HOST, FLEET)


def render(page: Page) -> str:
    """Return a dashboard as JSON."""
    board = (
        build.Dashboard(page.title)
        .uid(f"infbox-{page.name}")
        .tags(["infbox"])
        .readonly()
        .time("now-3h", "now")
        .refresh("30s")
        .with_variable(
            build.QueryVariable("host")
            .label("Host")
            .datasource(SOURCE)
            .query("label_values(up, host)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
        )
    )
    identifiers = itertools.count(1)
    for heading, panels in page.rows.items():
        board = board.with_row(build.Row(heading).id(next(identifiers)))
        for panel in panels:
            board = board.with_panel(drawn(panel).id(next(identifiers)))
    return json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def drawn(panel: Panel) -> stat.Panel | timeseries.Panel:
    """Return the builder of a panel."""
    result: stat.Panel | timeseries.Panel
    if panel.now:
        result = stat.Panel().reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    else:
        legend = VizLegendOptions()
        legend = legend.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        result = timeseries.Panel().legend(legend.show_legend(True)).min(0)
    result = result.title(panel.title).description(panel.description).unit(panel.unit)
    result = result.datasource(SOURCE).span(WIDTH).height(HEIGHT)
    for index, (legend_format, expression) in enumerate(panel.queries.items()):
        try:
            promql.metric_names(expression)
        except ValueError as error:
            raise SystemExit(f"{panel.title}: {error}: {expression}") from error
        query = prometheus.Dataquery().expr(expression).legend_format(legend_format)
        result = result.with_target(query.ref_id(chr(ord("A") + index)))
    return result


def main() -> int:
    """Write or check the dashboards."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    wanted = {FOLDER / f"{page.name}.json": render(page) for page in PAGES}
    found = {path: path.read_text() for path in FOLDER.glob("*.json")}
    stale = sorted(path for path in wanted | found if wanted.get(path) != found.get(path))
    for path in stale:
        print(f"{path.relative_to(ROOT)} is {'stale: run make docs' if check else 'written'}.")
        if not check:
            if path in wanted:
                path.write_text(wanted[path])
            else:
                path.unlink()
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
