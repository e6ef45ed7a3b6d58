"""Stands for what vLLM's tests take from their `tests.utils`, which would load vLLM itself."""

from infbox_conformance import RunningServer

RemoteLaunchRenderServer = RemoteOpenAIServer = RemoteOpenAIServerCustom = RunningServer
RemoteVLLMServer = RunningServer
ROCM_EXTRA_ARGS: list[str] = []
