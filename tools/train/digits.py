"""Trains the digit classifier that the command-line program carries as its example.

A small convolutional network on the 8x8 digits that scikit-learn brings along, in plain NumPy, exported
to ONNX. The same versions on the same machine give the same bytes.

    python tools/train/digits.py [folder]
"""

import os

# One thread: sums are then added up in the same order on every run. Set before NumPy loads its BLAS.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import pathlib
import sys
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 20240607
HELD_OUT = 360
EPOCHS = 60
BATCH = 64
RATE = 3e-3
DECAY = 1e-3
DROPOUT = 0.3
WIDTHS = (16, 32)
SAMPLES = 12
COMMAND = "python tools/train/digits.py"


def load():
    """Images scaled to 0..1 as [n, 1, 8, 8] and labels, cut once into a training and a held-out part."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    return train_test_split(images, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED)


def patches(x):
    """The 3x3 surroundings of every pixel, zeros outside: [n, h, w, c * 9]."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.ascontiguousarray(windows.transpose(0, 2, 3, 1, 4, 5)).reshape(n, h, w, c * 9)


def unpatch(d, shape):
    """The adjoint of `patches`: adds every surrounding back to where it was taken from."""
    n, c, h, w = shape
    d = d.reshape(n, h, w, c, 3, 3).transpose(0, 3, 1, 2, 4, 5)
    out = np.zeros((n, c, h + 2, w + 2), d.dtype)
    for i in range(3):
        for j in range(3):
            out[:, :, i : i + h, j : j + w] += d[..., i, j]
    return out[:, :, 1:-1, 1:-1]


def conv(x, weight, bias):
    columns = patches(x)
    y = columns @ weight.reshape(weight.shape[0], -1).T + bias
    return y.transpose(0, 3, 1, 2), columns


def conv_back(d, columns, weight, shape):
    d = np.ascontiguousarray(d.transpose(0, 2, 3, 1))
    flat = d.reshape(-1, d.shape[-1])
    d_weight = (flat.T @ columns.reshape(flat.shape[0], -1)).reshape(weight.shape)
    return unpatch(d @ weight.reshape(weight.shape[0], -1), shape), d_weight, flat.sum(0)


def pool(x):
    """The greatest of every 2x2 block, and which one it was."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    best = blocks.argmax(-1)
    return np.take_along_axis(blocks, best[..., None], -1)[..., 0], best


def pool_back(d, best):
    n, c, h, w = d.shape
    blocks = np.zeros((n, c, h, w, 4), d.dtype)
    np.put_along_axis(blocks, best[..., None], d[..., None], -1)
    return blocks.reshape(n, c, h, w, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h * 2, w * 2)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def forward(p, x, keep=None):
    """Probabilities, and what the way back needs. `keep` masks features while training."""
    a1, columns1 = conv(x, p["conv1.weight"], p["conv1.bias"])
    r1 = np.maximum(a1, 0)
    a2, columns2 = conv(r1, p["conv2.weight"], p["conv2.bias"])
    r2 = np.maximum(a2, 0)
    pooled, best = pool(r2)
    features = pooled.reshape(len(x), -1)
    if keep is not None:
        features = features * keep
    probabilities = softmax(features @ p["fc.weight"].T + p["fc.bias"])
    return probabilities, (columns1, r1, columns2, r2, best, features)


def gradients(p, x, labels, keep):
    probabilities, (columns1, r1, columns2, r2, best, features) = forward(p, x, keep)
    d = probabilities.copy()
    d[np.arange(len(x)), labels] -= 1
    d /= np.float32(len(x))
    g = {"fc.weight": d.T @ features, "fc.bias": d.sum(0)}
    d = (d @ p["fc.weight"]) * keep
    d = pool_back(d.reshape(len(x), -1, 4, 4), best) * (r2 > 0)
    d, g["conv2.weight"], g["conv2.bias"] = conv_back(d, columns2, p["conv2.weight"], r1.shape)
    _, g["conv1.weight"], g["conv1.bias"] = conv_back(d * (r1 > 0), columns1, p["conv1.weight"], x.shape)
    return g


def shifted(x, rng):
    """Every image moved by up to one pixel each way, zeros moving in."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    dy, dx = rng.integers(0, 3, (2, len(x)))
    rows = dy[:, None, None] + np.arange(8)[None, :, None]
    columns = dx[:, None, None] + np.arange(8)[None, None, :]
    return padded[np.arange(len(x))[:, None, None], 0, rows, columns][:, None]


def train(images, labels):
    rng = np.random.default_rng(SEED)

    def he(*shape):
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    first, second = WIDTHS
    p = {
        "conv1.weight": he(first, 1, 3, 3),
        "conv1.bias": np.zeros(first, np.float32),
        "conv2.weight": he(second, first, 3, 3),
        "conv2.bias": np.zeros(second, np.float32),
        "fc.weight": he(10, second * 16),
        "fc.bias": np.zeros(10, np.float32),
    }
    mean = {k: np.zeros_like(v) for k, v in p.items()}
    square = {k: np.zeros_like(v) for k, v in p.items()}
    steps = EPOCHS * -(-len(images) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            keep = (rng.random((len(chosen), second * 16)) >= DROPOUT).astype(np.float32) / np.float32(1 - DROPOUT)
            g = gradients(p, shifted(images[chosen], rng), labels[chosen], keep)
            step += 1
            # Adam with decoupled weight decay, the rate falling to nothing along half a cosine.
            rate = RATE * (1 + np.cos(np.pi * step / steps)) / 2
            for k in p:
                mean[k] = 0.9 * mean[k] + 0.1 * g[k]
                square[k] = 0.999 * square[k] + 0.001 * g[k] ** 2
                update = (mean[k] / (1 - 0.9**step)) / (np.sqrt(square[k] / (1 - 0.999**step)) + 1e-8)
                p[k] = (p[k] - rate * (update + DECAY * p[k])).astype(np.float32)
    return p


def export(p, accuracy):
    weights = [numpy_helper.from_array(v, k) for k, v in p.items()]
    three = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "conv1.weight", "conv1.bias"], ["conv1"], "conv1", **three),
        helper.make_node("Relu", ["conv1"], ["relu1"], "relu1"),
        helper.make_node("Conv", ["relu1", "conv2.weight", "conv2.bias"], ["conv2"], "conv2", **three),
        helper.make_node("Relu", ["conv2"], ["relu2"], "relu2"),
        helper.make_node("MaxPool", ["relu2"], ["pool"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pool"], ["features"], "flatten", axis=1),
        helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        weights,
        doc_string="Handwritten digits, 8x8 pixels from 0 (paper) to 1 (ink), to the probabilities of 0 to 9.",
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="tools/train/digits.py"
    )
    helper.set_model_props(
        model,
        {
            "held_out_accuracy": accuracy,
            "training_command": COMMAND,
            "training_data": "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak, 1998; UCI Machine "
            "Learning Repository, https://doi.org/10.24432/C50P49), the test part as bundled by scikit-learn",
            "training_data_license": "CC-BY-4.0",
            "classes": "0,1,2,3,4,5,6,7,8,9",
        },
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def pick(probabilities, labels):
    """Held-out images to show: the least certain one, then the first ones of every class in turn."""
    chosen = [int(probabilities.max(1).argmin())]
    for turn in range(SAMPLES):
        for digit in range(10):
            of_digit = np.flatnonzero(labels == digit)
            if len(chosen) < SAMPLES and of_digit[turn] not in chosen:
                chosen.append(int(of_digit[turn]))
    return sorted(chosen, key=lambda i: (int(labels[i]), i))


def save_npz(path, arrays):
    """As numpy.savez, with a fixed date on the entries."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w") as entry:
                np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)


def main():
    here = pathlib.Path(__file__).resolve().parent
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent / "cli" / "assets"
    images, held_images, labels, held_labels = load()
    p = train(images, labels)

    probabilities, _ = forward(p, held_images)
    right = int((probabilities.argmax(1) == held_labels).sum())
    accuracy = f"{100 * right / len(held_labels):.2f} % ({right} of {len(held_labels)})"
    model = export(p, accuracy)

    (exported,) = ReferenceEvaluator(model).run(["probabilities"], {"image": held_images})
    difference = float(np.abs(exported - probabilities).max())
    if difference > 1e-5 or (exported.argmax(1) != probabilities.argmax(1)).any():
        sys.exit(f"the exported model computes something else: off by {difference}")

    folder.mkdir(parents=True, exist_ok=True)
    data = model.SerializeToString(deterministic=True)
    if len(data) > 100_000:
        sys.exit(f"the model takes {len(data)} bytes, more than 100 KB")
    (folder / "digits.onnx").write_bytes(data)
    chosen = pick(probabilities, held_labels)
    save_npz(folder / "digits.npz", {"image": held_images[chosen], "label": held_labels[chosen]})

    train_probabilities, _ = forward(p, images)
    print(f"training accuracy: {100 * (train_probabilities.argmax(1) == labels).mean():.2f} % of {len(labels)}")
    print(f"held-out accuracy: {accuracy}")
    print(f"model: {len(data)} bytes, {sum(v.size for v in p.values())} weights; off the exported one by {difference:.1e}")
    for i in chosen:
        guess = probabilities[i].argmax()
        print(f"sample: label {held_labels[i]}, predicted {guess} with {100 * probabilities[i, guess]:.1f} %")


if __name__ == "__main__":
    main()
