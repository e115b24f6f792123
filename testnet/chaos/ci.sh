#!/bin/bash
# Chaos in CI: relays in use and authorities are killed, cut off and slowed down while a client downloads, and it has to
# recover by itself; and an interrupted run leaves nothing behind. (Wrong clocks, full disks and relays that stand still are played by
# hand: docs/private-network.md.) What is needed and not found is told on a line that begins with "skipped: ".
#   testnet/chaos/ci.sh [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/../.."
program=${1:-target/release/tunic-testnet}

skip() {
    echo "skipped: chaos ($1)"
    exit 0
}

[ "$(id -u)" = 0 ] || skip 'needs root'
command -v ip >/dev/null && command -v tc >/dev/null && command -v pgrep >/dev/null || skip 'iproute2 or procps is not installed'
unshare --mount --net true 2>/dev/null || skip 'namespaces cannot be made here'

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export TMPDIR=$place
# Relays of a test network have a thread each where there are few cores; here they have several, as those of operators do.
export TOKIO_WORKER_THREADS=4

nothing_is_left() {
    local left
    left=$(ls /run/netns 2>/dev/null | grep '^chaos' || true)
    [ -z "$left" ] || { echo "namespaces are left: $left" >&2; return 1; }
    left=$(ls "$place")
    [ -z "$left" ] || { echo "files are left: $left" >&2; return 1; }
    left=$(pgrep --full "role .* --config $place" || true)
    [ -z "$left" ] || { echo "processes are left: $left" >&2; return 1; }
}

"$program" chaos --only kill,partition,slow --seconds 2
nothing_is_left

"$program" chaos --only disk --seconds 60 2>"$place.log" &
run=$!
trap 'rm -rf "$place" "$place.log"; kill "$run" 2>/dev/null || true' EXIT
for _ in $(seq 600); do
    grep -q 'first byte' "$place.log" && break
    sleep 0.1
done
kill -INT "$run"
wait "$run" && { echo 'an interrupted run reports success' >&2; exit 1; }
grep -q 'error: interrupted' "$place.log"
nothing_is_left
