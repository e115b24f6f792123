#!/usr/bin/env python3
"""A small HTTP/3 server and client (RFC 9114) with aioquic.

    http3.py serve ADDRESS PORT CERTIFICATE     makes the certificate, says `ready`, until it is ended
    http3.py fetch NAME PORT CERTIFICATE        fetches pages at 127.0.0.1:PORT, as NAME
"""

import asyncio
import datetime
import pathlib
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import names

SIZE = 500_000
REQUESTS = 10
LIMIT = 40


def make_certificate(file: pathlib.Path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names.WEB)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(names.WEB)]), False)
    certificate = builder.sign(key, hashes.SHA256())
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


class Server(QuicConnectionProtocol):
    http = None

    def quic_event_received(self, event) -> None:
        self.http = self.http or H3Connection(self._quic)
        for one in self.http.handle_event(event):
            if isinstance(one, HeadersReceived) and one.stream_ended:
                self.http.send_headers(one.stream_id, [(b":status", b"200")])
                self.http.send_data(one.stream_id, bytes(SIZE), end_stream=True)
        self.transmit()


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)
        self.got: dict[int, int] = {}
        self.ended: dict[int, asyncio.Future] = {}

    def fetch(self, path: str) -> asyncio.Future:
        stream = self._quic.get_next_available_stream_id()
        self.ended[stream] = asyncio.get_running_loop().create_future()
        head = {":method": "GET", ":scheme": "https", ":authority": names.WEB, ":path": path}
        self.http.send_headers(stream, [(key.encode(), value.encode()) for key, value in head.items()], True)
        self.transmit()
        return self.ended[stream]

    def quic_event_received(self, event) -> None:
        for one in self.http.handle_event(event):
            if isinstance(one, DataReceived):
                self.got[one.stream_id] = self.got.get(one.stream_id, 0) + len(one.data)
                if one.stream_ended:
                    self.ended[one.stream_id].set_result(self.got[one.stream_id])


async def run_server(address: str, port: int, file: pathlib.Path) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.certificate, configuration.private_key = make_certificate(file)
    await serve(address, port, configuration=configuration, create_protocol=Server)
    print("ready", flush=True)
    await asyncio.Future()


async def run_client(name: str, port: int, file: pathlib.Path) -> None:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
    configuration.load_verify_locations(str(file))
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Client) as client:
        sizes = await asyncio.wait_for(asyncio.gather(*(client.fetch("/") for _ in range(REQUESTS))), LIMIT)
    assert sizes == [SIZE] * REQUESTS, sizes
    print(f"{REQUESTS} answers of {SIZE} bytes")


if __name__ == "__main__":
    _, what, where, number, certificate_file = sys.argv
    run = run_server if what == "serve" else run_client
    asyncio.run(run(where, int(number), pathlib.Path(certificate_file)))
