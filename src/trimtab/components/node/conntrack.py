"""Forgetting connections whose endpoint went: UDP has no end of its own, and a client that keeps its port would be sent
to the dead endpoint for as long as it talks.

    rtnetlink's sibling ctnetlink (NETLINK_NETFILTER): dump the table, pick what is translated wrongly, delete by tuple

Numbers: `linux/netfilter/nfnetlink.h`, `nfnetlink_conntrack.h`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

NETLINK_NETFILTER = 12
CTNETLINK = 1 << 8
MSG_NEW, MSG_GET, MSG_DELETE = 0, 1, 2
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_TYPE_MASK, NLA_F_NESTED = 0x3FFF, 0x8000
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY = 1, 2
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST = 1, 2
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
READ_BYTES = 1 << 16
ANSWER_S = 2.0
UDP = 17

Address = tuple[str, int]


@dataclass(frozen=True)
class Flow:
    """One tracked flow: whom the client asked, who answers, and the kernel's own name for it."""

    protocol: int
    asked: Address
    answers: Address
    tuple_bytes: bytes


def forget_strayed(valid: Mapping[Address, frozenset[Address]]) -> int:
    """Deletes UDP flows to an address of `valid` that are answered by none of its endpoints; returns how many.

    valid: service address and port -> its endpoints. Blocks for the time of one dump, milliseconds; needs root.

    Raises:
        OSError: the kernel tracks no connections, or refuses.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as link:
        link.settimeout(ANSWER_S)
        link.bind((0, 0))
        strayed = [
            flow
            for flow in _flows(link)
            if flow.protocol == UDP and flow.asked in valid and flow.answers not in valid[flow.asked]
        ]
        for number, flow in enumerate(strayed, 2):
            body = _attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, flow.tuple_bytes)
            link.send(_message(MSG_DELETE, NLM_F_REQUEST | NLM_F_ACK, number, body))
            _await_ack(link)
    return len(strayed)


def _flows(link: socket.socket) -> Iterator[Flow]:
    link.send(_message(MSG_GET, NLM_F_REQUEST | NLM_F_DUMP, 1, b""))
    while True:
        data = link.recv(READ_BYTES)
        while data:
            size, kind = struct.unpack_from("=IH", data)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                _raise(data)
            elif kind == CTNETLINK | MSG_NEW:
                flow = _flow(data[20:size])
                if flow is not None:
                    yield flow
            data = data[(size + 3) & ~3 :]


def _flow(body: bytes) -> Flow | None:
    parts = dict(_attributes(body))
    asked, answered = parts.get(CTA_TUPLE_ORIG), parts.get(CTA_TUPLE_REPLY)
    if asked is None or answered is None:
        return None
    protocol, to = _end(asked, CTA_IP_V4_DST, CTA_PROTO_DST_PORT)
    _, by = _end(answered, CTA_IP_V4_SRC, CTA_PROTO_SRC_PORT)
    return Flow(protocol, to, by, asked)


def _end(body: bytes, address: int, port: int) -> tuple[int, Address]:
    parts = dict(_attributes(body))
    ip = dict(_attributes(parts.get(CTA_TUPLE_IP, b"")))
    proto = dict(_attributes(parts.get(CTA_TUPLE_PROTO, b"")))
    number = struct.unpack("!H", proto[port])[0] if port in proto else 0
    text = socket.inet_ntoa(ip[address]) if address in ip else ""
    return proto.get(CTA_PROTO_NUM, b"\0")[0], (text, number)


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    while len(body) >= 4:
        size, kind = struct.unpack_from("=HH", body)
        yield kind & NLA_TYPE_MASK, body[4:size]
        body = body[(size + 3) & ~3 :]


def _attribute(kind: int, body: bytes) -> bytes:
    size = 4 + len(body)
    return struct.pack("=HH", size, kind) + body + bytes(-size % 4)


def _message(kind: int, flags: int, number: int, body: bytes) -> bytes:
    size = 20 + len(body)
    return struct.pack("=IHHIIBBH", size, CTNETLINK | kind, flags, number, 0, socket.AF_INET, 0, 0) + body


def _await_ack(link: socket.socket) -> None:
    """A flow that ended by itself in between is no failure."""
    try:
        _raise(link.recv(READ_BYTES))
    except FileNotFoundError:
        return


def _raise(data: bytes) -> None:
    code = -struct.unpack_from("=i", data, 16)[0]
    if code:
        raise OSError(code, "the kernel's connection tracking refused")
