"""The lines that README.md tells people to type."""

import pathlib
import re

from harness import Site, case, names

README = pathlib.Path(__file__).resolve().parent.parent.parent.parent / "README.md"
# ssh and browsers want more than a line here: they have cases of their own, with the same options.
ELSEWHERE = ("ssh ", "chromium ")


@case("README, the lines for programs", "curl", "wget", "git", "torsocks", "tor-resolve")
def lines(site: Site) -> str:
    section = README.read_text().partition("## Point your programs at it")[2].partition("\n## ")[0]
    block = section.partition("```console\n")[2].partition("```")[0]
    typed = [line for line in block.splitlines() if not line.startswith(ELSEWHERE)]
    assert len(typed) >= 5, typed
    folder = site.scratch / "readme"
    folder.mkdir()
    host, _, port = site.socks.rpartition(":")
    site.run("git", "init", "--quiet", "--bare", site.scratch / "git" / "readme.git")
    for line in typed:
        line = line.replace("127.0.0.1:9150", site.socks).replace("--port 9150", f"--port {port}")
        line = line.replace("example.com/project.git", f"{names.WEB}/git/readme.git").replace("example.com", names.WEB)
        assert not re.search(r"9150|example", line), line
        site.run("bash", "-c", line, cwd=folder)
    assert "resources" in (folder / "page.html").read_text()
    return f"{len(typed)} lines"
