"""Our quantizer beside the int8 files that MLPerf Tiny publishes: how far both are from the float model.

usage: published.py FOLDER [--bin PROGRAM] [--work FOLDER] [--markdown FILE.md] [-- OPTION ...]

FOLDER holds NAME_float.tflite, NAME_int8.tflite and their NAME_{float,int8}_tflite.npz. The float file is quantized by
`tensormill optimize --quantize int8` (with the options after `--`) on 64 samples, and both integer models run on 256
others, which the published file gets by the scale of its own input. The models' data sets are not beside them, so
samples are made, each kind by fixed seeds and apart for calibrating and comparing:

  like      cifar_resnet8: crops of the two photographs in scikit-learn, calibrated on their left halves and compared
            on their right ones. kws_dscnn: a second of a voice made of pulses, formants and breath, as the benchmark's
            own features: 10 of the cepstral coefficients of 49 windows
  noise     every value of the input's range alike: the stored input of the int8 file, and more such
  normal    the stored input of the float file and more normal noise, which is a few steps of the published input wide

The error is the norm of the difference over the norm; decibels are signal to noise; `same` counts samples whose largest
output is the float model's. What the published files cannot show beyond the data that they were calibrated on counts
against them in `noise` and `normal`; `like` is the fair row.
"""
import argparse
import functools
import os
import subprocess
import sys
import tempfile

import numpy as np

NAMES = ["cifar_resnet8", "kws_dscnn"]
SAMPLES, TESTS = 64, 256


def photos(rng, count, left):
    """Crops of photographs, as pictures of 32 by 32 pixels."""
    out = []
    for i in range(count):
        image = load_photos()[i % 2].astype(np.float64)
        half = image.shape[1] // 2
        image = image[:, :half] if left else image[:, half:]
        side = 32 * int(rng.choice([2, 3, 4, 6, 8]))
        y, x = (rng.integers(0, n - side + 1) for n in image.shape[:2])
        crop = image[y:y + side, x:x + side].reshape(32, side // 32, 32, side // 32, 3).mean((1, 3))
        out.append(np.rint(crop[:, ::-1] if rng.random() < 0.5 else crop))
    return np.stack(out).astype(np.float32)


@functools.cache
def load_photos():
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def voice(rng):
    """A second of something like a word at 16 kHz: syllables of voiced and breathy sounds, and a quiet room."""
    rate = 16000
    t = np.arange(rate) / rate
    out = rng.normal(0, 10 ** rng.uniform(-4, -2.3), rate)
    at, end = rng.uniform(0.05, 0.35), rng.uniform(0.6, 0.95)
    pitch = rng.uniform(85, 240)
    while at < end:
        long = rng.uniform(0.06, 0.22)
        span = (t >= at) & (t < at + long)
        n = int(span.sum())
        if n < 64:
            break
        tone = pitch * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(1, 4) * t[span] + rng.uniform(0, 6)))
        phase = np.cumsum(tone) / rate
        source = np.diff(np.floor(phase), prepend=0) if rng.random() < 0.7 else rng.normal(0, 0.15, n)
        spectrum, f = np.fft.rfft(source), np.fft.rfftfreq(n, 1 / rate)
        gain = np.full(len(f), 0.01)
        for low, high, width in [(250, 850, 90), (850, 2300, 130), (2300, 3200, 200), (3300, 4500, 300)]:
            gain += rng.uniform(0.3, 1) / (1 + ((f - rng.uniform(low, high)) / width) ** 2)
        sound = np.fft.irfft(spectrum * gain / (1 + f / 1500), n) * np.hanning(n) ** 0.5
        out[span] += rng.uniform(0.2, 1) * sound / (np.abs(sound).max() + 1e-9)
        at += long + rng.exponential(0.03)
    return out / np.abs(out).max()


def features(wave):
    """As the benchmark makes them: 49 windows of 40 ms, 40 bands from 20 to 4000 Hz, 10 cepstral coefficients."""
    frames = np.stack([wave[320 * i:320 * i + 640] for i in range(49)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(640) / 640)
    spectrum = np.abs(np.fft.rfft(frames * window, 1024))
    mel = lambda f: 1127 * np.log1p(np.asarray(f) / 700)
    edges, bins = np.linspace(mel(20), mel(4000), 42), mel(np.fft.rfftfreq(1024, 1 / 16000))[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bands = np.maximum(0, np.minimum(up, down))
    bands[0] = 0
    logs = np.log(spectrum @ bands + 1e-6)
    n, k = np.arange(40), np.arange(10)[:, None]
    return (2 * logs @ np.cos(np.pi * k * (n + 0.5) / 40).T / np.sqrt(80))[..., None].astype(np.float32)


class Model:
    def __init__(self, args, name):
        self.args, self.name = args, name
        self.float, self.published = (os.path.join(args.folder, f"{name}_{k}.tflite") for k in ("float", "int8"))
        stored = [np.load(os.path.join(args.folder, f"{name}_{k}_tflite.npz")) for k in ("float", "int8")]
        self.keys = [next(k for k in z.files if k.startswith("in_"))[3:] for z in stored]
        self.stored = [z["in_" + k] for z, k in zip(stored, self.keys)]
        # Of the published file's input tensor, which has them in its table of quantization.
        self.scale, self.zero = {"cifar_resnet8": (1.0, -128), "kws_dscnn": (0.5847029089927673, 83)}[name]
        self.range = [(n - self.zero) * self.scale for n in (-128, 127)]
        self.whole = name == "cifar_resnet8"

    def make(self, kind, seed, count):
        rng, shape = np.random.default_rng(seed), self.stored[0].shape[1:]
        if kind == "like" and self.whole:
            return photos(rng, count, seed == 1)
        if kind == "like":
            return np.stack([features(voice(rng)) for _ in range(count)])
        if kind == "normal":
            return rng.standard_normal((count, *shape)).astype(np.float32)
        x = rng.uniform(*self.range, (count, *shape))
        return (np.rint(x) if self.whole else x).astype(np.float32)

    def tests(self, kind):
        x = self.make(kind, 2, TESTS)
        if kind == "normal":
            x[0] = self.stored[0][0]
        if kind == "noise":
            x[0] = (self.stored[1][0].astype(np.float32) - self.zero) * self.scale
        return x

    def run(self, path, key, x):
        given, saved = (os.path.join(self.args.work, n) for n in ("in.npz", "out.npz"))
        np.savez(given, **{key: x})
        subprocess.run([self.args.bin, "run", path, "--inputs", given, "--save", saved], check=True,
                       stdout=subprocess.DEVNULL)
        with np.load(saved) as out:
            return out[out.files[0]]

    def integers(self, x):
        """The published file's outputs as real numbers: probabilities in steps of 1/256 from -128 on."""
        q = np.clip(np.rint(x / self.scale) + self.zero, -128, 127).astype(np.int8)
        return (self.run(self.published, self.keys[1], q).astype(np.float64) + 128) / 256

    def quantize(self, kind):
        folder, out = tempfile.mkdtemp(dir=self.args.work), os.path.join(self.args.work, "ours.mill")
        for i, x in enumerate(self.make(kind, 1, SAMPLES)):
            np.savez(os.path.join(folder, f"{i:03}.npz"), **{self.keys[0]: x[None]})
        subprocess.run([self.args.bin, "optimize", self.float, "--quantize", "int8", "--calib", folder, "-o", out,
                        "--measure", "0", *self.args.options], check=True, stdout=subprocess.DEVNULL)
        return out


def compare(want, got):
    off = float(((want.astype(np.float64) - got) ** 2).sum() / (want.astype(np.float64) ** 2).sum())
    return off ** 0.5, -10 * np.log10(off), int((want.argmax(-1) == got.argmax(-1)).sum())


def main():
    argv, options = sys.argv[1:], []
    if "--" in argv:
        argv, options = argv[:argv.index("--")], argv[argv.index("--") + 1:]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("--bin", default="target/release/tensormill")
    p.add_argument("--work")
    p.add_argument("--markdown", help="append the table to this file")
    args = p.parse_args(argv)
    args.options, args.work = options, args.work or tempfile.mkdtemp()
    lines = ["| model | samples | ours: error, dB, same | published: error, dB, same |", "|---|---|---:|---:|"]
    for name in NAMES:
        model = Model(args, name)
        for kind in ["like", "noise", "normal"]:
            ours, x = model.quantize(kind), model.tests(kind)
            want = model.run(model.float, model.keys[0], x)
            row = [compare(want, got) for got in (model.run(ours, model.keys[0], x), model.integers(x))]
            cells = " | ".join(f"{e:.4f}, {db:.1f}, {same} of {len(x)}" for e, db, same in row)
            lines.append(f"| {name} | {kind} | {cells} |")
    print("\n".join(lines))
    if args.markdown:
        with open(args.markdown, "a") as f:
            f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
