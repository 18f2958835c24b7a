//! Model files to and from graphs.
