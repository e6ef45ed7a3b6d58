"""What the planner says of public models and GPUs, and what must hold of every plan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plugins.planner import Batch, Engine, GpuGroup, Host, Model, PlanError, index_bytes, plan
from plugins.planner import read_config as read
from plugins.planner.gpu_groups import read_gpus
from plugins.planner.memory import (
    Shape,
    beside_engine,
    in_flight,
    kv_layout,
    reserve_per_gpu,
    weights_per_gpu,
)
from plugins.planner.parallel import shape_refusals, widths

FACTS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("models.yml").read_text(encoding="utf-8")
)
A100 = GpuGroup("NVIDIA A100-SXM4-80GB", 81920, 1)
H100 = GpuGroup("NVIDIA H100 80GB HBM3", 81559, 1)
H200 = GpuGroup("NVIDIA H200", 143771, 1)
A6000 = GpuGroup("NVIDIA RTX A6000", 49140, 1)
RTX4090 = GpuGroup("NVIDIA GeForce RTX 4090", 24564, 1)
PROD480 = "Qwen3-Coder-480B-A35B-Instruct-FP8"
ALL_GPUS = Engine(tensor_parallel_size=0)
INT4 = {"quantization_config": {"quant_method": "gptq"}}
INT4_BYTES = 19_400_000_000


def model(name: str, **changes: Any) -> Model:
    return read({**FACTS[name]["config"], **changes}, name)


def planned(name: str, engine: Engine, *gpus: GpuGroup, host: Host | None = None) -> Any:
    return plan(model(name), FACTS[name]["weights_bytes"], engine, gpus, host)


def test_there_are_facts_of_fifteen_models_with_their_source() -> None:
    assert len(FACTS) >= 15
    assert all(fact["source"] for fact in FACTS.values())


@pytest.mark.parametrize("name", FACTS)
def test_kv_bytes_of_a_token_are_those_computed_by_hand(name: str) -> None:
    huge = GpuGroup("NVIDIA B200", 4_000_000, 1)
    assert planned(name, Engine(), huge).kv_bytes_per_token == FACTS[name]["kv"]


@pytest.mark.parametrize(
    ("name", "kib"), [("Qwen2.5-Coder-32B-Instruct", 256), (PROD480, 248), ("DeepSeek-V3", 68.625)]
)
def test_kv_is_told_in_kib_a_token(name: str, kib: float) -> None:
    plan_ = planned(name, ALL_GPUS, replace(H200, count=16))
    assert plan_.kv_bytes_per_token == kib * 1024
    assert f"at {kib:g} KiB a token" in plan_.reasons[0]


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("Llama-3.1-8B-Instruct", 131072),
        ("Qwen2.5-Coder-32B-Instruct", 32768),
        ("DeepSeek-V3", 163840),
        ("gpt-oss-20b", 131072),
        ("Gemma-3-27b-it", 131072),
        ("Phi-3.5-mini-instruct", 131072),
        ("starcoder", 8192),
    ],
)
def test_the_context_counts_scaled_positions_once(name: str, tokens: int) -> None:
    assert model(name).context == tokens


def test_experts_change_nothing_about_kv() -> None:
    dense = model("Mixtral-8x7B-Instruct-v0.1", num_local_experts=None, model_type="mistral")
    assert dense.layers == model("Mixtral-8x7B-Instruct-v0.1").layers


def test_a_model_that_slides_keeps_its_window_however_long_the_request() -> None:
    layout = kv_layout(model("Mistral-7B-v0.1"), Shape(), 0)
    assert layout.request_bytes(10_000) == layout.request_bytes(30_000)
    assert layout.request_bytes(30_000) == (4096 + 16) * 131072


@pytest.mark.parametrize(
    ("name", "full", "sliding"),
    [("Gemma-2-9b-it", 21, 21), ("Gemma-3-27b-it", 10, 60), ("gpt-oss-20b", 12, 12)],
)
def test_sliding_layers_are_told_from_full_ones(name: str, full: int, sliding: int) -> None:
    known = model(name)
    layout = kv_layout(known, Shape(), 0)
    a_layer = known.layers[0].token_bytes()
    assert layout.per_token == full * a_layer
    # Gemma 3's 52 sliding layers are padded to six groups of ten.
    assert [bytes_ // a_layer for _, bytes_ in layout.sliding] == [sliding]


def test_linear_attention_keeps_a_state_and_not_a_token() -> None:
    known = model("Qwen3-Next-80B-A3B-Instruct")
    layout = kv_layout(known, Shape(), 0)
    assert layout.per_token == 12 * 2 * 256 * 2 * 2
    assert layout.fixed == 2 * 36 * (32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2)


def test_kv_heads_are_repeated_where_there_are_more_gpus_than_heads() -> None:
    layers = model("Qwen3-Coder-30B-A3B-Instruct").layers[0]
    assert [layers.token_bytes(n) for n in (1, 2, 4, 8)] == [2048, 1024, 512, 512]


def test_a_latent_is_the_same_on_every_gpu() -> None:
    layers = model("DeepSeek-V3").layers[0]
    assert layers.token_bytes(8) == layers.token_bytes(1) == 1152


class TestTheBigModel:
    @pytest.mark.parametrize("gpu", [A100, H100])
    def test_does_not_fit_four_gpus_of_80_gb(self, gpu: GpuGroup) -> None:
        verdict = planned(PROD480, ALL_GPUS, replace(gpu, count=4))
        assert not verdict.fits
        assert verdict.kv_tokens == verdict.max_model_len == 0
        assert "leaves no memory for KV" in verdict.reasons[0]

    @pytest.mark.parametrize("gpu", [A100, H100])
    def test_fits_eight_gpus_of_80_gb_with_whole_experts(self, gpu: GpuGroup) -> None:
        engine = replace(ALL_GPUS, expert_parallel=True, batch=Batch(8192, 128))
        verdict = planned(PROD480, engine, replace(gpu, count=8))
        assert verdict.fits
        assert verdict.tensor_parallel_size == 8
        assert verdict.max_model_len == 262144

    def test_fits_four_gpus_of_141_gb(self) -> None:
        for expert in (False, True):
            engine = replace(ALL_GPUS, expert_parallel=expert)
            verdict = planned(PROD480, engine, replace(H200, count=4))
            assert verdict.fits
            assert verdict.tensor_parallel_size == 4

    def test_cannot_have_its_experts_cut_in_eight(self) -> None:
        (refusal,) = shape_refusals(model(PROD480), Shape(8))
        assert "8 parts of 320, across blocks of 128" in refusal
        assert "Set expert_parallel" in refusal

    def test_says_that_four_more_gpus_would_do(self) -> None:
        verdict = planned(PROD480, replace(ALL_GPUS, expert_parallel=True), replace(A100, count=4))
        assert verdict.reasons[-1] == (
            "It would fit with 8 x NVIDIA A100-SXM4-80GB and expert_parallel."
        )

    def test_runs_weight_only_on_an_a100_and_says_so(self) -> None:
        engine = replace(ALL_GPUS, expert_parallel=True)
        on = [planned(PROD480, engine, replace(gpu, count=8)).notes for gpu in (A100, H100)]
        assert "FP8 weights run weight-only on NVIDIA A100" in on[0][0]
        assert on[1] == ()


def int4(gpu: GpuGroup, **changes: Any) -> Any:
    known = model("Qwen2.5-Coder-32B-Instruct", **INT4)
    return plan(known, INT4_BYTES, Engine(**changes), [gpu])


def test_a_gpu_of_48_gb_holds_the_small_one_and_some_90000_tokens() -> None:
    assert int4(A6000).kv_tokens == pytest.approx(90_000, rel=0.1)


def test_a_gpu_of_24_gb_holds_only_some_thousand() -> None:
    few = Batch(1024, 8)
    tokens = int4(RTX4090, min_model_len=2048, gpu_memory_utilization=0.92, batch=few).kv_tokens
    assert 8_000 < tokens < 12_000


def test_the_context_is_the_most_that_fits_up_to_the_models_own() -> None:
    assert int4(A6000).max_model_len == 32768
    few = int4(RTX4090, min_model_len=2048)
    # An engine with a little less KV than promised starts nevertheless.
    assert 0.96 * few.kv_tokens < few.max_model_len <= 0.97 * few.kv_tokens


def test_a_context_that_does_not_fit_is_refused_with_the_arithmetic_and_the_mend() -> None:
    verdict = int4(RTX4090, max_model_len=32768, min_model_len=2048)
    assert not verdict.fits
    # 24,564 MiB less 400 and 0.6 % of it is 24,016.6: 23.45 GiB, and 90 % of that is 21.1.
    assert (
        "21.1 GiB (90% of the 23.5 GiB that CUDA has of 24564 MiB) - weights 18.1 GiB - computing"
        in verdict.reasons[0]
    )
    assert "fewer than 32,768" in verdict.reasons[0]
    assert verdict.reasons[-1].startswith("It would fit with max_model_len: ")


def test_a_context_beyond_the_models_own_is_refused() -> None:
    verdict = int4(A6000, max_model_len=65536)
    assert not verdict.fits
    assert "takes 32,768 tokens, max_model_len is 65,536" in verdict.reasons[0]


def test_larger_gpus_are_named_where_more_of_the_same_do_not_help() -> None:
    verdict = planned("Qwen2.5-Coder-32B-Instruct", Engine(), A6000)
    assert verdict.reasons[-1] == "It would fit with 2 x NVIDIA RTX A6000."
    none = planned("Qwen2.5-Coder-32B-Instruct", Engine())
    assert none.reasons == (
        "Qwen2.5-Coder-32B-Instruct needs GPUs, this host has none.",
        "It would fit with 1 GPU of 81920 MiB.",
    )


def test_concurrent_requests_are_those_whose_kv_has_room() -> None:
    verdict = int4(A6000)
    assert verdict.concurrent_requests(32768) == verdict.kv_tokens // 32768 == 2
    assert verdict.concurrent_requests(8192) == verdict.kv_tokens // 8192
    with pytest.raises(PlanError, match="A request has 0 tokens"):
        verdict.concurrent_requests(0)


def test_windows_let_more_requests_run_at_once() -> None:
    verdict = planned("Gemma-3-27b-it", Engine(), H200)
    everything = 62 * 2 * 16 * 128 * 2
    assert verdict.kv_tokens > 3 * verdict.kv_pool_bytes / everything


def test_a_model_that_the_engine_refuses_in_fp16_is_noted() -> None:
    (note,) = planned("Gemma-3-27b-it", Engine(), H200).notes
    assert note.endswith("Set vllm_dtype to bfloat16, which takes the same memory.")


@pytest.mark.parametrize(
    ("name", "fitting"),
    [
        ("Qwen2.5-Coder-7B-Instruct", [1, 2, 4]),
        ("Qwen2.5-Coder-32B-Instruct", [1, 2, 4, 8]),
        ("Qwen2.5-Coder-0.5B-Instruct", [1, 2]),
        ("Llama-3.1-70B-Instruct", [1, 2, 4, 8, 16]),
        (PROD480, [1, 2, 4]),
        ("starcoder", [1, 2, 3, 4, 6, 8, 12, 16]),
    ],
)
def test_heads_vocabulary_and_widths_decide_how_a_model_is_cut(
    name: str, fitting: list[int]
) -> None:
    assert widths(model(name), 16) == fitting


@pytest.mark.parametrize(
    ("changes", "tensor", "refusal"),
    [
        ({"num_attention_heads": 24, "num_key_value_heads": 6}, 4, "6 KV heads can be neither"),
        ({"num_attention_heads": 24, "num_key_value_heads": 2}, 3, "2 KV heads can be neither"),
        ({"vocab_size": 32000, "num_attention_heads": 24}, 3, "vocabulary of 32000 cannot"),
        ({"intermediate_size": 14338}, 4, "MLP of 14338 cannot"),
    ],
)
def test_a_part_of_a_model_that_cannot_be_shared_out_is_named(
    changes: dict[str, int], tensor: int, refusal: str
) -> None:
    refusals = shape_refusals(model("Llama-3.1-8B-Instruct", **changes), Shape(tensor))
    assert any(refusal in found for found in refusals)


def test_a_cut_that_does_not_go_is_refused_by_what_stands_in_the_way() -> None:
    verdict = planned("Qwen2.5-Coder-7B-Instruct", Engine(tensor_parallel_size=8),
                      replace(H100, count=8))  # fmt: skip
    assert "28 attention heads cannot be shared out among 8 GPUs" in verdict.reasons[0]
    assert verdict.reasons[-1] == "It would fit with 1 x NVIDIA H100 80GB HBM3."


def test_expert_parallel_needs_experts() -> None:
    verdict = planned("Llama-3.1-8B-Instruct", Engine(expert_parallel=True), H100)
    assert "has no experts to share out" in verdict.reasons[0]


def test_stages_share_layers_and_their_kv_out() -> None:
    name = "Llama-3.1-70B-Instruct"
    engine = Engine(tensor_parallel_size=2, pipeline_parallel_size=2)
    four = planned(name, engine, replace(A100, count=4))
    assert four.fits
    assert four.layout.per_token == 40 * 4 * 128 * 2 * 2
    assert not planned(name, engine, replace(A100, count=3)).fits


class TestMixedGpus:
    def test_cannot_share_a_models_layers(self) -> None:
        verdict = planned(
            "Llama-3.1-70B-Instruct", Engine(tensor_parallel_size=4),
            replace(A100, count=2), replace(A6000, count=2),
        )  # fmt: skip
        assert not verdict.fits
        assert "needs 4 equal GPUs" in verdict.reasons[0]
        assert "2 x NVIDIA A100-SXM4-80GB of 81920 MiB and 2 x" in verdict.reasons[0]

    def test_serve_where_those_of_one_kind_are_enough(self) -> None:
        verdict = planned(
            "Llama-3.1-70B-Instruct", Engine(tensor_parallel_size=4, max_model_len=65536),
            replace(A100, count=4), RTX4090,
        )  # fmt: skip
        assert verdict.fits

    def test_all_gpus_means_all_of_the_kind_with_the_most_memory(self) -> None:
        verdict = planned("Qwen2.5-Coder-32B-Instruct", ALL_GPUS, replace(A6000, count=2), H100)
        assert verdict.tensor_parallel_size == 2


def test_a_gpu_that_cannot_compute_is_refused_by_its_capability() -> None:
    old = GpuGroup("Tesla P100-PCIE-16GB", 16384, 1)
    verdict = planned("Qwen2.5-Coder-0.5B-Instruct", Engine(), old)
    assert "has compute capability 6.0, the engine needs 7.5" in verdict.reasons[0]
    turing = GpuGroup("NVIDIA GeForce RTX 2080 Ti", 22528, 1)
    assert "mxfp4 weights need 8.0" in planned("gpt-oss-20b", Engine(), turing).reasons[0]


def test_a_gpu_whose_name_says_nothing_is_planned_with_a_note() -> None:
    verdict = planned("Qwen2.5-Coder-0.5B-Instruct", Engine(), GpuGroup("some GPU", 24564, 1))
    assert verdict.fits
    assert verdict.notes[0].startswith("The compute capability of some GPU is not known.")


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("Tesla P40", 61), ("Tesla P100-PCIE-16GB", 60), ("Tesla V100-SXM2-32GB", 70),
        ("Tesla T4", 75), ("NVIDIA T4G", 75), ("NVIDIA TITAN RTX", 75),
        ("NVIDIA GeForce RTX 2080 Ti", 75), ("NVIDIA GeForce GTX 1660 SUPER", 75),
        ("Quadro RTX 3000", 75), ("Quadro RTX 4000", 75), ("Quadro RTX 5000", 75),
        ("NVIDIA Quadro RTX 5000", 75), ("Quadro RTX 5000 with Max-Q Design", 75),
        ("Quadro RTX 6000", 75), ("Quadro RTX 8000", 75),
        ("NVIDIA A100-SXM4-80GB", 80), ("NVIDIA A100 80GB PCIe", 80), ("NVIDIA A800-SXM4-80GB", 80),
        ("NVIDIA A30", 80), ("NVIDIA A2", 86), ("NVIDIA A10", 86), ("NVIDIA A10G", 86),
        ("NVIDIA A16", 86), ("NVIDIA A40", 86), ("NVIDIA RTX A2000 12GB", 86),
        ("NVIDIA RTX A4000", 86), ("NVIDIA RTX A6000", 86), ("NVIDIA GeForce RTX 3090", 86),
        ("NVIDIA L2", 89), ("NVIDIA L4", 89), ("NVIDIA L20", 89), ("NVIDIA L40", 89),
        ("NVIDIA L40S", 89), ("NVIDIA GeForce RTX 4090", 89), ("NVIDIA GeForce RTX 4060 Ti", 89),
        ("NVIDIA RTX 2000 Ada Generation", 89), ("NVIDIA RTX 4000 SFF Ada Generation", 89),
        ("NVIDIA RTX 5000 Ada Generation", 89), ("NVIDIA RTX 5000 Ada Generation Laptop GPU", 89),
        ("NVIDIA RTX 5880 Ada Generation", 89), ("NVIDIA RTX 6000 Ada Generation", 89),
        ("NVIDIA H100 80GB HBM3", 90), ("NVIDIA H100 PCIe", 90), ("NVIDIA H100 NVL", 90),
        ("NVIDIA H20", 90), ("NVIDIA H20-3e", 90), ("NVIDIA H200", 90), ("NVIDIA H200 NVL", 90),
        ("NVIDIA H800", 90), ("NVIDIA GH200 480GB", 90), ("NVIDIA B200", 100),
        ("NVIDIA GB200", 100), ("NVIDIA B300 SXM6 AC", 103), ("NVIDIA GB300", 103),
        ("NVIDIA GeForce RTX 5090", 120), ("NVIDIA GeForce RTX 5070 Ti", 120),
        ("NVIDIA RTX PRO 4000 Blackwell", 120), ("NVIDIA RTX PRO 5000 Blackwell", 120),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 120),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 120), ("NVIDIA Something", 0),
    ],
)  # fmt: skip
def test_the_capability_of_a_product_is_known_by_its_name(name: str, capability: int) -> None:
    assert GpuGroup(name, 24564, 1).capability == capability


def test_the_drivers_capability_counts_before_the_name() -> None:
    (told,) = read_gpus(
        [{"name": "NVIDIA A100", "memory_mib": 40960, "count": 1, "compute_capability": "6.1"}]
    )
    assert told.capability == 61
    verdict = planned("Qwen2.5-Coder-0.5B-Instruct", Engine(), told)
    assert (
        "has compute capability 6.1, the engine needs 7.5. Use a later GPU." in verdict.reasons[0]
    )


@pytest.mark.parametrize(("given", "capability"), [(8.6, 86), ("12.0", 120), ("", 0), (None, 0)])
def test_a_capability_may_be_a_number_or_a_text(given: object, capability: int) -> None:
    entry = {"name": "x", "memory_mib": 1, "count": 1, "compute_capability": given}
    assert read_gpus([entry])[0].told_capability == capability


@pytest.mark.parametrize("given", ["sm_86", 86, -8.6, True, [8], "8.66"])
def test_a_capability_that_is_none_is_refused_by_name(given: object) -> None:
    entry = {"name": "x", "memory_mib": 1, "count": 1, "compute_capability": given}
    with pytest.raises(PlanError, match="compute_capability"):
        read_gpus([entry])


# What CUDA told as the total of a GPU, in GiB, in out-of-memory messages and logs that people
# published, beside what nvidia-smi tells of such a GPU.
TOTALS = [
    ("Tesla T4", 15360, 14.56), ("NVIDIA L4", 23034, 22.03), ("NVIDIA A10G", 23028, 22.05),
    ("NVIDIA GeForce RTX 4090", 24564, 23.52), ("NVIDIA GeForce RTX 5090", 32607, 31.36),
    ("NVIDIA A100-SXM4-40GB", 40960, 39.38), ("NVIDIA L40S", 46068, 44.39),
    ("NVIDIA A40", 46068, 44.34), ("NVIDIA RTX A6000", 49140, 47.53),
    ("NVIDIA A100-SXM4-80GB", 81920, 79.14), ("NVIDIA H100 80GB HBM3", 81559, 79.18),
    ("NVIDIA RTX PRO 6000 Blackwell", 97887, 94.96), ("NVIDIA H200", 143771, 139.72),
    ("NVIDIA B200", 183359, 178.35),
]  # fmt: skip


@pytest.mark.parametrize(("name", "memory_mib", "total"), TOTALS)
def test_the_planner_counts_on_no_memory_that_cuda_does_not_have(
    name: str, memory_mib: int, total: float
) -> None:
    counted = GpuGroup(name, memory_mib, 1).cuda_bytes / 1024**3
    # To the last digit that was printed, and not much less than there is.
    assert total * 0.985 < counted <= total + 0.005


def test_what_the_engine_does_not_take_must_hold_cudas_contexts_and_lmcaches_buffers() -> None:
    # 1,024 tokens of 256 KiB are 256 MiB; with two contexts of 640, 1.5 GiB.
    greedy = int4(RTX4090, gpu_memory_utilization=0.97, min_model_len=2048)
    assert not greedy.fits
    assert (
        "gpu_memory_utilization leaves 0.7 GiB of the 23.5 GiB that CUDA has, and CUDA's contexts"
        " and LMCache's buffers take 1.5 GiB." in greedy.reasons[0]
    )
    assert greedy.reasons[-1] == "It would fit with gpu_memory_utilization: 0.93."
    assert int4(RTX4090, gpu_memory_utilization=0.93, min_model_len=2048).fits


def test_a_kind_of_model_that_is_not_known_is_refused_by_name_and_taken_with_an_override() -> None:
    config = {**FACTS["Llama-3.1-8B-Instruct"]["config"], "model_type": "rwkv9"}
    with pytest.raises(PlanError, match=r"kind 'rwkv9' \(mine\).*kv_bytes_per_token"):
        read(config, "mine")
    verdict = plan(read(config, "mine", 131072), 16_000_000_000, Engine(), [A100])
    assert verdict.kv_bytes_per_token == 131072
    assert "as given by hand" in verdict.notes[0]


def test_a_kind_of_layer_that_is_not_known_is_refused() -> None:
    with pytest.raises(PlanError, match=r"layers of the kind chunked_attention"):
        model("Llama-3.1-8B-Instruct", layer_types=["chunked_attention"] * 32)


@pytest.mark.parametrize("value", [-1, 0, "32", 3.5, True])
def test_absurd_entries_of_a_config_are_refused_by_name(value: object) -> None:
    with pytest.raises(PlanError, match="num_hidden_layers"):
        model("Llama-3.1-8B-Instruct", num_hidden_layers=value)


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size"])
def test_missing_entries_of_a_config_are_refused_by_name(key: str) -> None:
    with pytest.raises(PlanError, match=key):
        model("Llama-3.1-8B-Instruct", **{key: None})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_model_len": -1}, "max_model_len"),
        ({"max_model_len": 10**12}, "max_model_len"),
        ({"tensor_parallel_size": -2}, "tensor_parallel_size"),
        ({"pipeline_parallel_size": 0}, "pipeline_parallel_size"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"gpu_memory_utilization": 0}, "gpu_memory_utilization"),
        ({"l1_bytes": -1}, "l1_bytes"),
        ({"batch": Batch(0, 1)}, "A step of 0 tokens"),
    ],
)
def test_absurd_settings_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(PlanError, match=named):
        Engine(**changes)


@pytest.mark.parametrize(
    "entry", [{"name": "x"}, {"memory_mib": 0, "count": 1}, {"memory_mib": "80", "count": 1}]
)
def test_gpus_without_numbers_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="infbox_gpus"):
        read_gpus([entry])


def test_gpus_given_twice_are_counted_together() -> None:
    entry = {"name": "NVIDIA L4", "memory_mib": 23034, "count": 2}
    assert read_gpus([entry, entry]) == (GpuGroup("NVIDIA L4", 23034, 4),)


def test_the_safetensors_index_says_how_large_the_weights_are() -> None:
    assert index_bytes({"metadata": {"total_size": 988065536}}, "mine") == 988065536
    broken: list[dict[str, Any]] = [{}, {"metadata": {}}, {"metadata": {"total_size": -1}}]
    for index in broken:
        with pytest.raises(PlanError, match="index of mine"):
            index_bytes(index, "mine")


class TestTheHost:
    ENGINE = Engine(
        device="cpu", cpu_kv_cache_bytes=2 * 1024**3, l1_bytes=10**9, l2_bytes=5 * 10**9
    )

    def test_without_gpus_keeps_all_in_main_memory(self) -> None:
        verdict = planned("Qwen2.5-Coder-0.5B-Instruct", self.ENGINE)
        assert verdict.fits
        assert verdict.kv_tokens == 2 * 1024**3 // 12288
        assert 6.5e9 < verdict.memory_bytes < 7e9

    def test_with_too_little_memory_or_disk_is_refused_with_the_arithmetic(self) -> None:
        small = Host(memory_bytes=4 * 10**9, disk_bytes=8 * 10**9)
        verdict = planned("Qwen2.5-Coder-0.5B-Instruct", self.ENGINE, host=small)
        assert not verdict.fits
        assert "this host has 4.0. Add memory, or lower lmcache.l1_size_gb." in verdict.reasons[1]
        assert "weights 1, LMCache 5, images 5; this host has 8." in verdict.reasons[2]

    def test_is_not_judged_where_nobody_looked(self) -> None:
        assert planned("Qwen2.5-Coder-0.5B-Instruct", self.ENGINE, host=Host()).fits

    def test_cannot_keep_states_without_gpus(self) -> None:
        verdict = planned("Qwen3-Next-80B-A3B-Instruct", self.ENGINE)
        assert "on GPUs only" in verdict.reasons[0]


MADE = {
    "num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 512, "vocab_size": 1024,
    "num_attention_heads": 4, "max_position_embeddings": 4096,
}  # fmt: skip
SLIDING = {"num_key_value_heads": 2, "head_dim": 64, "sliding_window": 256}
# Made locally with random weights and started on a CPU by vLLM 0.32, which reported so many tokens
# for 1 GiB of KV, in 16 bits. Here a step has 4,096 tokens.
REPORTED = [
    ("MHA", {"model_type": "llama", "num_key_value_heads": 4}, 262_144),
    ("GQA", {"model_type": "qwen3", "num_attention_heads": 8, "num_key_value_heads": 2,
             "head_dim": 128, "num_hidden_layers": 7}, 149_760),
    ("MQA", {"model_type": "llama", "num_key_value_heads": 1, "num_hidden_layers": 5}, 838_784),
    ("MoE", {"model_type": "mixtral", "num_key_value_heads": 2, "num_local_experts": 4,
             "num_experts_per_tok": 2}, 524_288),
    ("MLA", {"model_type": "deepseek_v2", "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 233_008),
    ("half sliding", {"model_type": "gemma2", "num_hidden_layers": 6, **SLIDING}, 344_127),
    ("most sliding", {"model_type": "gemma3_text", "num_hidden_layers": 14, **SLIDING}, 145_888),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "config", "tokens"), REPORTED, ids=[name for name, *_ in REPORTED]
)
def test_the_engine_on_a_cpu_reports_the_tokens_that_the_planner_says(
    shape: str, config: dict[str, Any], tokens: int
) -> None:
    engine = Engine(device="cpu", cpu_kv_cache_bytes=1024**3, batch=Batch(4096, 256))
    made = read({**MADE, **config}, shape)
    verdict = plan(made, 10_000_000, replace(engine, max_model_len=4096), [])
    assert verdict.kv_tokens == pytest.approx(tokens, rel=0.01)


def test_the_engine_of_the_demo_reports_the_tokens_that_the_planner_says() -> None:
    config = {**MADE, "model_type": "qwen2", "hidden_size": 512, "num_hidden_layers": 8,
              "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 32768,
              "layer_types": ["full_attention"] * 8}  # fmt: skip
    engine = Engine(device="cpu", cpu_kv_cache_bytes=2 * 1024**3, max_model_len=16384)
    assert plan(read(config, "local"), 50_000_000, engine, []).kv_tokens == 524_288


@pytest.mark.parametrize(
    ("name", "pool_gib", "tokens"),
    [
        ("Gemma-3-27b-it", 80, 848_975),
        ("Gemma-2-9b-it", 40, 124_702),
        ("gpt-oss-20b", 40, 1_692_854),
        ("Qwen2.5-Coder-32B-Instruct", 24, 98_304),
        ("DeepSeek-V3", 24, 366_704),
    ],
)
def test_the_engine_reckons_the_same_tokens_for_windows_and_latents(
    name: str, pool_gib: int, tokens: int
) -> None:
    """What vLLM 0.32's `get_kv_cache_capacity` says for these layers, 4,096 tokens in flight."""
    known = model(name)
    layout = kv_layout(known, Shape(), in_flight(Batch(), Shape()))
    reckoned = layout.requests(pool_gib * 1024**3, known.context) * known.context
    assert reckoned == pytest.approx(tokens, rel=0.01)


names = st.sampled_from(sorted(FACTS))
memories = st.integers(8_000, 200_000)
counts = st.sampled_from([1, 2, 4, 8])


@settings(max_examples=150, deadline=None)
@given(name=names, memory=memories, more=st.integers(0, 100_000), count=counts)
def test_more_memory_never_fits_less(name: str, memory: int, more: int, count: int) -> None:
    engine = Engine(tensor_parallel_size=count, batch=Batch())
    less, greater = (
        planned(name, engine, GpuGroup("NVIDIA H100", size, count))
        for size in (memory, memory + more)
    )
    assert greater.fits >= less.fits
    assert greater.max_model_len >= less.max_model_len
    assert greater.kv_pool_bytes >= less.kv_pool_bytes


@settings(max_examples=150, deadline=None)
@given(name=names, memory=memories, count=counts)
def test_a_plan_never_spends_more_than_there_is(name: str, memory: int, count: int) -> None:
    engine = Engine(tensor_parallel_size=count, batch=Batch())
    gpu = GpuGroup("NVIDIA H100", memory, count)
    verdict = planned(name, engine, gpu)
    assume(verdict.fits)
    known, shape = model(name), Shape(count)
    spent = weights_per_gpu(verdict.weights_bytes, shape) + reserve_per_gpu(
        known, shape, Batch(), eager=False
    )
    assert spent + verdict.kv_pool_bytes <= gpu.cuda_bytes * engine.gpu_memory_utilization
    taken = spent + verdict.kv_pool_bytes + beside_engine(verdict.layout)
    assert taken <= gpu.cuda_bytes < gpu.memory_bytes
    assert verdict.layout.request_bytes(verdict.max_model_len) <= verdict.kv_pool_bytes
    assert verdict.kv_tokens * verdict.layout.per_token <= verdict.kv_pool_bytes
    assert verdict.max_model_len <= min(verdict.kv_tokens, known.context)
    at_once = verdict.concurrent_requests(verdict.max_model_len)
    assert at_once * verdict.layout.request_bytes(verdict.max_model_len) <= verdict.kv_pool_bytes


@settings(max_examples=150, deadline=None)
@given(name=names, memory=memories)
def test_what_is_named_as_the_change_that_fits_does_fit(name: str, memory: int) -> None:
    gpu = GpuGroup("NVIDIA H100", memory, 1)
    engine = Engine(max_model_len=model(name).context)
    fix = planned(name, engine, gpu).reasons[-1].removesuffix(".")
    _, shorter, tokens = fix.partition("It would fit with max_model_len: ")
    if shorter:
        assert planned(name, replace(engine, max_model_len=int(tokens)), gpu).fits
    _, more, gpus = fix.partition("It would fit with ")
    if more and not shorter and gpus.endswith("x NVIDIA H100"):
        count = int(gpus.split()[0])
        changed = replace(engine, tensor_parallel_size=count)
        assert planned(name, changed, replace(gpu, count=count)).fits


@settings(max_examples=150, deadline=None)
@given(
    layers=st.integers(1, 100), kv_heads=st.sampled_from([1, 2, 4, 8]), group=st.integers(1, 8),
    dim=st.sampled_from([64, 80, 128, 256]), tensor=counts,
)  # fmt: skip
def test_gpus_together_keep_every_head_at_least_once(
    layers: int, kv_heads: int, group: int, dim: int, tensor: int
) -> None:
    config = {
        "model_type": "llama", "hidden_size": dim * kv_heads * group, "head_dim": dim,
        "intermediate_size": 4096, "num_hidden_layers": layers, "vocab_size": 32000,
        "num_attention_heads": kv_heads * group, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 32768,
    }  # fmt: skip
    known = read(config, "any")
    whole = 2 * layers * kv_heads * dim * 2
    on_each = kv_layout(known, Shape(tensor), 0).per_token
    assert on_each * tensor >= whole
    assert on_each == whole * max(tensor, kv_heads) // kv_heads // tensor
