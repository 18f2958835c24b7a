"""One peer, alone in its process: loads a model, runs it on given inputs, prints one JSON object.

usage: engine.py ENGINE MODEL THREADS SECONDS OUT.npz IN.npz [IN.npz ...]

With one file of inputs a time is that of one run, and the engine may specialize the model to its sizes. With
several, a time is that of one pass over all of them, in one session that was compiled for open sizes. The outputs
of the first run of each go to OUT.npz, named "INPUT.OUTPUT" by their places.
"""
import json
import os
import sys
import time

# Numpy's own threads would only be in the way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

WARM_UP_RUNS, WARM_UP_SECONDS = 10, 1.0


def memory(field):
    """A field of the process' status in MiB; None where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def onnxruntime(path, feeds, threads):
    import onnxruntime as ort

    def load():
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda feed: session.run(None, feed)

    return load


def openvino(path, feeds, threads):
    import openvino as ov

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Elsewhere the processor may choose bfloat16, which is another computation.
        "INFERENCE_PRECISION_HINT": "f32",
    }

    def load():
        core = ov.Core()
        model = core.read_model(path)
        if len(feeds) == 1:
            model.reshape({name: list(value.shape) for name, value in feeds[0].items()})
        compiled = core.compile_model(model, "CPU", settings)
        request, ports = compiled.create_infer_request(), compiled.outputs

        def run(feed):
            found = request.infer(feed, share_inputs=True, share_outputs=True)
            return [found[port] for port in ports]

        return run

    return load


ENGINES = {"ort": onnxruntime, "openvino": openvino}


def main():
    engine, path, threads, seconds, out = sys.argv[1:6]
    feeds = []
    for name in sys.argv[6:]:
        with np.load(name) as file:
            feeds.append(dict(file))
    # What the interpreter and the inputs hold is not the engine's.
    before = memory("VmRSS")
    load = ENGINES[engine](path, feeds, int(threads))

    start = time.perf_counter()
    run = load()
    load_ms = (time.perf_counter() - start) * 1e3
    kept, first_ms = {}, None
    for i, feed in enumerate(feeds):
        start = time.perf_counter()
        outputs = run(feed)
        first_ms = first_ms or (time.perf_counter() - start) * 1e3
        # Copied: an engine may write its next outputs to the same place.
        kept |= {f"{i}.{j}": np.array(value) for j, value in enumerate(outputs)}

    def once():
        start = time.perf_counter()
        for feed in feeds:
            outputs = run(feed)
        taken = time.perf_counter() - start
        # The last outputs are freed outside of the time, as the program does it.
        del outputs
        return taken * 1e3

    start, runs = time.perf_counter(), 1
    least = WARM_UP_RUNS if len(feeds) == 1 else 2
    while runs < least or time.perf_counter() - start < WARM_UP_SECONDS:
        once()
        runs += 1
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < float(seconds):
        times.append(once())
    times.sort()
    peak = memory("VmHWM")
    np.savez(out, **kept)
    print(json.dumps({
        "load_ms": load_ms, "first_ms": first_ms, "runs": len(times),
        "p10_ms": times[len(times) // 10], "p50_ms": times[len(times) // 2], "p90_ms": times[len(times) * 9 // 10],
        "process_mb": peak, "peak_rss_mb": None if peak is None or before is None else peak - before,
    }))


if __name__ == "__main__":
    main()
