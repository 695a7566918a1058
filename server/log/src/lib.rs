//! An append-only log, synced before acknowledged, and honest about damage.
