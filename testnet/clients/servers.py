#!/usr/bin/env python3
"""What the programs talk to, in `world`: a web server with pages, uploads and a git repository, echo over TCP and UDP,
a name server. Whoever comes straight from `home`, and not from an exit, is turned away and counted.

Says `ready` when all ports are open, and ends when its standard input closes.
"""

import hashlib
import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading

import names
import ports
from place import HOME_ADDRESS, HOME_V6, WORLD_ADDRESS

RESOURCES = 60
PAGE = """<!doctype html><html><head><title>loading</title><link rel="icon" href="data:,">
<style>img { width: 60px; height: 40px; border: 1px solid #ccc }</style></head>
<body><h1>A page with %d resources</h1><p id="count"></p>%s
<script>
let done = 0, failed = 0;
const all = document.images;
const check = () => {
  document.getElementById('count').textContent = done + ' loaded, ' + failed + ' failed';
  if (done + failed === all.length) document.title = done + ' loaded, ' + failed + ' failed';
};
for (const image of all) {
  if (image.complete && image.naturalWidth) done++;
  else { image.onload = () => { done++; check() }; image.onerror = () => { failed++; check() }; }
}
check();
</script></body></html>"""
IMAGE = '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="40"><rect width="60" height="40" fill="hsl(%d,60%%,60%%)"/><text x="20" y="26">%d</text></svg>'

straight: list[str] = []


def is_straight(peer: str, what: str) -> bool:
    """Whether this comes from the person's own machine. If so, it is counted."""
    if peer.removeprefix("::ffff:") not in (HOME_ADDRESS, HOME_V6):
        return False
    straight.append(what)
    return True


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def reply(self, status: int, body: bytes, kind: str = "text/plain", allow: str = "") -> None:
        """`allow`: which pages of other sites may read it."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if allow:
            self.send_header("Access-Control-Allow-Origin", allow)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self) -> None:
        if is_straight(self.client_address[0], "HTTP"):
            return self.reply(403, b"not through an exit")
        path = self.path.split("?")[0]
        if path.startswith("/git/"):
            return self.git()
        if path == "/asked-by":
            self.body()
            return self.reply(200, self.headers.get("Origin", "nobody").encode(), allow="*")
        if self.command in ("PUT", "POST"):
            return self.reply(200, hashlib.sha256(self.body()).hexdigest().encode())
        if path in ("/", "/index.html"):
            images = "".join(f'<img src="/image/{number}">' for number in range(RESOURCES))
            return self.reply(200, (PAGE % (RESOURCES, images)).encode(), "text/html")
        if path.startswith("/image/"):
            number = int(path.removeprefix("/image/"))
            return self.reply(200, (IMAGE % (number * 6, number)).encode(), "image/svg+xml")
        if path.startswith("/bytes/"):
            return self.reply(200, bytes(int(path.removeprefix("/bytes/"))), "application/octet-stream")
        self.reply(404, b"no such page")

    do_GET = do_HEAD = do_PUT = do_POST = handle_any

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return whole

    def git(self) -> None:
        """CGI (RFC 3875) for `git http-backend`."""
        path, _, query = self.path.partition("?")
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": os.environ["TUNIC_GIT_ROOT"],
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path.removeprefix("/git"),
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_USER": "tester",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.body() if self.command == "POST" else b""
        environment["CONTENT_LENGTH"] = str(len(body))
        backend = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True)
        head, _, content = backend.stdout.partition(b"\r\n\r\n")
        headers = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n") if line)
        self.reply(int(headers.pop("Status", "200").split()[0]), content, headers["Content-Type"])


class Quiet:
    def handle_error(self, request, client_address) -> None:
        """Programs that leave early, as load generators do at their end, are nothing to speak of."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class DualStack(Quiet, http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024
    daemon_threads = True


class Threads(Quiet, socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if is_straight(self.client_address[0], "TCP"):
            return
        while data := self.request.recv(65_536):
            self.request.sendall(data)


class AnswerAtEnd(socketserver.BaseRequestHandler):
    """Says how much it got, once the other side has closed its half."""

    def handle(self) -> None:
        total = 0
        while data := self.request.recv(65_536):
            total += len(data)
        self.request.sendall(b"%d bytes" % total)


class CloseFirst(socketserver.BaseRequestHandler):
    """Closes its half at once, and remembers what it is told behind that."""

    heard: list[str] = []

    def handle(self) -> None:
        self.request.sendall(b"hello")
        self.request.shutdown(socket.SHUT_WR)
        said = b""
        while data := self.request.recv(65_536):
            said += data
        self.heard.append(said.decode())


class Report(socketserver.StreamRequestHandler):
    """For the driver, which may come straight."""

    server_name_server: names.NameServer

    def handle(self) -> None:
        asked = [asker for asker in self.server_name_server.askers if asker == HOME_ADDRESS]
        report = {"straight": straight, "dns_from_home": len(asked), "heard": CloseFirst.heard}
        self.wfile.write(json.dumps(report).encode())


def echo_udp(address: str) -> None:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, ports.UDP_ECHO))
    while True:
        data, sender = udp.recvfrom(65_535)
        if not is_straight(sender[0], "UDP"):
            udp.sendto(data, sender)


def main() -> None:
    Report.server_name_server = names.NameServer(WORLD_ADDRESS)
    try:
        web = DualStack(("::", ports.WEB), Web)
    except OSError:
        DualStack.address_family = socket.AF_INET  # a kernel without IPv6
        web = DualStack((WORLD_ADDRESS, ports.WEB), Web)
    servers = [web]
    handlers = {ports.ECHO: Echo, ports.AT_END: AnswerAtEnd, ports.CLOSE_FIRST: CloseFirst, ports.REPORT: Report}
    servers += [Threads((WORLD_ADDRESS, port), handler) for port, handler in handlers.items()]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=echo_udp, args=(WORLD_ADDRESS,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
