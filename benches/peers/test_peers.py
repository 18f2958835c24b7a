"""What the figures rest on: `python -m unittest discover benches/peers`."""
import os
import tempfile
import types
import unittest

import numpy as np

import machine
import measure
import models
import quantizers
import report


def file(folder, name, *arrays):
    path = os.path.join(folder, name)
    np.savez(path, **{str(i): a for i, a in enumerate(arrays)})
    return path


class Ratios(unittest.TestCase):
    def test_a_win_needs_an_interval_above_one(self):
        self.assertEqual(measure.verdict(measure.ratio([1.2, 1.3, 1.25, 1.22, 1.28])), "ahead")
        self.assertEqual(measure.verdict(measure.ratio([0.8, 0.9, 0.85, 0.82, 0.88])), "behind")
        self.assertEqual(measure.verdict(measure.ratio([0.8, 1.3, 0.9, 1.2, 1.1])), "even")
        self.assertEqual(measure.verdict(measure.ratio([1.5] * 4)), "unknown")

    def test_the_fastest_peer_of_the_same_round_counts(self):
        seen = {measure.US: [{"t": 1.0}, {"t": 2.0}], "ort": [{"t": 3.0}, {"t": 4.0}],
                "openvino": [{"t": 2.0}, {"t": 8.0}]}
        self.assertEqual(measure.against(seen, ["ort", "openvino"], "t")["best"]["median"], 2.0)
        self.assertEqual(measure.against(seen, ["ort"], "t")["best"]["median"], 2.5)

    def test_the_longer_of_arithmetic_and_memory_is_the_limit(self):
        best = {1: {"multiply_add_gflops": {"a": 10.0, "b": 5.0}, "read_gbs": 2.0}}
        row = {"threads": 1, "median": {measure.US: {"p50_ms": 4.0}}}
        measure.roofline(row, {"flops": 2e7, "weights": 0}, best)
        self.assertAlmostEqual(row["roofline"]["share"][measure.US], 0.5)
        measure.roofline(row, {"flops": 1e6, "weights": machine.last_cache() + 6_000_000}, best)
        self.assertEqual(row["roofline"]["by"], "memory")
        self.assertAlmostEqual(row["roofline"]["bound_ms"], 3.0)


class Errors(unittest.TestCase):
    def test_the_worst_output_counts(self):
        with tempfile.TemporaryDirectory() as d:
            a = file(d, "a.npz", np.ones(4, np.float32), np.full((2, 2), 2.0))
            b = file(d, "b.npz", np.ones(4, np.float32), np.full((2, 2), 2.2))
            self.assertAlmostEqual(measure.error(b, a), 0.1)
            self.assertEqual(measure.error(a, a), 0.0)

    def test_other_shapes_numbers_and_nans_are_errors(self):
        with tempfile.TemporaryDirectory() as d:
            a = file(d, "a.npz", np.ones(4))
            for i, other in enumerate(([np.ones((2, 2))], [np.ones(4), np.ones(1)], [np.array([1, 1, 1, np.nan])])):
                self.assertEqual(measure.error(file(d, f"{i}.npz", *other), a), float("inf"))


class Models(unittest.TestCase):
    def test_inputs_are_those_declared_and_always_the_same(self):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "chain.onnx")
            models.chain(path, mixed=False, length=20)
            self.assertEqual(list(models.declared(path)), [("x", 1, [1, 8])])
            a, b = models.inputs(path), models.inputs(path)
            np.testing.assert_array_equal(a["x"], b["x"])
            self.assertEqual(models.weights(path), 32)

    def test_another_batch_reaches_reshapes(self):
        import onnx
        from onnx import TensorProto, helper, numpy_helper
        from onnx.reference import ReferenceEvaluator

        shape = numpy_helper.from_array(np.array([1, -1], np.int64), "shape")
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 2, 3]), ("y", [1, 6]))]
        node = helper.make_node("Reshape", ["x", "shape"], ["y"])
        graph = helper.make_graph([node], "g", ends[:1], ends[1:], [shape])
        with tempfile.TemporaryDirectory() as d:
            one, many = os.path.join(d, "one.onnx"), os.path.join(d, "many.onnx")
            onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), one)
            models.with_batch(one, 8, many)
            feed = models.inputs(many)
            self.assertEqual(feed["x"].shape, (8, 2, 3))
            self.assertEqual(ReferenceEvaluator(many).run(None, feed)[0].shape, (8, 6))


class Reports(unittest.TestCase):
    def test_places_of_this_machine_are_left_out(self):
        args = types.SimpleNamespace(bin="/home/me/tensormill", more="/home/me/more", rows="8 tokens", dim=[],
                                     threads="1")
        self.assertEqual(measure.shown(args, "guards"), "python benches/peers/guards.py ZOO --bin "
                         "target/release/tensormill --rows '8 tokens' --threads 1 --more MORE")
        with self.assertRaises(measure.Failed):
            measure.execute(["/nowhere/at/all"])

    def test_figures_have_three_digits(self):
        shown = [report.figure(x) for x in (None, 0.01234, 1.234, 12.34, 1234.5)]
        self.assertEqual(shown, ["-", "0.0123", "1.23", "12.3", "1234"])


class Quantizers(unittest.TestCase):
    def test_errors_are_relative_over_all_pairs(self):
        x = np.array([3.0, 4.0])
        found = quantizers.decibels([(x, x), (x, x + [0.0, 1.0])])
        self.assertAlmostEqual(found["error"], (1 / 50) ** 0.5)
        self.assertAlmostEqual(found["db"], 10 * np.log10(50))

    def test_every_row_of_the_table_has_all_cells(self):
        rows = {"m": {"ours": {"error": 0.1, "db": 20.0, "speed_1": 2.5}, "theirs": {"error": 0.2, "db": 14.0}}}
        table = [line for line in quantizers.markdown(rows).splitlines() if line.startswith("|")]
        self.assertEqual({line.count("|") for line in table}, {10})
        self.assertIn("| 0.1000 | 20.0 | - | - | - | 2.50 | - |", table[2])

if __name__ == "__main__":
    unittest.main()
