"""What a class costs: bytes on the wire of a client's line, and time."""

import numpy as np

import traces


def costs(trace: traces.Trace, truth: dict, visits: list[dict]) -> dict:
    """Sums over all visits of one set of clients.

    `busy` counts what passed between the beginning and the end of a visit, `window` what passed in the whole time that
    is looked at, `idle` what passed in silence. Payload is what the program sent and received.
    """
    window_us = truth["window_ms"] * 1_000
    payload = sum(visit["payload"] for visit in visits)
    busy = window = 0
    for visit in visits:
        link = traces.client_link(truth, visit)
        busy += wire_bytes(trace, link, visit["start_us"], visit["end_us"])
        window += wire_bytes(trace, link, visit["start_us"], visit["start_us"] + window_us)
    idle = [
        wire_bytes(trace, traces.client_link(truth, visit), round["idle_us"], round["idle_us"] + truth["idle_ms"] * 1_000)
        for visit, round in ((visit, truth["rounds"][visit["round"]]) for visit in visits)
    ]
    first_byte = [(visit["first_byte_us"] - visit["start_us"]) / 1e3 for visit in visits]
    completion = [(visit["end_us"] - visit["start_us"]) / 1e3 for visit in visits]
    return {
        "busy_bytes_per_payload_byte": busy / payload,
        "window_bytes_per_payload_byte": window / payload,
        "idle_bytes_per_second": float(np.mean(idle)) / (truth["idle_ms"] / 1e3),
        "payload_bytes": payload,
        "first_byte_ms": spread(first_byte),
        "completion_ms": spread(completion),
    }


def wire_bytes(trace: traces.Trace, link: int, begin_us: int, end_us: int) -> int:
    return int(trace.between(link, begin_us, end_us)["bytes"].sum())


def spread(values: list[float]) -> dict:
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}
