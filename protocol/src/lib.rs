//! Spile's wire: frames, messages, and the sessions that exchange them.
