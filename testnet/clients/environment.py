"""The Python packages that some cases use, in an environment of their own under target/."""

import pathlib
import subprocess
import sys

PACKAGES = ["requests[socks]", "aiohttp", "aiohttp-socks", "aioquic"]
INSTALL_TIMEOUT = 180


def environment_of(repository: pathlib.Path) -> pathlib.Path:
    return repository / "target" / "clients-venv"


def python_environment(repository: pathlib.Path) -> bool:
    """Makes it if it is not there, and says whether it is. Where packages cannot be had, the cases that need them say so."""
    folder = environment_of(repository)
    if (folder / "complete").exists():
        return True
    commands = [
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"no Python packages: {error}", file=sys.stderr)
        return False
    (folder / "complete").touch()
    return True


if __name__ == "__main__":
    sys.exit(0 if python_environment(pathlib.Path(__file__).resolve().parent.parent.parent) else 1)
