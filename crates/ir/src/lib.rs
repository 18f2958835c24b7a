//! The graph: ops, types, symbolic dims, shape inference, verifier, text form.
