"""How much accuracy small trained models lose when `tensormill optimize` quantizes and prunes them.

usage: small.py --bin PATH/TO/tensormill [--markdown FILE]

A classifier (handwritten digits) and a regressor (diabetes) are trained with scikit-learn on its bundled data and
written as ONNX; the digit network that the program carries is read from tools/cli/assets. Each is quantized and
pruned with the training half as calibration, and scored on the other half. Needs scikit-learn and onnx.
"""
import argparse, os, subprocess, tempfile
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor

HERE = os.path.dirname(os.path.abspath(__file__))
SETTINGS = {
    "float": [], "int8": ["--quantize", "int8"], "int8 dynamic": ["--quantize", "int8-dynamic"],
    "int8 weights": ["--quantize", "int8-weights"], "int4 weights": ["--quantize", "int4-weights"],
    "2 of 4": ["--prune", "0.5", "--2of4"],
    "channels 10%": ["--prune", "0.1", "--structured"], "channels 25%": ["--prune", "0.25", "--structured"],
    "channels 50%": ["--prune", "0.5", "--structured"],
    "channels 50%, int8": ["--prune", "0.5", "--structured", "--quantize", "int8"],
}


def network(net, path, last):
    """A multi-layer perceptron as Gemm and Relu nodes."""
    nodes, values, x = [], [], "x"
    for i, (w, b) in enumerate(zip(net.coefs_, net.intercepts_)):
        values += [numpy_helper.from_array(w.astype("f4"), f"w{i}"), numpy_helper.from_array(b.astype("f4"), f"b{i}")]
        end = i + 1 == len(net.coefs_)
        nodes.append(helper.make_node("Gemm", [x, f"w{i}", f"b{i}"], ["y" if end else f"h{i}"], f"gemm{i}"))
        x = f"h{i}"
        if not end:
            nodes.append(helper.make_node("Relu", [x], [f"r{i}"], f"relu{i}"))
            x = f"r{i}"
    info = lambda name, n: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", n])
    graph = helper.make_graph(nodes, "net", [info("x", net.coefs_[0].shape[0])], [info("y", last)], values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def run(binary, model, name, x, work):
    np.savez(f"{work}/in.npz", **{name: x})
    subprocess.run([binary, "run", model, "--inputs", f"{work}/in.npz", "--save", f"{work}/out.npz"], check=True,
                   capture_output=True)
    out = np.load(f"{work}/out.npz")
    return out[out.files[0]]


def accuracy(y, labels): return 100 * float((y.reshape(len(labels), -1).argmax(1) == labels).mean())
def r2(y, target): return 100 * float(1 - ((y.ravel() - target) ** 2).sum() / ((target - target.mean()) ** 2).sum())


def cases(work):
    d = load_digits()
    a, b, p, q = train_test_split((d.data / 16).astype("f4"), d.target, test_size=0.5, random_state=0)
    net = MLPClassifier(hidden_layer_sizes=(128, 64), random_state=0, max_iter=400).fit(a, p)
    network(net, f"{work}/classifier.onnx", 10)
    yield "classifier (digits, 64-128-64-10)", f"{work}/classifier.onnx", "x", a, b, q, accuracy
    digits = os.path.join(HERE, "..", "..", "tools", "cli", "assets", "digits.onnx")
    given = onnx.load(digits).graph.input[0]
    dims = [v.dim_value or -1 for v in given.type.tensor_type.shape.dim][1:]
    yield "digit network (convolutions)", digits, given.name, a.reshape(-1, *dims), b.reshape(-1, *dims), q, accuracy
    d = load_diabetes()
    a, b, p, q = train_test_split(d.data.astype("f4") * 10, d.target, test_size=0.5, random_state=0)
    net = MLPRegressor(hidden_layer_sizes=(64, 32), random_state=0, max_iter=3000, alpha=1.0).fit(a, p)
    network(net, f"{work}/regressor.onnx", 1)
    yield "regressor (diabetes, 10-64-32-1)", f"{work}/regressor.onnx", "x", a, b, q, r2


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True)
    p.add_argument("--markdown")
    a = p.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        columns = []
        for title, model, name, calib, x, y, score in cases(work):
            columns.append(title)
            np.savez(f"{work}/calib.npz", **{name: calib})
            for i, (setting, options) in enumerate(SETTINGS.items()):
                out = f"{work}/out.onnx"
                done = subprocess.run([a.bin, "optimize", model, "-o", out, "--calib", f"{work}/calib.npz", *options],
                                      capture_output=True, text=True)
                cell = "refused: " + done.stderr.strip().splitlines()[0][:60] if done.returncode else \
                    f"{score(run(a.bin, out, name, x, work), y):.2f}"
                if len(rows) <= i: rows.append([setting])
                rows[i].append(cell)
    lines = ["| setting | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += ["| " + " | ".join(r) + " |" for r in rows]
    text = "\n".join(lines)
    print(text)
    if a.markdown:
        # Tables of other scripts stand behind the next heading.
        before = open(a.markdown).read() if os.path.exists(a.markdown) else ""
        rest = before.find("\n# ")
        with open(a.markdown, "w") as f:
            f.write("# Small models, quantized and pruned\nPercent right on held-out data (R2 in percent for the regressor), "
                    "nothing trained afterwards. By `benches/peers/small.py --bin PATH/TO/tensormill --markdown "
                    "docs/benchmarks/small.md`.\n\n" + text + "\n" + (before[rest:] if rest >= 0 else ""))


if __name__ == "__main__":
    main()
