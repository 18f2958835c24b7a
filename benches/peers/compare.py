"""Tensormill beside ONNX Runtime and OpenVINO on whole models: speed, start and memory.

usage: compare.py ZOO [--models a,b] [--bin target/release/tensormill] [--out docs/benchmarks/NAME]
(--help lists the rest)
"""
import argparse
import glob
import os
import sys

import measure
import models
import report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    measure.command(parser)
    parser.add_argument("--models", help="names of files without .onnx; all of the folder unless given")
    args = parser.parse_args()
    found = sorted(os.path.basename(p)[:-5] for p in glob.glob(os.path.join(args.zoo, "*.onnx")))
    names = args.models.split(",") if args.models else found
    if not names:
        sys.exit(f"{args.zoo}: no .onnx file is there")

    def cases(_work):
        for name in names:
            path = os.path.join(args.zoo, name + ".onnx")
            if os.path.exists(path):
                yield measure.Case(name, path, [models.inputs(path, measure.sizes(args))])
            else:
                yield f"{name}: no such file"

    run = measure.session(cases, args, "compare")
    report.write(run, args.out, "Tensormill beside its peers: whole models")


if __name__ == "__main__":
    main()
