"""Models and inputs: what a file declares, inputs with a seed, and variants that are made from a file."""
import os

import numpy as np

# The floats and integers of ONNX's element types that inputs have.
FLOATS = {1: np.float32, 10: np.float16, 11: np.float64}
INTEGERS = {2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_}
# Sizes that files leave open, by the name that exporters give them; --dim overrides them.
SIZES = {"batch": 1, "batch_size": 1, "seq": 128, "sequence": 128, "sequence_length": 128, "past": 128}


def declared(path):
    """The inputs of a model: name, element type and dimensions (a number, or the name of an open size)."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {c.name for c in graph.initializer}
    for value in graph.input:
        if value.name not in constants:
            tensor = value.type.tensor_type
            dims = [d.dim_param or d.dim_value or "?" for d in tensor.shape.dim]
            yield value.name, tensor.elem_type, dims


def inputs(path, sizes=None, seed=1):
    """Inputs that fit a model, the same for every call: normal floats, small token ids, a full mask."""
    ports = list(declared(path))
    known = dict(SIZES)
    # A model that takes what came before decodes one token a run.
    if any("past" in map(str, dims) for _, _, dims in ports):
        known |= {"seq": 1, "sequence": 1, "sequence_length": 1}
    known |= sizes or {}
    rng, made = np.random.default_rng(seed), {}
    for name, kind, dims in ports:
        shape = []
        for d in dims:
            size = d if isinstance(d, int) else known.get(d)
            if size is None:
                raise ValueError(f"input {name} has an open size {d}: give --dim {d}=N")
            shape.append(size)
        if kind in FLOATS:
            value = rng.standard_normal(shape, dtype=np.float32).astype(FLOATS[kind])
        elif kind in INTEGERS:
            if "mask" in name:
                value = np.ones(shape)
            elif "type" in name:
                value = np.zeros(shape)
            else:
                value = rng.integers(0, 2 if kind == 9 else 100 if kind in (2, 3) else 1000, shape)
            value = value.astype(INTEGERS[kind])
        else:
            raise ValueError(f"input {name} has the element type {kind}, for which no inputs are made here")
        made[name] = value
    return made


def weights(path):
    """Bytes of the constants that every run reads in full: all but the tables that are only looked up."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    looked_up, read = set(), set()
    for node in graph.node:
        for place, name in enumerate(node.input):
            (looked_up if node.op_type == "Gather" and place == 0 else read).add(name)
    total = 0
    for c in graph.initializer:
        if c.name in read or c.name not in looked_up:
            count = int(np.prod(c.dims, dtype=np.int64))
            total += count * onnx.helper.tensor_dtype_to_np_dtype(c.data_type).itemsize
    return total


def with_batch(path, batch, out):
    """Writes a copy of a model of one image a run that takes `batch` of them."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    graph = model.graph
    for value in [*graph.input, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value == 1:
            dims[0].dim_value = batch
    # Inner shapes were inferred for one image.
    del graph.value_info[:]
    targets = {node.input[1] for node in graph.node if node.op_type == "Reshape"}

    def copied(tensor):
        """The shape with a leading size that is taken from the operand, if it was a single one."""
        shape = numpy_helper.to_array(tensor)
        if shape.ndim == 1 and shape.size and shape[0] == 1:
            return numpy_helper.from_array(np.concatenate([[0], shape[1:]]).astype(shape.dtype), tensor.name)
        return None

    for constant in graph.initializer:
        if constant.name in targets and (new := copied(constant)):
            constant.CopyFrom(new)
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in targets:
            for attribute in node.attribute:
                if attribute.name == "value" and (new := copied(attribute.t)):
                    attribute.t.CopyFrom(new)
    onnx.save(model, out)


def chain(path, mixed, length=1000):
    """Writes a chain of tiny operators: elementwise ones in a row, or ones that nothing can merge."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    if mixed:
        shape, extra = [4, 4], numpy_helper.from_array(np.array(1, np.int64), "axis")
        steps = [("Transpose", [], {"perm": [1, 0]}), ("CumSum", ["axis"], {}),
                 ("Transpose", [], {"perm": [1, 0]}), ("Softmax", [], {"axis": 1})]
    else:
        shape = [1, 8]
        extra = numpy_helper.from_array(np.linspace(0.5, 1.5, 8, dtype=np.float32).reshape(shape), "c")
        plain = {"Sin", "Neg", "Abs", "Relu", "Tanh", "Softsign", "Sigmoid"}
        names = ["Sin", "Neg", "Abs", "Relu", "Tanh", "Add", "Mul", "Softsign", "Sub", "Sigmoid"]
        steps = [(op, [] if op in plain else ["c"], {}) for op in names]
    nodes, last = [], "x"
    for i in range(length):
        op, more, attributes = steps[i % len(steps)]
        nodes.append(helper.make_node(op, [last, *more], [f"v{i}"], name=f"n{i}", **attributes))
        last = f"v{i}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last)]
    graph = helper.make_graph(nodes, os.path.basename(path)[:-5], ends[:1], ends[1:], [extra])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
