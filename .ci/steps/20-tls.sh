#!/usr/bin/env bash
# What two strangers see of the devices' port: sslscan finds TLS 1.3 and AEAD ciphers and nothing else, and who listens
# on the wire (tshark) sees TLS 1.3 negotiated and nothing of what is published. That they would see it is shown in the
# same capture, by words said in clear before and behind it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export DEBIAN_FRONTEND=noninteractive CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"

again() { # COMMAND...: up to three times, for what needs the network
    local try
    for try in 1 2 3; do
        "$@" && return 0
        sleep $((try * 5))
    done
    return 1
}

install_tools() {
    local missing=()
    command -v sslscan >/dev/null || missing+=(sslscan)
    command -v tshark >/dev/null || missing+=(tshark)
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    [ "${#missing[@]}" -eq 0 ] && return 0
    again apt-get -q -y -o Acquire::Retries=3 update
    again apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends "${missing[@]}"
}

fail() {
    echo "20-tls: $1"
    exit 1
}

wait_for() { # PID WHAT COMMAND...: until it holds, at most 20 s, while the process lives
    local pid=$1 what=$2 try
    shift 2
    for try in $(seq 200); do
        "$@" && return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$room"/*.log
    fail "$what"
}

server=0 capture=0
clean_up() {
    [ "$capture" -eq 0 ] || kill "$capture" 2>/dev/null || true
    [ "$server" -eq 0 ] || kill "$server" 2>/dev/null || true
    wait
    rm -rf "$room"
}

start_server() { # FOLDER ARGUMENTS...: sets server and port
    local folder=$1
    shift
    "$bin/spiled" --data "$folder" --listen 127.0.0.1:0 --admin 127.0.0.1:0 "$@" >"$room/ready" 2>"$room/spiled.log" &
    server=$!
    wait_for "$server" "spiled did not get ready" grep -q '^spiled ready ' "$room/ready"
    port=$(sed -n 's/^spiled ready .*edge=127\.0\.0\.1:\([0-9]*\).*/\1/p' "$room/ready")
    [ -n "$port" ] || fail "no port in: $(cat "$room/ready")"
}

stop_server() {
    kill "$server"
    wait "$server" || fail "spiled ended with $? on SIGTERM"
    server=0
}

scan() {
    local line
    # As it is it offers no ALPN, and is refused whatever it tries.
    sslscan --no-colour --no-ciphersuites --connect-timeout=5 "127.0.0.1:$port" >"$room/scan"
    if grep -Eq '^(SSL|TLS)v[0-9.]+ *enabled' "$room/scan"; then
        cat "$room/scan"
        fail "who does not offer spile/1 is let through"
    fi
    LD_PRELOAD="$room/alpn.so" sslscan --no-colour --no-check-certificate --connect-timeout=5 "127.0.0.1:$port" >"$room/scan"
    for line in 'SSLv2 *disabled' 'SSLv3 *disabled' 'TLSv1.0 *disabled' 'TLSv1.1 *disabled' 'TLSv1.2 *disabled' 'TLSv1.3 *enabled'; do
        grep -Eq "^$line" "$room/scan" || { cat "$room/scan"; fail "sslscan does not say: $line"; }
    done
    ciphers=$(awk '/^(Preferred|Accepted)/ { print $2, $5 }' "$room/scan")
    [ -n "$ciphers" ] || { cat "$room/scan"; fail "sslscan found no cipher"; }
    if grep -Ev '^TLSv1\.3 TLS_(AES_(128|256)_GCM_SHA(256|384)|CHACHA20_POLY1305_SHA256)$' <<<"$ciphers"; then
        fail "sslscan found a cipher that is not an AEAD of TLS 1.3"
    fi
}

listen() { # FILE: captures the port's traffic into it
    tshark -q -i lo -f "tcp port $port" -w "$1" >/dev/null 2>"$room/tshark.log" &
    capture=$!
    wait_for "$capture" "tshark captures nothing" hears "$1" "begin-$payload"
}

# Says a word in clear to the port and looks whether it was heard: so is all that was sent before it.
hears() { # FILE WORD
    (exec 3<>"/dev/tcp/127.0.0.1/$port" && echo "$2" >&3) 2>/dev/null
    grep -aq "$2" "$1" 2>/dev/null
}

hear_out() { # FILE
    wait_for "$capture" "tshark stopped capturing" hears "$1" "end-$payload"
    kill -INT "$capture"
    wait "$capture" || true
    capture=0
}

install_tools
cargo build --locked --quiet --package spiled --package spile-cli
bin=$CARGO_TARGET_DIR/debug
room=$(mktemp -d)
trap clean_up EXIT
cc -shared -fPIC -O1 -o "$room/alpn.so" .ci/steps/20-tls-alpn.c -ldl
payload=nobody-reads-this-$RANDOM$RANDOM$RANDOM

start_server "$room/data"
scan
listen "$room/tls.pcap"
"$bin/spile" --context "$room/data/dev/device.toml" publish telemetry/secret "secret-$payload"
hear_out "$room/tls.pcap"
stop_server
hellos=$(tshark -r "$room/tls.pcap" -d "tcp.port==$port,tls" -Y 'tls.handshake.type == 2' -T fields -e tls.handshake.extensions.supported_version 2>/dev/null)
[ -n "$hellos" ] || fail "no ServerHello was captured"
for version in $hellos; do
    [ "$version" = 0x0304 ] || fail "negotiated $version, which is not TLS 1.3"
done
if grep -aq "secret-$payload" "$room/tls.pcap" || grep -aq 'telemetry/secret' "$room/tls.pcap"; then
    fail "what was published stands in clear on the wire"
fi
echo "result: only TLS 1.3, $(wc -l <<<"$ciphers") AEAD ciphers; of a publish nothing is in clear in $(stat -c %s "$room/tls.pcap") captured bytes"
