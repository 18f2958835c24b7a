"""What a measurement ran on: the machine, its limits, the versions, and how busy it was with other things."""
import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))


def text(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def hardware():
    """The machine in words. Names of hosts and builds of kernels are left out."""
    info = text("/proc/cpuinfo")

    def field(name):
        found = re.search(rf"^{name}\s*:\s*(.+)$", info, re.M)
        return found.group(1).strip() if found else None

    flags = set((field("flags") or field("Features") or "").split())
    model = field("model name") or platform.processor() or platform.machine()
    if field("cpu family"):
        model += f" (family {field('cpu family')}, model {field('model')})"
    names = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16",
             "amx_tile": "AMX", "asimd": "NEON"}
    siblings, cores = field("siblings"), field("cpu cores")
    found = {
        "processor": model,
        "instructions": ", ".join(label for flag, label in names.items() if flag in flags),
        "processors": os.cpu_count(),
        "threads per core": int(siblings) // int(cores) if siblings and cores and int(cores) else None,
        "caches": ", ".join(f"{label} {size >> 10} KiB" for label, size in caches()),
        "virtual machine": "hypervisor" in flags,
    }
    memory = re.search(r"MemTotal:\s*(\d+)", text("/proc/meminfo"))
    if memory:
        found["memory"] = f"{int(memory.group(1)) / (1 << 20):.1f} GiB"
    release = re.match(r"[\d.]+", platform.release())
    found["system"] = f"{platform.system()} {release.group(0) if release else ''} {platform.machine()}"
    return {name: value for name, value in found.items() if value is not None}


def caches():
    """Names and bytes of the caches of the first processor."""
    for folder in sorted(glob.glob("/sys/devices/system/cpu/cpu0/cache/index*")):
        level, kind, size = (text(os.path.join(folder, f)).strip() for f in ("level", "type", "size"))
        found = re.fullmatch(r"(\d+)([KM])", size)
        if found:
            letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
            yield f"L{level}{letter}", int(found.group(1)) << (10 if found.group(2) == "K" else 20)


def last_cache():
    """Bytes of the largest cache: constants that fit need not come from memory each time."""
    return max((size for _, size in caches()), default=0)


def versions(program, engines):
    """Versions of all that takes part."""
    def first_line(*command):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=HERE)
            return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None
        except OSError:
            return None

    found = {"tensormill": (first_line(program, "--version") or "unknown").removeprefix("tensormill ")}
    commit = first_line("git", "rev-parse", "--short=12", "HEAD")
    if commit:
        # The program is not asked what it was built from: this is the checkout that the scripts lie in.
        found["checkout"] = commit + (" with changes" if first_line("git", "diff", "--name-only", "HEAD") else "")
    packages = {"ort": "onnxruntime", "openvino": "openvino"}
    for package in [packages[e] for e in engines if e in packages] + ["numpy", "onnx"]:
        found[package] = importlib.metadata.version(package)
    return found | {"python": platform.python_version()}


# The shared libraries that a peer needs to run an ONNX model on the processor.
LIBRARIES = {
    "ort": ("onnxruntime", ["capi/onnxruntime_pybind11_state*.so"]),
    "openvino": ("openvino", ["libs/libopenvino.so*", "libs/libopenvino_intel_cpu_plugin.so",
                              "libs/libopenvino_onnx_frontend.so*", "libs/libtbb.so*"]),
}


def on_disk(program, engines):
    """Bytes of what has to be shipped to run a model: the program, or the peers' libraries."""
    found = {"tensormill": os.path.getsize(program)}
    for e in engines:
        if e in LIBRARIES:
            package, patterns = LIBRARIES[e]
            spec = importlib.util.find_spec(package)
            folder = spec.submodule_search_locations[0] if spec else ""
            files = {os.path.realpath(f) for p in patterns for f in glob.glob(os.path.join(folder, p))}
            if files:
                found[e] = sum(map(os.path.getsize, files))
    return found


def limits(program, threads):
    """What the machine could do at best, measured now: threads -> (GFLOP/s, GB/s). Empty without the program."""
    if not os.path.exists(program):
        return {}
    done = subprocess.run([program, *map(str, threads)], capture_output=True, text=True, timeout=300, check=True)
    return {row["threads"]: row for row in json.loads(done.stdout)["limits"]}


def better(a, b):
    """The better of two measurements of the limits: anything else that runs can only lower them."""
    best = {}
    for threads in a.keys() | b.keys():
        rows = [x[threads] for x in (a, b) if threads in x]
        sets = {name for row in rows for name in row["multiply_add_gflops"]}
        best[threads] = {
            "threads": threads,
            "multiply_add_gflops": {
                name: max(row["multiply_add_gflops"].get(name, 0) for row in rows) for name in sorted(sets)
            },
            "read_gbs": max(row["read_gbs"] for row in rows),
        }
    return best


class Busy:
    """Says what part of the processors others used since it was made."""

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now():
        numbers = [int(n) for n in text("/proc/stat").split("\n")[0].split()[1:9]]
        if len(numbers) < 8:
            return None
        total, idle, steal = sum(numbers), numbers[3] + numbers[4], numbers[7]
        own = os.times()
        return total, total - idle - steal, steal, sum(own[:4]) * os.sysconf("SC_CLK_TCK")

    def shares(self):
        """Parts of all processor time: other processes of this system, and other systems on the machine."""
        end = self.now()
        if self.start is None or end is None:
            return None
        total, busy, steal, own = (b - a for a, b in zip(self.start, end))
        if total <= 0:
            return None
        return {"others": max(0.0, (busy - own) / total), "stolen": steal / total}
