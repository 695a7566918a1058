#!/usr/bin/env bash
# spec/vectors read by a program that knows only what spec/protocol.md says: the words suffice to build another client.
set -euo pipefail
command -v python3 >/dev/null || { apt-get -q -y update && apt-get -q -y install --no-install-recommends python3; }
said=$(python3 spec/vectors/read.py | tail -n 1)
echo "result: $said"
