#!/usr/bin/env python3
"""Makes the Debian package that [package.metadata.deb] of a crate describes, with dpkg-deb alone.

Usage, from the root of the repository: deb.py relay|directory|client OUTPUT-FOLDER
Reads what cargo-deb reads of it: assets, maintainer scripts, depends, section, the description.
"""

import glob
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib

# What "$auto" stands for where nothing on this machine can look: what programs of Rust link to.
AUTO = "libc6, libgcc-s1"


def said(*command, cwd=None):
    """What a program prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def install(crate, root, source, target, mode):
    """Copies the files that `source` names below `root`. A target that ends in a slash is a folder."""
    is_program = source.startswith("target/release/")
    files = [source] if is_program else sorted(glob.glob(str(crate / source)))
    if not files:
        raise SystemExit(f"{crate}: there is no {source}")
    for file in files:
        place = root / target / os.path.basename(file) if target.endswith("/") else root / target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
        if is_program:
            subprocess.run(["strip", "--strip-unneeded", place], check=True)
        place.chmod(int(mode, 8))


def linked(root):
    """The packages whose libraries the programs below `root` need, in versions that are new enough."""
    programs = sorted(str(file) for file in root.glob("usr/bin/*"))
    with tempfile.TemporaryDirectory() as folder:
        control = pathlib.Path(folder, "debian", "control")
        control.parent.mkdir()
        control.touch()
        found = said("dpkg-shlibdeps", "-O", *programs, cwd=folder)
    return found.removeprefix("shlibs:Depends=") or AUTO


def control(package, workspace, deb, root):
    """The text of the control file."""
    size = sum(-(-file.stat().st_size // 1024) for file in root.rglob("*") if file.is_file())
    short, *rest = deb["extended-description"].strip().splitlines()
    lines = [
        f"Package: {package['name']}",
        f"Version: {workspace['version']}-1",
        f"Architecture: {said('dpkg', '--print-architecture')}",
        f"Maintainer: {deb['maintainer']}",
        f"Section: {deb['section']}",
        f"Priority: {deb['priority']}",
        f"Depends: {deb['depends'].replace('$auto', linked(root))}",
        f"Installed-Size: {size}",
        f"Description: {package['description']}",
        f" {short}",
        *(f" {line.strip()}" for line in rest),
    ]
    return "\n".join(lines) + "\n"


def main(daemon, output):
    workspace = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["workspace"]["package"]
    crate = pathlib.Path(daemon)
    package = tomllib.loads((crate / "Cargo.toml").read_text())["package"]
    deb = package["metadata"]["deb"]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "root")
        root.mkdir(mode=0o755)
        for asset in deb["assets"]:
            install(crate, root, *asset)
        text = control(package, workspace, deb, root)
        about = root / "DEBIAN"
        about.mkdir(mode=0o755)
        (about / "control").write_text(text)
        for script in sorted((crate / deb["maintainer-scripts"]).iterdir()):
            shutil.copyfile(script, about / script.name)
            (about / script.name).chmod(0o755)
        for place in [root, *root.rglob("*")]:
            if place.is_dir():
                place.chmod(0o755)
        subprocess.run(["dpkg-deb", "-Zxz", "-z3", "--root-owner-group", "--build", root, output], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    os.umask(0o022)
    main(*sys.argv[1:])
