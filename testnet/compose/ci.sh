#!/bin/bash
# A network in containers, from building the image to removing everything: pages through the published port, the status page,
# the separation of the networks, a lost relay and a lost authority, more relays, and the same file as a stack on a swarm.
#
# Installs Docker from Debian's packages and starts an engine of its own where none runs. What it needs and does not find
# is told on a line that begins with "skipped: "; that is no failure.
set -euo pipefail
cd "$(dirname "$0")/../.."

export TUNIC_IMAGE=prebuilt COMPOSE_PROJECT_NAME=tunic-ci-$$
export TUNIC_SOCKS_PORT=${TUNIC_SOCKS_PORT:-19150} TUNIC_STATUS_PORT=${TUNIC_STATUS_PORT:-19152}
PAGE=http://web:8080/
BYTES=100000000
PATIENCE_S=120
# What docs/private-network.md promises of the first page. A busy machine is no failure; it is told.
PROMISED_S=15
engine=''
engine_dir=''
forward_policy=''
in_swarm=''
started=''
notes=$(mktemp)

skip() {
    echo "skipped: $1"
    exit 0
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose -f testnet/compose.yaml "$@"
    else
        docker-compose --log-level ERROR -f testnet/compose.yaml "$@"
    fi
}

finish() {
    local status=$?
    rm -f "$notes"
    [ -z "$in_swarm" ] || docker swarm leave --force >/dev/null 2>&1 || true
    if [ -n "$started" ]; then
        [ "$status" = 0 ] || compose logs --no-color --tail 20 2>&1 || true
        compose down -v --timeout 5 >/dev/null 2>&1 || true
    fi
    if [ -n "$engine" ]; then
        kill "$engine" 2>/dev/null || true
        tail --pid="$engine" -f /dev/null
        # A swarm leaves the namespaces of its networks mounted.
        umount "$engine_dir"/exec/netns/* 2>/dev/null || true
        rm -rf "$engine_dir"
    fi
    # The engine closes forwarding for everything else on this machine.
    [ -z "$forward_policy" ] || iptables $forward_policy 2>/dev/null || true
}
trap finish EXIT

say() {
    printf '%5.1f s  %s\n' "$(since "$begun")" "$*"
}

since() { # SECONDS-SINCE-THE-EPOCH
    awk -v then="$1" -v now="$EPOCHREALTIME" 'BEGIN { print now - then }'
}

# Waits until the command succeeds.
until_works() { # WHAT COMMAND…
    local what=$1 limit=$((SECONDS + PATIENCE_S))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $limit ] || { echo "waited $PATIENCE_S s in vain until $what" >&2; return 1; }
        sleep 0.2
    done
}

page() {
    curl -sS --fail --max-time 20 --socks5-hostname "127.0.0.1:$TUNIC_SOCKS_PORT" "$PAGE"
}

# Comes whole, however it comes.
download() {
    local got
    got=$(curl -sS --fail --max-time 60 --socks5-hostname "127.0.0.1:$TUNIC_SOCKS_PORT" "${PAGE}bytes/$BYTES" | wc -c)
    [ "$got" = "$BYTES" ] || { echo "$got bytes came of $BYTES" >&2; return 1; }
}

status() {
    curl -sS --fail --max-time 20 "http://127.0.0.1:$TUNIC_STATUS_PORT/api/v1/status"
}

client_is_ready() {
    status | grep -Eq '"percent": ?100\b'
}

# The container of the guard that carries a stream just now: a relay's nickname is how its container's number begins.
guard_in_use() {
    status | python3 -c '
import json, sys
guards = [circuit["hops"][0]["relay"] for circuit in json.load(sys.stdin)["circuits"]["shown"] if circuit["streams"]]
print(guards[0] if guards else sys.exit(1))'
}

containers() { # SERVICE
    compose ps -q "$1"
}

first() { # SERVICE
    local found
    mapfile -t found < <(containers "$1")
    echo "${found[0]}"
}

healthy() { # SERVICE
    local container count=0
    for container in $(containers "$1"); do
        [ "$(docker inspect -f '{{.State.Health.Status}}' "$container")" != healthy ] || count=$((count + 1))
    done
    echo "$count"
}

are_healthy() { # COUNT SERVICE
    [ "$(healthy "$2")" -ge "$1" ]
}

address() { # CONTAINER NETWORK
    docker inspect -f "{{(index .NetworkSettings.Networks \"${COMPOSE_PROJECT_NAME}_$2\").IPAddress}}" "$1"
}

fetches() { # CONTAINER URL
    docker exec "$1" /tunic-testnet node fetch "$2" >/dev/null 2>&1
}

OF_PROJECT="label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"

# The volumes of its containers: they have no name of the project's, and no label.
volumes() {
    docker ps -aq --filter "$OF_PROJECT" | xargs docker inspect -f '{{range .Mounts}}{{println .Name}}{{end}}' | grep .
}

have_engine() {
    local sudo=() missing=()
    # A client without an engine does not do, nor an engine without a client.
    command -v docker >/dev/null && { docker info >/dev/null 2>&1 || command -v dockerd >/dev/null; } || missing+=(docker.io)
    command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || missing+=(docker-compose)
    if [ ${#missing[@]} -gt 0 ]; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
            skip 'containers (Docker cannot be installed)'
    fi
    docker info >/dev/null 2>&1 && return
    forward_policy=$(iptables -S FORWARD 2>/dev/null | head -1) || true
    engine_dir=$(mktemp -d)
    export DOCKER_HOST="unix://$engine_dir/docker.sock"
    dockerd --host "$DOCKER_HOST" --data-root "$engine_dir/data" --exec-root "$engine_dir/exec" --pidfile "$engine_dir/pid" \
        >"$engine_dir/log" 2>&1 &
    engine=$!
    local limit=$((SECONDS + 60))
    until docker info >/dev/null 2>&1; do
        [ -e "/proc/$engine" ] && [ $SECONDS -lt $limit ] || skip "containers (no Docker engine comes up: $(tail -1 "$engine_dir/log"))"
        sleep 0.2
    done
}

# What relays show on the network that leads nowhere, as this machine's bridge sees it: every panel has an answer.
panels_have_answers() {
    local container targets=()
    for container in $(containers relay) $(containers exit); do
        targets+=("$(address "$container" tunic):9101")
    done
    relay/monitoring/ask_panels.py "${targets[@]}"
}

[ "$(id -u)" = 0 ] || docker info >/dev/null 2>&1 || skip 'containers (a Docker engine takes root)'
begun=$EPOCHREALTIME
have_engine
compose --profile monitoring config >/dev/null
say 'the file is valid, with monitoring'
say 'the engine runs'
if git rev-parse HEAD >/dev/null 2>&1; then
    clean=$(git archive HEAD | DOCKER_BUILDKIT=0 docker build -q -f testnet/compose/Dockerfile --target prebuilt - 2>"$notes") ||
        { cat "$notes" >&2; exit 1; }
    docker rmi "$clean" >/dev/null
    say 'a clean clone has what the stages before the last look for'
else
    echo 'skipped: a clean clone (no git)'
fi
[ -n "${TUNIC_PREBUILT:-}" ] || testnet/compose/prebuild.sh
compose build -q 2>/dev/null
size=$(docker image inspect -f '{{.Size}}' tunic-testnet)
say "the image is built: $((size / 1000000)) MB"
[ "$size" -le 25000000 ]

begun=$EPOCHREALTIME
started=yes
compose up -d >/dev/null 2>&1
until_works 'a page comes' page
took=$(since "$begun")
say "the first page, within the $PROMISED_S s that are promised: $(awk -v s="$took" -v p=$PROMISED_S 'BEGIN { print s <= p ? "yes" : "NO" }')"
all_are_healthy() {
    are_healthy 1 client && are_healthy 5 relay && are_healthy 2 exit && are_healthy 1 authority1
}
until_works 'all are healthy' all_are_healthy
say 'everything is healthy'
download
say "$BYTES bytes"

client_is_ready
say 'the status page'

relay=$(first relay)
exit=$(first exit)
# By its address: its name is known to those who share a network with it only.
web="http://$(address "$(first web)" outside):8080/"
for who in relay client authority1; do
    ! fetches "$(first $who)" "$web" || { echo "$who reaches the web by itself" >&2; exit 1; }
done
fetches "$exit" "$web"
[ "$(docker network inspect -f '{{.Internal}}' "${COMPOSE_PROJECT_NAME}_tunic")" = true ]
say 'only exits reach the web'
docker inspect -f '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}' "$relay" | grep -qx '65532:65532 true \[ALL\]'

if command -v prometheus >/dev/null; then
    panels_have_answers
    say 'relays show figures to Prometheus'
else
    echo 'skipped: figures of containers (prometheus is not installed)'
fi

curl -sS --limit-rate 1M --socks5-hostname "127.0.0.1:$TUNIC_SOCKS_PORT" "${PAGE}bytes/$BYTES" >/dev/null 2>&1 &
slow_download=$!
until_works 'the download shows on the status page' guard_in_use
guard=$(guard_in_use)
docker kill "$guard" >/dev/null
until_works 'a page comes without that relay' page
kill "$slow_download" 2>/dev/null || true
wait "$slow_download" 2>/dev/null || true
docker kill "$(containers authority2)" >/dev/null
until_works 'a page comes without that authority' page
download
say 'the guard in use and an authority are killed, and it goes on'
compose up -d --no-deps --scale relay=10 relay >/dev/null 2>&1
until_works 'ten relays are listed and answer' are_healthy 10 relay
say 'ten relays are listed and answer, by two authorities of three'
compose up -d --no-deps authority2 >/dev/null 2>&1
until_works 'the authority is back' are_healthy 1 authority2
say 'the authority is back'
page >/dev/null
had=$(volumes)
[ "$(wc -l <<<"$had")" -ge 14 ]
compose down -v --timeout 10 >/dev/null 2>&1
started=''
left=$(docker ps -aq --filter "$OF_PROJECT"; docker network ls -q --filter "$OF_PROJECT")
left+=$(docker volume ls -q | grep -xF "$had" || true)
[ -z "$left" ] || { printf 'left after down:\n%s\n' "$left" >&2; exit 1; }
say 'down: nothing is left'

begun=$EPOCHREALTIME
docker swarm init --advertise-addr 127.0.0.1 >/dev/null 2>&1 || { echo 'skipped: containers on a swarm (this engine cannot make one)'; exit 0; }
in_swarm=yes
testnet/compose/stack.sh | docker stack deploy --resolve-image never --compose-file - tunic >/dev/null 2>&1
page_on_swarm() {
    local found
    mapfile -t found < <(docker ps -q --filter label=com.docker.swarm.service.name=tunic_client)
    [ ${#found[@]} -gt 0 ] && docker exec "${found[0]}" /tunic-testnet node fetch --socks 127.0.0.1:9150 "$PAGE"
}
until_works 'a page comes on the swarm' page_on_swarm
say 'the first page on a swarm'
docker stack rm tunic >/dev/null 2>&1
