"""Keep what vLLM asks of each model's class, so that no start of an engine has to ask.

At each start it imports itself once more in a process of its own, to learn what the class of the
model can do; of a start on a CPU that is a third. It keeps the answer below ``VLLM_CACHE_ROOT``,
under the hash of the class's source, and takes it from there.
"""

from vllm.model_executor.models import registry


def main() -> None:
    """Ask all classes that this image can load, in this process, which is as good for a CPU."""
    registry._run_in_subprocess = lambda ask: ask()
    kept = 0
    for model in registry.ModelRegistry.models.values():
        try:
            model.inspect_model_cls()
        except ImportError:
            continue  # of a package that is not part of this image, so it cannot be served either
        kept += 1
    print(f"kept what {kept} classes of models can do")


if __name__ == "__main__":
    main()
