//! Spile's edge: who is it, may it, how fast, route it.
