#!/usr/bin/env bash
# The figures of docs/figures.md measured anew, each beside its bare limit. It fails when an event is lost, an error comes
# or a figure can't be measured, never for being slow: the machine may be shared. SPILE_FULL=1 measures longer.
set -euo pipefail
size=--short
[ "${SPILE_FULL:-}" = 1 ] && size=--full
cargo run --quiet --release --locked --bin figures -- all "$size"
