//! Load a trained model, run it, fast: the embeddable Tensormill runtime.
