#!/bin/bash
# Builds the image's file system in testnet/compose/prebuilt: the static program, the names under which it is one of the
# daemons, and the folder where volumes are mounted.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(rustc -vV | sed -n 's/^host: //p')
# With --target, the flags are not for what runs while building: macros cannot be static.
RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked -p tunic-testnet --target "$target"

root=testnet/compose/prebuilt
# The folder itself is in every clone: a builder without BuildKit looks into it whatever it builds.
mkdir -p "$root"
find "$root" -mindepth 1 ! -name .gitkeep -delete
mkdir -p "$root/var/lib/tunic"
strip -o "$root/tunic-testnet" "${CARGO_TARGET_DIR:-target}/$target/release/tunic-testnet"
for daemon in tunic-relay tunic-directory tunic-client; do
    ln -s tunic-testnet "$root/$daemon"
done
