"""Writes every node case of the installed onnx package to a folder: OUT/node/CASE/{model.onnx, tolerance.json, test_data_set_N/}."""

import json
import os
import sys
import warnings

warnings.filterwarnings("ignore")

import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from onnx.backend.test.case.node import collect_testcases  # noqa: E402


def message(value, info):
    """A test value as the message of its declared type."""
    kind = info.type.WhichOneof("value")
    if isinstance(value, onnx.TensorProto):
        return value
    make = {
        "map_type": numpy_helper.from_dict,
        "sequence_type": numpy_helper.from_list,
        "optional_type": numpy_helper.from_optional,
    }.get(kind, numpy_helper.from_array)
    return make(value, info.name)


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def main(out):
    count = 0
    for case in collect_testcases(None):
        folder = os.path.join(out, "node", case.name)
        os.makedirs(folder, exist_ok=True)
        write(os.path.join(folder, "model.onnx"), case.model.SerializeToString())
        write(os.path.join(folder, "tolerance.json"), json.dumps({"rtol": case.rtol, "atol": case.atol}).encode())
        for i, (inputs, outputs) in enumerate(case.data_sets):
            data = os.path.join(folder, f"test_data_set_{i}")
            os.makedirs(data, exist_ok=True)
            graph = case.model.graph
            for kind, values, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
                for j, (value, info) in enumerate(zip(values, infos)):
                    write(os.path.join(data, f"{kind}_{j}.pb"), message(value, info).SerializeToString())
        count += 1
    print(f"{count} node cases")


if __name__ == "__main__":
    main(sys.argv[1])
