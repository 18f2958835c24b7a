//! What every op means, as plain scalar code: the oracle, the constant folder and the fallback.
