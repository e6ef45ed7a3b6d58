"""Write Grafana's dashboards, files/dashboards/*.json.

    python tools/dashboards.py            write the dashboards
    python tools/dashboards.py --check    write nothing, name the stale ones, exit with 1

Uses Grafana's own typed builders, so that the output has Grafana's own format.
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
DIRECTORY = ROOT / "files" / "dashboards"
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
        "Latency": (
            Panel(
                "Time to first byte, as clients see it",
                units.Seconds,
                "Above 2.5 s for more than 5 of 100: check the queue, then the hit rate on KV "
                "cache; see docs/runbooks/TimeToFirstTokenFastBurn.md.",
                quantiles("infbox_gateway_first_byte_seconds", "host, workspace"),
            ),
            Panel(
                "Time to first byte by user",
                units.Seconds,
                "One user waits far longer than the others: the prompts are long or begin with "
                "something new each time; ask which client the user has.",
                quantiles("infbox_gateway_first_byte_seconds", "user"),
            ),
            Panel(
                "Time to first token (TTFT), in the engine",
                units.Seconds,
                "Much lower than what clients see: the gateway or Caddy is slow. Includes warm-ups "
                "of packs.",
                quantiles("vllm:time_to_first_token_seconds", "host, preset"),
            ),
            Panel(
                "Time between tokens",
                units.Seconds,
                "Rises with the number of running requests: lower max_num_seqs in the preset, or "
                "look for a hot GPU on GPU and host.",
                quantiles("vllm:inter_token_latency_seconds", "host, preset"),
            ),
            Panel(
                "Requests in the engine",
                units.Short,
                "Waiting stays above zero: the engine is overloaded; see KV cache in use, and send "
                "fewer or shorter requests, or add a GPU.",
                {
                    "{{host}} running": f"sum by (host) (vllm:num_requests_running{{{HOST}}})",
                    "{{host}} waiting": f"sum by (host) (vllm:num_requests_waiting{{{HOST}}})",
                },
            ),
            Panel(
                "Queue time",
                units.Seconds,
                "Seconds here with few running requests: the KV cache is full; see KV cache.",
                quantiles("vllm:request_queue_time_seconds"),
            ),
            Panel(
                "Duration of requests",
                units.Seconds,
                "Rises while TTFT stays the same: answers became longer, or tokens slower.",
                quantiles("vllm:e2e_request_latency_seconds"),
            ),
        ),
        "Throughput": (
            Panel(
                "Tokens by preset",
                TOKENS_PER_SECOND,
                "Falls while requests wait: compare with GPU utilization, then restart the engine "
                "if GPUs are idle.",
                {
                    "{{host}} {{preset}} generated": total(
                        "vllm:generation_tokens_total", "host, preset"
                    ),
                    "{{host}} {{preset}} prompt": total("vllm:prompt_tokens_total", "host, preset"),
                },
            ),
            Panel(
                "Tokens by user",
                TOKENS_PER_SECOND,
                "One user has most of the tokens: set infbox_user_limits.",
                {"{{user}} {{kind}}": total("infbox_gateway_tokens_total", "user, kind")},
            ),
            Panel(
                "Requests by user",
                units.RequestsPerSecond,
                "Far more requests of a user than before: perhaps a client retries endlessly; see "
                "Responses by status.",
                {"{{user}}": total("infbox_gateway_requests_total", "user")},
            ),
            Panel(
                "Requests by workspace",
                units.RequestsPerSecond,
                "None for a workspace that is in use: clients use the plain model, without "
                "context.",
                {
                    "{{host}} {{workspace}}": total(
                        "infbox_gateway_requests_total", "host, workspace"
                    )
                },
            ),
        ),
        "Errors": (
            Panel(
                "Responses by status",
                units.RequestsPerSecond,
                "5xx: see `make logs`; 429: a user reached a limit; 4xx: a client sends bad "
                "requests.",
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
                "Key checks by result",
                units.RequestsPerSecond,
                "Many refused: a client uses an old key after a rotation, or somebody guesses "
                "keys; Caddy's log has the address.",
                {"{{host}} {{result}}": total("infbox_keys_requests_total", "host, result")},
            ),
            Panel(
                "Responses of Caddy by code",
                units.PercentUnit,
                "More 502 and 503: a service behind Caddy is down; see Fleet.",
                {
                    # Each handler counts a request of its own, so only shares tell something.
                    "{{host}} {{code}}": f"{total(CADDY, 'host, code')} / on (host) group_left () "
                    f"({total(CADDY)} > 0)"
                },
            ),
            Panel(
                "Finished requests by reason",
                units.RequestsPerSecond,
                "abort: clients disconnect, often because responses are slow; error: see vLLM's "
                "log.",
                {
                    "{{host}} {{finished_reason}}": total(
                        "vllm:request_success_total", "host, finished_reason"
                    )
                },
            ),
            Panel(
                "Requests cancelled by clients",
                units.RequestsPerSecond,
                "More than a few: the time to first byte exceeds the client's timeout.",
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
        "Cache hits": (
            Panel(
                "Prompt tokens by source",
                TOKENS_PER_SECOND,
                "local_compute rises with the same requests: packs are not warm, or KV is evicted; "
                "see Code context and the row Usage.",
                {
                    "{{host}} {{source}}": total(
                        "vllm:prompt_tokens_by_source_total", "host, source"
                    )
                },
            ),
            Panel(
                "Cached tokens by tier",
                TOKENS_PER_SECOND,
                "Less from device and more from host or disk: the KV cache on the GPUs is too "
                "small for the prompts in use.",
                {
                    "{{host}} {{source}}": total(
                        "vllm:prompt_tokens_cached_by_source_total", "host, source"
                    )
                },
            ),
            Panel(
                "Cache hit rate of prompt tokens",
                units.PercentUnit,
                "Half of what it was: docs/runbooks/CacheHitCollapse.md.",
                {
                    "{{host}} on the GPUs": share(
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
                "Hit rate of LMCache",
                units.PercentUnit,
                "Low after a restart is normal: the cache fills again. Always low: prompts have no "
                "common prefix, so check that clients name a workspace.",
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
                "Cached share reported to clients",
                units.PercentUnit,
                "The value that clients get; if it differs from the engine's, requests bypass the "
                "gateway.",
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
                "Duration of a lookup in LMCache",
                units.Seconds,
                "Above 0.1 s: LMCache lacks CPU time; see GPU and host.",
                {"{{host}}": mean("vllm:lmcache_mp_lookup_duration_seconds")},
            ),
        ),
        "Usage": (
            Panel(
                "KV cache of the GPUs in use",
                units.PercentUnit,
                "At 100 % with requests waiting: send fewer or shorter requests at once, or use a "
                "smaller model; docs/runbooks/KvThrash.md.",
                {"{{host}} {{engine}}": value("vllm:kv_cache_usage_perc")},
            ),
            Panel(
                "Preempted requests",
                COUNTS_PER_SECOND,
                "More than occasionally: docs/runbooks/KvThrash.md.",
                {"{{host}}": total("vllm:num_preemptions_total")},
            ),
            Panel(
                "LMCache's RAM in use",
                units.PercentUnit,
                "Full is normal. If it is full and packs are not warm, raise l1_size_gb.",
                {"{{host}}": value("lmcache_mp_l1_usage_ratio")},
            ),
            Panel(
                "KV in LMCache",
                units.BytesIEC,
                "Disk stays far below l2_size_gb and does not grow: look for failed writes in "
                "LMCache's log.",
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
                "Many written and none read: the stored KV does not match the requests.",
                {
                    "{{host}} read": total("lmcache_mp_l1_read_chunks_total"),
                    "{{host}} written": total("lmcache_mp_l1_write_chunks_total"),
                },
            ),
            Panel(
                "Chunks to and from disk",
                COUNTS_PER_SECOND,
                "Fewer written than to RAM, for long: the disk is too slow or full. Many read: RAM "
                "is too small for the prompts in use.",
                {
                    "{{host}} read": total("lmcache_mp_l2_prefetch_load_completed_chunks_total"),
                    "{{host}} written": total("lmcache_mp_l2_store_completed_objects_chunks_total"),
                },
            ),
            Panel(
                "Throughput of the disk",
                units.GigabytesPerSecond,
                "Far below the disk's speed: another program uses it; see disks on GPU and host.",
                {
                    "{{host}} read": mean("lmcache_mp_l2_load_throughput_GB_per_second"),
                    "{{host}} written": mean("lmcache_mp_l2_store_throughput_GB_per_second"),
                },
            ),
            Panel(
                "Chunks evicted from LMCache's RAM",
                COUNTS_PER_SECOND,
                "As many as are written, and as many read from disk: raise l1_size_gb.",
                {"{{host}}": total("lmcache_mp_l1_evicted_chunks_total")},
            ),
        ),
        "Cake, if a preset enables it": (
            Panel(
                "Prompts by end",
                COUNTS_PER_SECOND,
                "Mostly computed: the disk is far slower than computing, so Cake gains nothing; "
                "see Throughput of the disk.",
                {"{{host}} {{end}}": total("infbox_cake_prompts_total", "host, end")},
            ),
            Panel(
                "Chunks by method",
                COUNTS_PER_SECOND,
                "All computed, for long: the disk is too slow. All loaded: the disk is so fast "
                "that Cake gains nothing.",
                {"{{host}} {{way}}": total("infbox_cake_chunks_total", "host, way")},
            ),
            Panel(
                "Speed of staging",
                COUNTS_PER_SECOND,
                "Chunks per second that Cake assumes. Far below the disk's speed: another program "
                "uses the disk; see disks on GPU and host.",
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
                "Above 0.1 s: the watcher lacks CPU time or its disk is slow.",
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
                "Longer than computing the tail takes: warm-ups wait for users' requests; see "
                "Requests in the engine.",
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
                "away: the engine does not respond; any other result except warm: see the "
                "watcher's journal.",
                {
                    "{{host}} {{workspace}} {{result}}": total(
                        "infbox_warm_requests_total", "host, workspace, result"
                    )
                },
            ),
            Panel(
                "Recomputed tokens",
                TOKENS_PER_SECOND,
                "Far more than what is saved: the base is rebuilt too often; see Garbage.",
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
                "No base: the watcher found no files to pack; `infbox-watch scan` shows excluded "
                "files.",
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
                "Cached far below the prompt: the pack's KV was evicted; see KV cache.",
                {
                    "{{host}} {{workspace}} prompt": value("infbox_pack_prompt_tokens"),
                    "{{host}} {{workspace}} cached": value("infbox_pack_cached_tokens"),
                },
            ),
            Panel(
                "Generation",
                units.Short,
                "Rises every hour: large changes such as generated files; exclude them with "
                ".infboxignore.",
                {"{{host}} {{workspace}}": value("infbox_pack_generation")},
                now=True,
            ),
        ),
        "Trees": (
            Panel(
                "Files",
                units.Short,
                "Falls to zero: the tree is missing or not readable; "
                "docs/runbooks/WatcherBlind.md.",
                {"{{host}} {{workspace}}": value("infbox_workspace_files")},
                now=True,
            ),
            Panel(
                "Directories and paths not watched",
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
                "Thousands: a build writes into the tree; exclude its output with .infboxignore.",
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
        "Git remotes": (
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
                "Webhook calls",
                COUNTS_PER_SECOND,
                "None after a push: the forge does not call, and the host notices the push at its "
                "next poll; docs/workspaces.md shows how to set up a webhook.",
                {
                    "{{host}} {{workspace}} {{result}}": total(
                        "infbox_remote_calls_total", "host, workspace, result"
                    )
                },
            ),
            Panel(
                "Last successful poll",
                units.Seconds,
                "Longer ago than a few poll intervals: docs/runbooks/RemoteNotFollowed.md.",
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
        "GPUs": (
            Panel(
                "Utilization",
                units.Percent,
                "0 with requests waiting: the engine hangs; docs/runbooks/EngineDown.md.",
                {"{{host}} {{gpu}}": value("DCGM_FI_DEV_GPU_UTIL")},
            ),
            Panel(
                "Memory in use",
                units.PercentUnit,
                "More than gpu_memory_utilization: another process uses the GPU; see `nvidia-smi`.",
                {
                    "{{host}} {{gpu}}": f"DCGM_FI_DEV_FB_USED{{{HOST}}} / "
                    f"(DCGM_FI_DEV_FB_USED{{{HOST}}} + DCGM_FI_DEV_FB_FREE{{{HOST}}})"
                },
            ),
            Panel(
                "Power",
                units.Watt,
                "Always at the GPU's limit is normal under load; far below with a full queue is "
                "not: see Temperature.",
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
                "Not 0: docs/runbooks/GpuXid.md says which errors mean a broken GPU.",
                {"{{host}} {{gpu}}": value("DCGM_FI_DEV_XID_ERRORS")},
                now=True,
            ),
            Panel(
                "Remapped memory rows",
                units.Short,
                "Uncorrectable rows increase: docs/runbooks/GpuEcc.md.",
                {
                    "{{host}} {{gpu}} uncorrectable": value(
                        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS"
                    ),
                    "{{host}} {{gpu}} correctable": value("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS"),
                },
            ),
            Panel(
                "NVLink",
                units.BytesPerSecondIEC,
                "None with tensor_parallel_size above 1: GPUs communicate over PCIe, which is "
                "slow; see `nvidia-smi topo -m`.",
                {"{{host}} {{gpu}}": value("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL")},
            ),
        ),
        "Host": (
            Panel(
                "CPU utilization",
                units.PercentUnit,
                "Near 100 %: watcher, LMCache and tokenization slow down; `top` shows the "
                "processes.",
                {"{{host}}": f"1 - avg by (host) ({rate('node_cpu_seconds_total', IDLE)})"},
            ),
            Panel(
                "Free memory",
                units.BytesIEC,
                "Below 5 % of the total: docs/runbooks/MemoryShort.md.",
                {
                    "{{host}} available": value("node_memory_MemAvailable_bytes"),
                    "{{host}} total": value("node_memory_MemTotal_bytes"),
                },
            ),
            Panel(
                "Free disk space",
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
                "Reads at the disk's limit while a model loads are normal; constant writes are "
                "not.",
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
                "Far more than responses need: a model or an image is being downloaded.",
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
                "Active units",
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
                "Services up",
                units.BoolYesNo,
                "No: docs/runbooks/ServiceDown.md, and EngineDown.md for vllm.",
                {"{{host}} {{job}}": value("up")},
                now=True,
            ),
            Panel(
                "Alerts",
                units.Short,
                "Above zero: each alert has a page in docs/runbooks; Prometheus's page Alerts "
                "lists the alerts.",
                {"firing": f'count(ALERTS{{{HOST},alertstate="firing"}}) or vector(0)'},
                now=True,
            ),
            Panel(
                "Probes",
                units.BoolYesNo,
                "No: docs/runbooks/SiteUnreachable.md, or ModelMissing.md for model.",
                {"{{host}} {{probe}}": value("probe_success")},
                now=True,
            ),
            Panel(
                "Certificate valid for",
                units.Seconds,
                "Less than two weeks with acme, less than an hour with internal: "
                "docs/runbooks/CertificateNearEnd.md.",
                {"{{host}}": f"probe_ssl_earliest_cert_expiry{{{HOST}}} - time()"},
                now=True,
            ),
            Panel(
                "Engine uptime",
                units.Seconds,
                "Minutes without a manual restart: docs/runbooks/EngineRestarting.md.",
                {"{{host}}": f'time() - process_start_time_seconds{{{HOST},job="vllm"}}'},
                now=True,
            ),
            Panel(
                "Requests by host and preset",
                units.RequestsPerSecond,
                "All on one host: distribute the clients.",
                {"{{host}} {{preset}}": total("infbox_gateway_requests_total", "host, preset")},
            ),
            Panel(
                "Time to first byte by host, p95",
                units.Seconds,
                "One host far above the others: select it on Serving.",
                {
                    "{{host}}": "histogram_quantile(0.95, "
                    f"{total('infbox_gateway_first_byte_seconds_bucket', 'host, le')})"
                },
            ),
            Panel(
                "Time series",
                units.Short,
                "Doubles within a day: a label has too many values; see Status in Prometheus.",
                {"{{host}}": value("prometheus_tsdb_head_series")},
            ),
        ),
        "Replicas": (
            Panel(
                "Requests forwarded to replicas",
                units.RequestsPerSecond,
                "All to one replica though several workspaces are in use: see Services up.",
                {
                    "{{host}} to {{replica}}": total(
                        "infbox_gateway_forwarded_total", "host, replica"
                    )
                },
            ),
            Panel(
                "Requests retried on another replica",
                units.RequestsPerSecond,
                "Above zero for longer than a restart takes: a replica is down (away) or fails "
                "before it responds (broken); see Services up.",
                {"{{host}} {{reason}}": total("infbox_gateway_retried_total", "host, reason")},
            ),
        ),
    },
)


def of_a_day(by: str, kind: str) -> str:
    """Return the tokens of a kind in the last 24 hours, summed by a label."""
    labels = f'{HOST},kind="{kind}"'
    return f"sum by ({by}) (increase(infbox_gateway_tokens_total{{{labels}}}[1d]))"


def of_teams(kind: str) -> str:
    """Return the tokens of a kind in the last 24 hours, by team; some users are in several."""
    return f"sum by (team) (infbox_team_member * on (user) group_left () {of_a_day('user', kind)})"


KINDS = {"prompt": "prompts", "cached": "prompts, from the cache", "completion": "answers"}
USAGE = Page(
    "usage",
    "infbox / Usage",
    {
        "Last 24 hours": (
            *(
                Panel(
                    f"Tokens of {name}, by user",
                    TOKENS,
                    "One user has most of them: set the user's requests_per_minute. All who "
                    "signed in are @page. make usage prints days.",
                    {"{{user}}": of_a_day("user", kind)},
                )
                for kind, name in KINDS.items()
            ),
            *(
                Panel(
                    f"Tokens of {name}, by team",
                    TOKENS,
                    "Empty where no user has teams: see infbox_teams. A user of several teams "
                    "counts in each of them.",
                    {"{{team}}": of_teams(kind)},
                )
                for kind, name in KINDS.items()
            ),
            *(
                Panel(
                    f"Tokens of {name}, by workspace",
                    TOKENS,
                    "Without a name: requests that name no workspace; ask their users to set the "
                    "model's name to MODEL@WORKSPACE.",
                    {"{{workspace}}": of_a_day("workspace", kind)},
                )
                for kind, name in KINDS.items()
            ),
            Panel(
                "Requests without tokens, by user",
                units.Short,
                "Clients left before their answers ended, or vLLM broke off: these tokens are in "
                "no other panel; see Responses by status.",
                {
                    "{{user}}": "sum by (user) (increase("
                    f"infbox_gateway_uncounted_requests_total{{{HOST}}}[1d]))"
                },
            ),
        ),
    },
)

PAGES = (SERVING, KV_CACHE, CODE_CONTEXT, USAGE, GPU_AND_HOST, FLEET)


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
    wanted = {DIRECTORY / f"{page.name}.json": render(page) for page in PAGES}
    found = {path: path.read_text() for path in DIRECTORY.glob("*.json")}
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
