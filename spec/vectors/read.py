#!/usr/bin/env python3
"""Reads every vector with what protocol.md says and nothing else: a second implementation, to show that the words suffice.

The structs' fields, types, defaults and limits are read from the tables of protocol.md; the hot layouts and the enums are
written here from its clauses. `python3 spec/vectors/read.py`; the last line says how many cases agree.
"""

import json
import pathlib
import re
import sys
import zlib

HERE = pathlib.Path(__file__).parent
SPEC = (HERE / "../protocol.md").read_text()
CODES = {int(code): name for code, name in re.findall(r"^\| (\d{3}) \| ([a-z-]+) \|", SPEC, re.M)}
MALFORMED, DAMAGED, TOO_LARGE, UNKNOWN_KIND = 100, 101, 102, 103
ROLES = ["Device", "User", "Service", "Operator", "Edge"]
# Section, kind, message from the client, message from the server (where it is another).
KINDS = {
    1: ("4.1", "Hello"), 2: ("4.2", "Welcome"), 3: ("4.3", "Auth"), 4: ("4.4", "Ping"), 5: ("4.5", "GoAway"),
    6: ("4.6", "Fault"), 8: ("5.1", "Lane", "LaneAnswer"), 9: ("5.2", "Bind"), 13: ("6.2", "Credit"),
    16: ("7.1", "Open", "Opened"), 18: ("7.3", "Seal"), 19: ("7.4", "Abort"), 24: ("8.1", "Subscribe"),
    26: ("8.3", "Settle"), 27: ("8.4", "End"), 32: ("9.1", "Get"), 33: ("9.2", "Value"), 34: ("9.3", "List"),
    40: ("9.4", "Call"), 41: ("9.5", "Reply"), 42: ("9.6", "Serve"), 48: ("10.2", "Attach"), 49: ("10.2", "Detach"),
    51: ("10.5", "Registry"), 52: ("10.4", "Void"), 53: ("10.1", "LinkHello"),
    54: ("10.8", "Changed"),
}
HOT = {10: "Event", 11: "Batch", 12: "Ack", 17: "Chunk", 25: "Deliver", 50: "Envelope"}
BODIES = {33, 40, 41}


class Wrong(Exception):
    def __init__(self, code):
        self.code = code


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return len(self.data) - self.at

    def raw(self, count):
        if self.left() < count:
            raise Wrong(MALFORMED)
        self.at += count
        return self.data[self.at - count:self.at]

    def varint(self, bits=64):
        value, shift = 0, 0
        while True:
            byte = self.raw(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        if (byte == 0 and shift > 7) or value >= 1 << bits:
            raise Wrong(MALFORMED)
        return value

    def bytes(self, most=None):
        length = self.varint()
        check(length, most)
        return self.raw(length)

    def text(self, most=None):
        try:
            return self.bytes(most).decode()
        except UnicodeDecodeError:
            raise Wrong(MALFORMED) from None

    def flag(self):
        byte = self.raw(1)[0]
        if byte > 1:
            raise Wrong(MALFORMED)
        return byte == 1

    def variant(self, names):
        index = self.varint(32)
        if index >= len(names):
            raise Wrong(MALFORMED)
        return names[index]


NUMBERS = {
    "u16": 16, "u32": 32, "u64": 64, "lane": 32, "route": 32, "subscription": 32, "request": 32, "session": 32,
    "upload": 32, "number": 64, "version": 64, "position": 64, "code": 16,
}
STRUCTS = {
    "receipt": [("number", "number"), ("count", "u32"), ("version", "version"), ("position", "position")],
    "refused": [("number", "number"), ("count", "u32"), ("code", "code")],
    "open upload": [("id", "[16]"), ("stored_offset", "u64")],
    "meta": [("name", "text"), ("value", "text")],
    "at": [("worker", "text"), ("position", "position")],
    "trace": [("id", "[16]"), ("span", "[8]"), ("flags", "u8")],
    "entry": [("tenant", "text"), ("principal", "text"), ("role", "role"), ("key_hash", "option [32]"),
              ("revoked", "bool"), ("expires_ms", "u64"), ("later", "bytes")],
    "group": [("tenant", "text"), ("name", "text"), ("id", "u64"), ("epoch", "u32"), ("removed", "bool"),
              ("definition", "bytes"), ("later", "bytes")],
}


def value(reader, kind, place=""):
    """A field of a type as the tables write it; too long is told after the whole field was found to be well formed."""
    kind, _, most = kind.partition(" ≤ ")
    return plain(reader, kind, place, int(most) if most else None)


def plain(reader, kind, place, most):
    if kind.startswith("option "):
        return plain(reader, kind[7:], place, most) if reader.flag() else None
    if kind.startswith("list "):
        inner = Reader(reader.bytes())
        items = []
        while inner.left():
            items.append(plain(inner, kind[5:], place, None))
        check(len(inner.data), most)
        return items
    if kind in NUMBERS:
        return reader.varint(NUMBERS[kind])
    if kind == "bool":
        return reader.flag()
    if kind == "u8":
        return reader.raw(1)[0]
    if kind == "run":
        return reader.raw(8).hex()
    if kind.startswith("["):
        return reader.raw(int(kind[1:-1])).hex()
    if kind in ("text", "bytes"):
        found = reader.text() if kind == "text" else reader.bytes().hex()
        check(len(found.encode()) if kind == "text" else len(found) // 2, most)
        return found
    if kind == "role":
        return reader.variant(ROLES)
    if kind in STRUCTS:
        return struct(reader, STRUCTS[kind])
    return ENUMS[place](reader)


def check(length, most):
    if most is not None and length > most:
        raise Wrong(TOO_LARGE)


def struct(reader, fields):
    return {name: value(reader, kind) for name, kind in fields}


def enum(*variants):
    def read(reader):
        name, fields = reader.variant(variants)
        if fields is None:
            return name
        if isinstance(fields, str):
            return {name: plain(reader, *typed(fields))}
        # All of an enum is read before a limit counts.
        found, long = {}, False
        for field, kind in fields:
            kind, place, most = typed(kind)
            got = plain(reader, kind, place, None)
            long |= most is not None and isinstance(got, str) and len(got.encode()) > most
            found[field] = got
        if long:
            raise Wrong(TOO_LARGE)
        return {name: found}
    return read


def typed(kind):
    kind, _, most = kind.partition(" ≤ ")
    return kind, kind, int(most) if most else None


ENUMS = {
    "Auth.proof": enum(
        ("Certificate", None),
        ("DeviceKey", [("tenant", "text ≤ 32"), ("device", "text ≤ 64"), ("nonce", "[16]"), ("proof", "[32]")]),
        ("Token", "text ≤ 1536"),
        ("Challenge", [("nonce", "[16]")])),
    "Fault.scope": enum(
        ("Session", None),
        ("Lane", [("lane", "lane"), ("expected", "number")]),
        ("Number", [("lane", "lane"), ("number", "number"), ("count", "u32"), ("version", "version")]),
        ("Route", "route"), ("Subscription", "subscription"), ("Request", "request"),
        ("Upload", [("upload", "upload"), ("expected", "u64")])),
    "from": enum(("Start", None), ("End", None), ("Time", "u64"), ("Positions", "list at ≤ 2400")),
    "Subscribe.source": enum(
        ("Filter", [("filter", "text ≤ 128"), ("key", "option text ≤ 128"), ("from", "from")]),
        ("Stream", [("key", "text ≤ 128"), ("from", "version")]),
        ("Group", [("name", "text ≤ 64"), ("max_events", "u32"), ("max_bytes", "u32")]),
        ("Inbox", None)),
    "Settle.outcome": enum(("Seen", None), ("Done", None), ("Retry", [("after_ms", "u64")]), ("Reject", None)),
    "Get.target": enum(
        ("State", [("key", "text ≤ 128"), ("topic", "text ≤ 128")]),
        ("Blob", [("blob", "text ≤ 64"), ("offset", "u64"), ("length", "u32")]),
        ("Stream", [("key", "text ≤ 128")])),
    "List.listing": lambda reader: reader.variant(["State", "Blobs", "Uploads", "Services"]),
    "Attach.role": lambda reader: reader.variant(ROLES),
}


def tables():
    """Each message's fields in order: name, type, and its default where it is in the tail."""
    found = {}
    for section, *names in KINDS.values():
        text = re.search(rf"^### {re.escape(section)} .*?(?=^##|\Z)", SPEC, re.M | re.S).group()
        parts = re.split(r"^\| field \| type \| default \| meaning \|$", text, flags=re.M)[1:]
        wanted = {"10.2": ["Attach", "Detach"]}.get(section, names)
        for name, part in zip(wanted, parts):
            fields, tail = [], False
            for line in part.strip().splitlines()[1:]:
                if not line.startswith("|"):
                    break
                field, kind, default = [cell.strip().replace("`", "") for cell in line.split("|")[1:4]]
                if field == "…":
                    tail = True
                else:
                    fields.append((field, kind, default if tail else None))
            found[name] = fields
    return found


def default(kind, text):
    if text == "absent":
        return None
    if text == "empty":
        return [] if kind.startswith("list") else ""
    if text in ("true", "false"):
        return text == "true"
    return "0" * 16 if text == "zeros" else int(text)


def message(name, reader):
    fields = {}
    for field, kind, spoken in TABLES[name]:
        if spoken is not None and not reader.left():
            fields[field] = default(kind, spoken)
        else:
            fields[field] = value(reader, kind, f"{name}.{field}")
    return fields


TABLES = tables()


def lengths(reader):
    count, shape = reader.varint(32), None
    if count == 0:
        raise Wrong(MALFORMED)
    if count > 1024:
        raise Wrong(TOO_LARGE)
    shape = reader.varint(32)
    return [shape - 1] * count if shape else [reader.varint(32) for _ in range(count)]


def extras(reader, spelled, delivered=False):
    found = {"number": None, "happened": None, "ttl_ms": None, "trace": None, "expect": None, "headers": [], "receipt": False}
    if not spelled:
        return found
    mask = reader.varint()
    if mask == 0 or mask > 0xFF or mask & 6 == 6:
        raise Wrong(MALFORMED)
    if mask & 1:
        found["number"] = reader.varint()
    if mask & 2:
        found["happened"] = {"At": reader.varint()}
    if mask & 4:
        found["happened"] = {"Ago": reader.varint()}
    if mask & 8:
        found["ttl_ms"] = reader.varint()
    if mask & 0x10:
        found["trace"] = struct(reader, STRUCTS["trace"])
    if mask & 0x20:
        expected = reader.varint()
        found["expect"] = {"Version": expected - 1} if expected else "Exists"
    if mask & 0x40:
        found["headers"] = headers(Reader(reader.bytes(512)))
    found["receipt"] = bool(mask & 0x80)
    if delivered and mask & 0xA1:
        raise Wrong(MALFORMED)
    return found


def headers(inner):
    pairs = []
    while inner.left():
        name = inner.text()
        if not name:
            raise Wrong(MALFORMED)
        pairs.append({"name": name, "value": inner.bytes().hex()})
    if not pairs:
        raise Wrong(MALFORMED)
    if len(pairs) > 8:
        raise Wrong(TOO_LARGE)
    return pairs


def adds_up(lengths, payload):
    if sum(lengths) != len(payload):
        raise Wrong(MALFORMED)
    return lengths


def hot(kind, spelled, header, payload):
    reader = Reader(header)
    found = HOT_LAYOUTS[kind](reader, spelled, payload)
    if reader.left():
        raise Wrong(MALFORMED)
    return found


def event(reader, spelled, payload):
    return {"route": reader.varint(32), "extras": extras(reader, spelled), "payload": payload.hex()}


def batch(reader, spelled, payload):
    route, parts = reader.varint(32), lengths(reader)
    found = {"route": route, "lengths": parts, "extras": extras(reader, spelled), "payload": payload.hex()}
    adds_up(parts, payload)
    return found


def ack(reader, spelled, _):
    first = reader.raw(1)[0]
    durability, step = [None, "Spooled", "Stored", "Replicated"][first & 3], first >> 2
    if durability is None or (step == 0) != spelled:
        raise Wrong(MALFORMED)
    if not spelled:
        return {"Step": {"durability": durability, "step": step}}
    found = {"durability": durability, "lane": reader.varint(32), "last": reader.varint(), "receipts": []}
    if reader.left():
        found["receipts"] = plain(reader, "list receipt", "", None)
        if not found["receipts"]:
            raise Wrong(MALFORMED)
    return {"Spelled": found}


def chunk(reader, _, payload):
    return {"upload": reader.varint(32), "offset": reader.varint(), "payload": payload.hex()}


def deliver(reader, spelled, payload):
    found, flags = {"subscription": reader.varint(32)}, reader.raw(1)[0]
    if flags & 0xC0:
        raise Wrong(MALFORMED)
    found["key"] = reader.text(128) if flags & 1 else None
    found["topic"] = reader.text(128) if flags & 2 else None
    found["kind"] = None
    if flags & 4:
        found["kind"] = {"content_type": reader.text(64), "schema": reader.varint(32), "encoding": reader.text(64)}
    found["worker"] = reader.text(64) if flags & 8 else None
    found["attempt"] = reader.varint(32) if flags & 0x10 else 1
    for field in ("version", "position", "time"):
        found[field] = reader.varint()
    parts = lengths(reader) if flags & 0x20 else [len(payload)]
    found["lengths"], found["extras"] = parts, extras(reader, spelled, True)
    found["payload"] = payload.hex()
    if (flags & 0x10 and found["attempt"] == 1) or (flags & 0x20 and len(parts) == 1):
        raise Wrong(MALFORMED)
    adds_up(parts, payload)
    return found


def envelope(reader, _, payload):
    found = {"session": reader.varint(32), "number": reader.varint(), "time_ms": reader.varint(), "tag": reader.raw(1)[0]}
    if found["tag"] & 0x80 or not 6 <= found["tag"] & 0x3F <= 42:
        raise Wrong(MALFORMED)
    return found | {"header": reader.raw(reader.left()).hex(), "payload": payload.hex()}


HOT_LAYOUTS = {10: event, 11: batch, 12: ack, 17: chunk, 25: deliver, 50: envelope}


def header_end(tag, body):
    """Where the header ends (2.5): what its fields may hold is asked later."""
    kind, spelled, reader = tag & 0x3F, tag & 0x40, Reader(body)

    def skip(count):
        for _ in range(count):
            reader.varint()

    def block():
        count, shape = reader.varint(32), reader.varint()
        skip(0 if shape else count)

    def more():
        mask = reader.varint() if spelled else 0
        skip((mask & 0x0F).bit_count())
        if mask & 0x10:
            reader.raw(25)
        skip(mask >> 5 & 1)
        if mask & 0x40:
            reader.bytes()

    try:
        if kind == 10:
            skip(1), more()
        elif kind == 11:
            skip(1), block(), more()
        elif kind == 17:
            skip(2)
        elif kind in BODIES:
            reader.bytes()
        elif kind == 25:
            skip(1)
            flags = reader.raw(1)[0]
            for _ in range((flags & 3).bit_count()):
                reader.bytes()
            if flags & 4:
                reader.bytes(), skip(1), reader.bytes()
            if flags & 8:
                reader.bytes()
            skip(3 + (flags >> 4 & 1))
            if flags & 0x20:
                block()
            more()
        elif kind == 50:
            skip(3)
            inner = reader.raw(1)[0]
            if inner & 0x3F == 50:
                return len(body)
            return reader.at + header_end(inner, body[reader.at:])
        else:
            return len(body)
    except Wrong:
        return len(body)
    return reader.at


def frame(data, limit, sender):
    """The message as JSON has it; None where more bytes are needed."""
    length, shift, at = 0, 0, 1
    while True:
        if len(data) <= at:
            return None
        byte = data[at]
        length |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not byte & 0x80:
            break
        if at == 6:
            raise Wrong(MALFORMED)
    if byte == 0 and at > 2:
        raise Wrong(MALFORMED)
    if length > limit:
        raise Wrong(TOO_LARGE)
    if len(data) < at + length + 4:
        return None
    tag, body = data[0], data[at:at + length]
    end = header_end(tag, body)
    header, payload = body[:end], body[end:]
    if zlib.crc32(payload + data[:at] + header) != int.from_bytes(data[at + length:at + length + 4], "little"):
        raise Wrong(DAMAGED)
    return meaning(tag, header, payload, sender)


def meaning(tag, header, payload, sender):
    kind = tag & 0x3F
    if kind not in KINDS and kind not in HOT:
        if tag & 0x80:
            return {"Skipped": kind}
        raise Wrong(UNKNOWN_KIND)
    if tag & 0x80 or (tag & 0x40 and kind not in (10, 11, 12, 25)):
        raise Wrong(MALFORMED)
    if kind in HOT:
        return {HOT[kind]: hot(kind, bool(tag & 0x40), header, payload)}
    names = KINDS[kind][1:]
    name = names[-1] if sender == "server" else names[0]
    if kind in BODIES:
        fields = message(name, Reader(Reader(header).bytes(2048)))
        return {name: {"fields": fields, "payload": payload.hex()}}
    return {name: message(name, Reader(header))}


def main():
    cases, wrong = 0, 0
    for path in sorted(HERE.glob("*.json")):
        for case in json.loads(path.read_text())["cases"]:
            cases += 1
            try:
                found = frame(bytes.fromhex(case["hex"]), case["frame_max"], case["from"])
                found = {"message": found} if found is not None else {"incomplete": True}
            except Wrong as why:
                found = {"error": why.code}
            told = {key: case[key] for key in ("message", "incomplete") if key in case}
            told = told or {"error": case["error"]["code"]}
            if found != told:
                wrong += 1
                print(f"{path.name}: {case['name']}\n  here   {found}\n  there  {told}")
    print(f"{cases - wrong} of {cases} vectors agree")
    sys.exit(wrong != 0)


if __name__ == "__main__":
    main()
