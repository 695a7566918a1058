//! What measures Spile.
