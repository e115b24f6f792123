#!/bin/sh
# Prints testnet/compose.yaml as a stack for a Docker swarm:
#
#   testnet/compose/stack.sh | docker stack deploy --compose-file - tunic
#
# A swarm knows no order of starting (nodes wait for each other by themselves), and it would publish the client's ports on
# all addresses of all machines, where ports without a password must not be: both are left out, and with the ports what they
# are for, Prometheus and Grafana.
exec awk '
    { indent = match($0, /[^ ]/) }
    skipping && indent > skipped { next }
    { skipping = 0 }
    /^ *(depends_on|ports|build|restart|security_opt|prometheus|grafana|watch):/ { skipping = 1; skipped = indent; next }
    { sub(/, --publish-at, client-front, --status-port, "[^"]*"/, ""); print }
' "$(dirname "$0")/../compose.yaml"
