#!/usr/bin/env python3
"""A CUDA 13.0 toolkit for building, from PyPI, into a virtual environment of its own.

    eval "$(python3 benches/cuda_env.py DIR)" && cargo build --release --features cuda

Needs Python with venv, a C compiler, and 2 GB below DIR; no GPU, no driver, no system toolkit. Prints
`export` lines only; everything else goes to standard error. Where a driver is installed its libcuda is
linked; elsewhere a stand-in, whose every function reports that it is one.
"""
import os
import pathlib
import re
import subprocess
import sys

# One pin for all: code made by a later minor version is refused by drivers for 13.0.
PACKAGES = [
    "cuda-toolkit[nvcc,crt,nvvm,cccl,cudart,nvrtc,cublas,curand]==13.0.2",
    "nvidia-cudnn-cu13==9.19.0.56",
]


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def environment(root: pathlib.Path) -> pathlib.Path:
    """The folder nvidia/ of the virtual environment, which is made if it is not there."""
    python = root / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", root], check=True, stdout=sys.stderr)
    done = root / "packages"
    if not done.exists() or done.read_text() != "\n".join(PACKAGES):
        say("installing", *PACKAGES)
        command = [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *PACKAGES]
        subprocess.run(command, check=True, stdout=sys.stderr)
        done.write_text("\n".join(PACKAGES))
    found = list(root.glob("lib/python3*/site-packages/nvidia"))
    if not found:
        sys.exit(f"{root}: no NVIDIA packages in it; remove the folder and run this again")
    return found[0]


def name_for_the_linker(folder: pathlib.Path):
    """libx.so for every libx.so.N: wheels carry only the latter."""
    for library in folder.glob("lib*.so.*"):
        plain = folder / (library.name.split(".so.")[0] + ".so")
        if not plain.exists():
            plain.symlink_to(library.name)


def stand_in(cuda: pathlib.Path) -> pathlib.Path:
    """A libcuda.so.1 with every function of cuda.h: links without a driver, computes nothing."""
    folder = cuda / "lib" / "stubs"
    library = folder / "libcuda.so"
    if library.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    header = (cuda / "include" / "cuda.h").read_text()
    names = set(re.findall(r"\bcu[A-Z]\w*", header)) | {"cuProfilerStart", "cuProfilerStop"}
    source = folder / "stub.c"
    # 34 is CUDA_ERROR_STUB_LIBRARY.
    source.write_text("".join(f"int {name}(void) {{ return 34; }}\n" for name in sorted(names)))
    command = ["cc", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (folder / "libcuda.so.1").symlink_to("libcuda.so")
    return folder


def compute_capability() -> str:
    """Of the first GPU here, or an H100's."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
        return lines[0].replace(".", "")
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "90"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1]).resolve()
    nvidia = environment(root)
    cuda, cudnn = nvidia / "cu13", nvidia / "cudnn"
    name_for_the_linker(cuda / "lib")
    name_for_the_linker(cudnn / "lib")
    stubs = stand_in(cuda)
    libraries = [str(cuda / "lib"), str(cudnn / "lib")]
    if not pathlib.Path("/proc/driver/nvidia/version").exists():
        libraries.append(str(stubs))
    libraries += filter(None, [os.environ.get("LD_LIBRARY_PATH")])
    exports = {
        "CUDA_HOME": cuda,
        "CUDNN_LIB": cudnn,
        "NVCC": cuda / "bin" / "nvcc",
        "CUDARC_CUDA_VERSION": "13000",
        "CUDA_COMPUTE_CAP": os.environ.get("CUDA_COMPUTE_CAP") or compute_capability(),
        "CUDAFORGE_THREADS": os.environ.get("CUDAFORGE_THREADS") or os.cpu_count(),
        "LD_LIBRARY_PATH": ":".join(libraries),
    }
    for name, value in exports.items():
        print(f"export {name}='{value}'")


main()
