#!/bin/bash
# The lab in CI: its classifiers' tests, then a smoke run with its controls. What it needs and does not find is told on a
# line that begins with "skipped: "; that is no failure.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
    echo "skipped: the linkability lab ($1)"
    exit 0
}

has_packages() {
    "$1" -c 'import numpy, scipy, sklearn' 2>/dev/null
}

[ "$(id -u)" = 0 ] || skip 'network namespaces take root'
command -v ip >/dev/null && command -v tc >/dev/null || skip 'iproute2 is not installed'
probe="lab-probe-$$"
ip netns add "$probe" 2>/dev/null || skip 'network namespaces cannot be made here'
ip netns del "$probe"
if ! has_packages /usr/bin/python3; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-sklearn; } >/dev/null 2>&1 ||
        skip 'python3-sklearn cannot be installed'
fi
has_packages /usr/bin/python3 || skip 'python3 has no sklearn'

/usr/bin/python3 -m unittest discover -q -s testnet/lab
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
target/release/tunic-testnet lab --smoke --link unlimited --python /usr/bin/python3 --out "$out"
cat "$out/table.md"
