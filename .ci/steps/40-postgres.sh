#!/usr/bin/env bash
# A sink into Postgres that is killed with -9 again and again while events are published ends with exactly the right rows:
# every version of every key once, the latest value of each, and what is no number in the dead letters.
# SPILE_SEED repeats the moments of the kills; SPILE_FULL=1 publishes more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export DEBIAN_FRONTEND=noninteractive CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"

keys=20 rounds=8 a_round=25
[ "${SPILE_FULL:-}" = 1 ] && rounds=60
seed=${SPILE_SEED:-$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')}
RANDOM=$seed

again() { # COMMAND...: up to three times, for what needs the network
    local try
    for try in 1 2 3; do
        "$@" && return 0
        sleep $((try * 5))
    done
    return 1
}

find_postgres() { # sets postgres to the folder of the newest one's programs
    postgres=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
    [ -n "$postgres" ] && [ -x "$postgres/initdb" ]
}

install_tools() {
    find_postgres && return 0
    again apt-get -q -y -o Acquire::Retries=3 update
    again apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends postgresql
    find_postgres
}

fail() {
    echo "40-postgres: $1 (SPILE_SEED=$seed)"
    tail -n 20 "$room"/*.log
    exit 1
}

wait_for() { # WHAT COMMAND...: until it holds, at most 60 s
    local what=$1 try
    shift
    for try in $(seq 600); do
        "$@" && return 0
        sleep 0.1
    done
    fail "$what"
}

as_postgres() { # COMMAND...: as a user that is not root, which initdb refuses
    if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

server=0 sink=0 publisher=0
clean_up() {
    local pid
    for pid in $sink $publisher $server; do
        [ "$pid" -eq 0 ] || kill -9 "$pid" 2>/dev/null || true
    done
    [ ! -d "$room/pg/data" ] || as_postgres "$postgres/pg_ctl" -D "$room/pg/data" -m immediate stop >/dev/null || true
    wait
    rm -rf "$room"
}

start_postgres() {
    mkdir "$room/pg"
    chmod 755 "$room"
    [ "$(id -u)" -ne 0 ] || chown postgres "$room/pg"
    (cd "$room/pg" && as_postgres "$postgres/initdb" -D "$room/pg/data" -U sink -A trust -E UTF8 --locale=C --no-sync) >"$room/initdb.log"
    # Its own socket, no port: nobody else's cluster is met. It outlives no machine here, so it need not sync.
    (cd "$room/pg" && as_postgres "$postgres/pg_ctl" -D "$room/pg/data" -l "$room/pg/postgres.log" -w start \
        -o "-c listen_addresses='' -k '$room/pg' -c fsync=off") >"$room/pg_ctl.log"
    database="host=$room/pg user=sink dbname=postgres"
}

ask() { # SQL: the answer, bare
    "$postgres/psql" -X -q -A -t -h "$room/pg" -U sink -d postgres -c "$1"
}

start_server() {
    "$bin/spiled" --data "$room/data" --listen 127.0.0.1:0 --admin 127.0.0.1:0 >"$room/ready" 2>"$room/spiled.log" &
    server=$!
    wait_for "spiled did not get ready" grep -q '^spiled ready ' "$room/ready"
    export SPILE_CONTEXT=$room/data/dev/operator.toml
}

start_sink() {
    "$bin/examples/postgres_sink" sink "$database" >>"$room/sink.log" 2>&1 &
    sink=$!
}

kill_sink() {
    kill -9 "$sink" 2>/dev/null || fail "the sink ended by itself"
    wait "$sink" 2>/dev/null || true
    sink=0
}

# The value of a key's version is 1000000 times the key's number and the version; the 40th of the first keys is none.
publish() {
    local round key version
    for round in $(seq "$rounds"); do
        for key in $(seq "$keys"); do
            for version in $(seq $(((round - 1) * a_round + 1)) $((round * a_round))); do
                if [ "$version" -eq 40 ] && [ "$key" -le 3 ]; then echo broken; else echo $((key * 1000000 + version)); fi
            done | "$bin/spile" --quiet publish sink/value --key "key-$key" --lines || return 1
        done
    done
}

settled() { # everything that was published has its outcome
    local shown
    shown=$("$bin/spile" --json group show sink)
    [[ $shown =~ \"lag\":0[,}] && $shown =~ \"in_flight\":0[,}] && $shown =~ \"waiting\":0[,}] ]]
}

same() { # WHAT SQL EXPECTED
    local found
    found=$(ask "$2")
    [ "$found" = "$3" ] || fail "$1: $found where $3 was right"
}

room=$(mktemp -d)
trap clean_up EXIT
install_tools
cargo build --locked --quiet --package spiled --package spile-cli
cargo build --locked --quiet --package spile-examples --example postgres_sink
bin=$CARGO_TARGET_DIR/debug
start_postgres
start_server
"$bin/spile" --quiet group create sink --filter 'sink/#' --max-attempts 1000 --backoff 50ms..500ms >/dev/null

publish 2>"$room/publish.log" &
publisher=$!
kills=0
while kill -0 "$publisher" 2>/dev/null; do
    start_sink
    sleep "0.$(printf '%03d' $((RANDOM % 900 + 60)))"
    kill_sink
    kills=$((kills + 1))
done
wait "$publisher" || fail "publishing failed"
publisher=0
start_sink
wait_for "the group does not come to its end: $("$bin/spile" --json group show sink)" settled
kill_sink

each=$((rounds * a_round))
total=$((keys * each - 3))
same "rows" "SELECT count(*) FROM readings" "$total"
same "wrong values" "SELECT count(*) FROM readings WHERE value <> 1000000 * substr(key, 5)::int + version" 0
same "keys that lack a version" \
    "SELECT count(*) FROM (SELECT key FROM readings GROUP BY key HAVING min(version) <> 1 OR max(version) <> $each OR count(*) < $each - 1) AS k" 0
same "latest values" "SELECT count(*) FROM latest WHERE version = $each AND value = 1000000 * substr(key, 5)::int + $each" "$keys"
dead=$("$bin/spile" --json dlq ls sink | grep -c '"version":40[,}]') || true
[ "$dead" -eq 3 ] || fail "$dead dead letters where 3 were right"
kill "$server"
wait "$server" || fail "spiled ended with $? on SIGTERM"
server=0
echo "result: $total rows right and $dead dead letters after $kills kills of the sink (SPILE_SEED=$seed)"
