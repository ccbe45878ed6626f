"""Mutations of bytes, JSON, YAML and tables. Each takes a valid content and a random generator, and returns another."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

#: Texts that stand for values of JSON, and are inserted as they are.
RAW = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1", "0", "0.5", "1e308", "9" * 25, "9" * 5000, "true", "null", '""'),
    *("[]", "{}", "[[]]", "[null]", '{"a": 1}', '"yes"', '"../../x"', '"' + "x" * 100_000 + '"'),
    *('"\\ud800"', '"\\u0000"', '"\\u001b[31m"', '"a\\nb"'),
    *("[" * 500 + "]" * 500, "[" * 100_000 + "]" * 100_000, '{"a":' * 500 + "1" + "}" * 500),
)
_MARK = "\x02mark\x02"
WORDS = (
    "",
    "-1",
    "nan",
    "inf",
    "1e999",
    "9" * 5000,
    "x" * 200_000,
    "\x1b[31m",
    "\0",
    "é\u0301",
    "a,b",
    '"',
    "cat",
    "yes",
)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One to three changes of bytes: flips, cuts, insertions, copies, zeros."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice((1, 4, 64, 4096)))
        kind = draw.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = draw.randbytes(draw.choice((1, 4, 64)))
        elif kind == 3:
            del data[at:end]
        elif kind == 4:
            data[at:at] = data[at:end]
        elif kind == 5:
            data[at:end] = bytes(end - at)
        elif at + 4 <= len(data):
            data[at : at + 4] = struct.pack("<I", draw.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20)))
    return bytes(data)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in nested lists and mappings."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def changed_json(value: Any, draw: random.Random) -> str:
    """JSON text with one place replaced, removed or renamed."""
    value = json.loads(json.dumps(value))
    *above, last = draw.choice(places(value)) or (None,)
    raw = draw.choice(RAW)
    if last is None:
        return raw
    inner = value
    for key in above:
        inner = inner[key]
    kind = draw.randrange(4)
    if kind == 0:
        del inner[last]
    elif kind == 1 and isinstance(inner, dict):
        inner[draw.choice(("", "x", "__class__", "x" * 1000))] = inner.pop(last)
    else:
        inner[last] = _MARK
    return json.dumps(value).replace(json.dumps(_MARK), raw)


def json_file(content: bytes, draw: random.Random) -> bytes:
    """A JSON document with another value somewhere."""
    return changed_json(json.loads(content), draw).encode()


def json_lines(content: bytes, draw: random.Random) -> bytes:
    """JSON lines with another value in one line."""
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = changed_json(json.loads(lines[at]), draw).encode()
    return b"\n".join(lines) + b"\n"


def yaml_file(content: bytes, draw: random.Random) -> bytes:
    """A YAML document with another value somewhere, or with aliases that grow."""
    import yaml

    kind = draw.randrange(5)
    if kind == 0:
        levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(draw.randint(2, 30))]
        return ("\n".join(levels) + "\n" + content.decode()).encode()
    if kind == 1:
        levels = [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}" for i in range(1, 20)]
        return ("a0: &a0 {k: 1}\n" + "\n".join(levels) + "\n" + content.decode()).encode()
    if kind == 2:
        return content + draw.choice(
            (b"? [a]\n: b\n", b"!!python/object:os.system x\n", b"x: 2001-99-99\n", b"y: 1:99:99:99\n", b"&a [*a]\n",
             b"z: !!binary |\n  %%%\n", b"k: .nan\n", b"- x\n", b"%YAML 9.9\n---\n", b"{a: b\n", b"x: 0x" + b"f" * 5000)
        )  # fmt: skip
    value = yaml.safe_load(content)
    return changed_json(value, draw).encode() if kind == 3 else damaged(content, draw)


def table(content: bytes, draw: random.Random) -> bytes:
    """A delimited text with another field, an additional delimiter, or a quote."""
    lines = content.decode().splitlines()
    at = draw.randrange(len(lines))
    fields = lines[at].split(",")
    kind = draw.randrange(5)
    if kind == 0:
        fields[draw.randrange(len(fields))] = draw.choice(WORDS)
    elif kind == 1:
        fields.insert(draw.randrange(len(fields) + 1), draw.choice(WORDS))
    elif kind == 2:
        fields.pop(draw.randrange(len(fields)))
    elif kind == 3:
        lines[at:at] = [
            draw.choice(("", "\x0c", "version https://git-lfs.github.com/spec/v1", "<html>", "[1]", '{"a": 1}'))
        ]
    else:
        fields[0] = '"' + fields[0]
    lines[min(at, len(lines) - 1)] = ",".join(fields) if kind != 3 else lines[at]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
