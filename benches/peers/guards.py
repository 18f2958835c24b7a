"""Work that is not to get slower while the headline gets faster: batches, short, long and varying texts, tiny models.

usage: guards.py ZOO [--more FOLDER] [--rows a,b] [--bin target/release/tensormill] [--out docs/benchmarks/NAME]
"""
import argparse
import os

import numpy as np

import measure
import models
import report

VISION = ("resnet50", "mobilenet_v2", "inception_v3", "yolov8n")
BATCH = 8
TEXT = "minilm"
LENGTHS = (8, 512)
# More lengths in one pass than an engine is likely to keep plans for, in an order without a pattern.
VARYING = (8, 120, 32, 96, 16, 128, 56, 72, 104, 24, 80, 48, 112, 40, 64, 88)
NODES = 1000


def batches(args, work):
    for name in VISION:
        path = os.path.join(args.zoo, name + ".onnx")
        label = f"{name}, batch {BATCH}"
        if not os.path.exists(path):
            yield label, f"{label}: no such file"
            continue
        if not any(isinstance(d, str) for _, _, dims in models.declared(path) for d in dims[:1]):
            wide = os.path.join(work, f"{name}_{BATCH}.onnx")
            models.with_batch(path, BATCH, wide)
            path = wide
        yield label, lambda label=label, path=path: measure.Case(
            label, path, [models.inputs(path, measure.sizes(args) | {"batch": BATCH})])


def texts(args, _work):
    path = os.path.join(args.zoo, TEXT + ".onnx")
    rows = {f"{TEXT}, {n} tokens": (n,) for n in LENGTHS} | {f"{TEXT}, {len(VARYING)} lengths": VARYING}
    for label, lengths in rows.items():
        if not os.path.exists(path):
            yield label, f"{label}: no such file"
            continue

        def made(label=label, lengths=lengths):
            feeds = [models.inputs(path, measure.sizes(args) | {"seq": n}) for n in lengths]
            # A pass over several is shown as one run of average length.
            return measure.Case(label, path, feeds, len(feeds), "ms a run" if len(feeds) > 1 else "ms")

        yield label, made


def chains(_args, work):
    for mixed, label in ((False, f"{NODES} elementwise nodes"), (True, f"{NODES} nodes that do not merge")):
        path = os.path.join(work, "mixed.onnx" if mixed else "chain.onnx")
        models.chain(path, mixed, NODES)
        yield label, lambda label=label, path=path: measure.Case(
            label, path, [models.inputs(path)], divide=NODES / 1e6, unit="ns a node")


def small(args, _work):
    # The detector of speech takes 576 samples of 16 kHz sound: 32 ms, and what came right before.
    speech = {"input": np.random.default_rng(1).standard_normal((1, 576), dtype=np.float32) * np.float32(0.1),
              "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000, np.int64)}
    for name, feed in (("mnist", None), ("silero_vad", speech)):
        path = os.path.join(args.more or args.zoo, name + ".onnx")
        if os.path.exists(path):
            yield name, lambda name=name, path=path, feed=feed: measure.Case(name, path, [feed or models.inputs(path)])
        else:
            yield name, f"{name}: no such file"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    measure.command(parser)
    parser.add_argument("--more", help="folder with mnist.onnx and silero_vad.onnx; ZOO unless given")
    parser.add_argument("--rows", help="only rows whose name has one of these words")
    args = parser.parse_args()
    wanted = args.rows.split(",") if args.rows else [""]

    def cases(work):
        for part in (batches, texts, chains, small):
            for label, made in part(args, work):
                if any(word in label for word in wanted):
                    yield made if isinstance(made, str) else made()

    run = measure.session(cases, args, "guards")
    report.write(run, args.out, "Tensormill beside its peers: batches, lengths, tiny operators, small models")


if __name__ == "__main__":
    main()
