#!/usr/bin/env python3
"""Compiles the CUDA kernels beside this file to PTX, in `ptx/`, with NVRTC's Python wheel: no CUDA toolkit and no GPU is needed.

    pip install -r requirements.txt
    python compile.py            # writes ptx/*.ptx
    python compile.py --check    # fails where they differ from what the sources give
"""
import argparse
import ctypes
import pathlib
import re
import sys

# Asynchronous copies to shared memory begin here; drivers compile PTX for later GPUs. A source may name another one.
ARCHITECTURE = "compute_80"
HERE = pathlib.Path(__file__).parent


def library():
    import nvidia.cuda_nvrtc as wheel

    folder = pathlib.Path(next(iter(wheel.__path__))) / "lib"
    # NVRTC looks for it by name.
    ctypes.CDLL(str(next(folder.glob("libnvrtc-builtins.so*"))), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so*"))))


def variants(source):
    """What is made of a source: names and macros, from its lines `// variant NAME: MACRO=VALUE ...`, or the source itself."""
    found = re.findall(r"^// variant (\w+): (.*)$", source.read_text(), re.MULTILINE)
    return [(name, macros.split()) for name, macros in found] or [(source.stem, [])]


def compile_to_ptx(nvrtc, path, macros):
    def call(name, *arguments):
        code = getattr(nvrtc, "nvrtc" + name)(*arguments)
        if code and name != "CompileProgram":
            sys.exit(f"nvrtc{name} failed with {code}")
        return code

    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    call("CreateProgram", ctypes.byref(program), path.read_bytes(), path.name.encode(), 0, None, None)
    own = re.search(r"^// architecture (\w+)$", path.read_text(), re.MULTILINE)
    options = [f"--gpu-architecture={own[1] if own else ARCHITECTURE}", "--std=c++17", f"--include-path={HERE}", "--extra-device-vectorization"]
    options += [f"--define-macro={macro}" for macro in macros]
    options = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = call("CompileProgram", program, len(options), options)
    call("GetProgramLogSize", program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    call("GetProgramLog", program, log)
    if log.value:
        print(log.value.decode(), file=sys.stderr)
    if failed:
        sys.exit(f"{path.name} does not compile")
    call("GetPTXSize", program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    call("GetPTX", program, ptx)
    return ptx.value.decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("names", nargs="*", help="sources without .cu; all by default")
    arguments = parser.parse_args()
    nvrtc, stale = library(), []
    for source in sorted(HERE.glob("*.cu")):
        if arguments.names and source.stem not in arguments.names:
            continue
        for name, macros in variants(source):
            ptx, target = compile_to_ptx(nvrtc, source, macros), HERE / "ptx" / f"{name}.ptx"
            if not arguments.check:
                target.parent.mkdir(exist_ok=True)
                target.write_text(ptx)
            elif not target.exists() or target.read_text() != ptx:
                stale.append(target.name)
    if stale:
        sys.exit(f"not what the sources give: {', '.join(stale)}: run compile.py")


if __name__ == "__main__":
    main()
