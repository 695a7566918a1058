//! Spile's worker: from links to the log, and back to consumers.
