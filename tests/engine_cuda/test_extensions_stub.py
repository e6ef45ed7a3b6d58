"""Everything compiled for CUDA loads, and compilers work, against a libcuda that is a stub.

So versions and binaries fit together. What a kernel computes nobody sees without a GPU.
"""

import pytest

from tests.engine_cuda.conftest import STUB, Engine

pytestmark = [pytest.mark.lab, pytest.mark.long]

PACKAGES = "/opt/engine/lib/python3.11/site-packages"
FEW_FUNCTIONS = ["cuMemCreate", "cuTensorMapEncodeTiled"]
KERNEL = """
#include <cub/cub.cuh>
__global__ void twice(float *x) { x[threadIdx.x] *= 2; }
extern "C" int launch(float *x) { twice<<<1, 32>>>(x); return cudaGetLastError(); }
"""


def test_every_extension_loads_against_a_stub(engine: Engine) -> None:
    names = [path.split("/")[0] for path in engine.extensions]
    assert (names.count("vllm"), names.count("lmcache")) == (13, 4)
    assert set(FEW_FUNCTIONS) < set(engine.functions)
    paths = [f"{PACKAGES}/{path}" for path in engine.extensions]
    assert engine.python("load_extensions", *paths) == {}


def test_an_extension_that_lacks_a_function_is_told_from_those_that_load_stub(
    engine: Engine,
) -> None:
    broken = f"{STUB}/broken.so"
    script = f"sed s/cuMemCreate/cuMemCreatX/ {PACKAGES}/vllm/cumem_allocator.abi3.so > {broken}"
    assert engine.run("sh", "-c", script).returncode == 0
    (said,) = engine.python("load_extensions", broken).values()
    assert "undefined symbol: cuMemCreatX" in said


def test_triton_compiles_its_launcher_against_a_stub(engine: Engine) -> None:
    done = engine.run(
        "python", "-c", "from triton.backends.nvidia.driver import CudaUtils; CudaUtils()"
    )
    assert done.returncode == 0, done.stderr


def test_nvcc_compiles_and_links_as_flashinfer_does(engine: Engine) -> None:
    shared = f"{STUB}/kernel.so"
    done = engine.run(
        "sh", "-c",
        f"cat > {STUB}/kernel.cu && nvcc -shared -Xcompiler -fPIC -arch=sm_90 -o {shared}"
        f" {STUB}/kernel.cu -L$CUDA_HOME/lib64 -cudart shared -L{STUB} -l:libcuda.so.1",
        text=KERNEL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert engine.python("load_extensions", shared) == {}
