#!/bin/bash
# Installs the programs with which the port for applications is tried, those that are missing, from Debian's packages and
# Python's. Fails if one of them cannot be had; the others are installed all the same.
set -uo pipefail

# PROGRAM PACKAGE
wanted='curl curl
wget wget
git git
ssh openssh-client
sshd openssh-server
nc netcat-openbsd
torsocks torsocks
proxychains4 proxychains4
tor-resolve tor
dig bind9-dnsutils
wrk wrk
chromium chromium
chromedriver chromium-driver
ncat ncat
python3 python3
ip iproute2'

PATH=$PATH:/usr/sbin:/sbin
packages=()
while read -r program package; do
    command -v "$program" >/dev/null || packages+=("$package")
done <<<"$wanted"
# `python3 -m venv` is a package of its own in Debian.
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)

status=0
if [ ${#packages[@]} -gt 0 ]; then
    sudo=''
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing: ${packages[*]}"
    $sudo apt-get update -qq
    # Services that packages would start (tor, sshd) are not wanted here.
    for package in "${packages[@]}"; do
        $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$package" ||
            { echo "cannot be installed: $package" >&2; status=1; }
    done
fi
python3 "$(dirname "$0")/environment.py" || status=1
exit $status
