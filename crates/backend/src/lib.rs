//! What a backend is: traits, the memory planner, plan reports.
