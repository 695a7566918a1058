//! The client of Spile, a device-ingest bus.
