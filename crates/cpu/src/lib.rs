//! The CPU backend: lowering, weight preparation, plans and states.
