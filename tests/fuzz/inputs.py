"""Cases of a target: what is valid, changed by someone who knows its format, or bit by bit.

Everything is drawn by hypothesis, so the same number gives the same cases, but for the few bytes
that a random generator seeded by hypothesis fills.
"""

import functools
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hypothesis import strategies as st

MANY = 100_000
"""Brackets of deep nesting, digits of long numbers, letters of long words."""
BOMB_BYTES = 1200 << 20
"""Zeros that a small archive swells to."""


@dataclass(frozen=True, slots=True)
class Case:
    """One changed file."""

    place: int
    """Which of the target's files is replaced."""
    suffix: str
    data: bytes


def cases(kind: str, valid: Sequence[Case]) -> st.SearchStrategy[Case]:
    """Cases of a target whose files are of ``kind``."""
    by_bytes = st.builds(functools.partial(_changed, valid), st.integers(0, 99), _EDITS)
    made = _BY_KIND.get(kind)
    if made is None:
        return by_bytes
    structured = st.sampled_from(valid).flatmap(
        lambda one: made(one.data).map(lambda data: Case(one.place, one.suffix, data))
    )
    # Two of three know the format; one of three is damage.
    return st.one_of(structured, structured, by_bytes)


# --- bytes ----------------------------------------------------------------------------------------

_BOUNDARY = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_BOUNDARY_64 = (*_BOUNDARY, 1 << 40, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x0A, 0x22, 0x5B, 0x7B, 0x2D)


def _flip(data: bytearray, a: int, b: int, _: bytes) -> None:
    data[a % len(data)] ^= 1 << b % 8


def _set(data: bytearray, a: int, b: int, _: bytes) -> None:
    data[a % len(data)] = _BYTES[b % len(_BYTES)]


def _noise(data: bytearray, a: int, b: int, _: bytes) -> None:
    start = a % len(data)
    data[start : start + b % 64] = random.Random(b).randbytes(b % 64)


def _truncate(data: bytearray, a: int, b: int, _: bytes) -> None:
    del data[a % len(data) :]


def _delete(data: bytearray, a: int, b: int, _: bytes) -> None:
    start = a % len(data)
    del data[start : start + 1 + b % 256]


def _repeat(data: bytearray, a: int, b: int, _: bytes) -> None:
    start = a % len(data)
    data[start:start] = data[start : start + 1 + b % 4096]


def _swap(data: bytearray, a: int, b: int, _: bytes) -> None:
    size = 1 + (a ^ b) % min(512, len(data))
    one, two = sorted((a % len(data), b % len(data)))
    if one + size <= two:
        data[one : one + size], data[two : two + size] = (
            data[two : two + size],
            data[one : one + size],
        )


def _blank(data: bytearray, a: int, b: int, _: bytes) -> None:
    start = a % len(data)
    size = min(1 + b % 512, len(data) - start)
    data[start : start + size] = bytes(size)


def _splice(data: bytearray, a: int, b: int, other: bytes) -> None:
    data[a % len(data) :] = other[b % max(1, len(other)) :]


def _number(data: bytearray, a: int, b: int, _: bytes) -> None:
    """A field of 1, 2, 4 or 8 bytes at one end of what fits, in either byte order."""
    size = (1, 2, 4, 8)[b % 4]
    order = "<>"[b // 4 % 2]
    value = _BOUNDARY_64[b // 8 % len(_BOUNDARY_64)] % (1 << 8 * size)
    start = a % len(data)
    coded = struct.pack(f"{order}{'BHIQ'[b % 4]}", value)
    data[start : start + size] = coded


def _append(data: bytearray, a: int, b: int, _: bytes) -> None:
    data += random.Random(a).randbytes(b % 300)


_EDITORS: tuple[Callable[[bytearray, int, int, bytes], None], ...] = (
    _flip, _set, _noise, _truncate, _delete, _repeat, _swap, _blank, _splice, _number, _number,
    _append,
)  # fmt: skip
_WHERE = st.integers(0, (1 << 24) - 1) | st.integers(0, 63) | st.integers(0, 1023)
_EDITS = st.lists(
    st.tuples(st.integers(0, len(_EDITORS) - 1), _WHERE, st.integers(0, (1 << 24) - 1)),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, edits: Sequence[tuple[int, int, int]], other: bytes) -> bytes:
    """``data`` after some edits, each the number of an editor and two of its arguments."""
    changed = bytearray(data)
    for editor, a, b in edits:
        if not changed:
            break
        _EDITORS[editor](changed, a, b, other)
    return bytes(changed)


def _changed(valid: Sequence[Case], number: int, edits: Sequence[tuple[int, int, int]]) -> Case:
    one, other = valid[number % len(valid)], valid[number // len(valid) % len(valid)]
    return Case(one.place, one.suffix, edited(one.data, edits, other.data))


# --- trees: JSON and YAML -------------------------------------------------------------------------


class Raw(str):
    """Text that stands in a document as it is."""


class Pairs(list[tuple[Any, Any]]):
    """An object whose keys may stand twice."""


_RAW_JSON = tuple(map(Raw, (
    "null", "true", "false", "0", "-1", "1", "-0.0", "1.5", "1e999", "-1e999", "1e308", "1e-400",
    "2147483648", "9223372036854775807", "9223372036854775808", "18446744073709551616",
    "4611686018427387904", "1" + "0" * 30, "1" + "0" * 400, '""', '"\\u0000"', '"\\ud800"',
    '"\\u202e"', '"a\\nb"', '"\\u2028"', '"../../x"', '"/etc/passwd"', '"."', '"a\\\\b"',
    '"' + "A" * 300 + '"', '"' + "é" * MANY + '"', "[]", "{}", '[""]', "[null]", "[[]]", "[1, 2]",
    '{"a": 1, "a": 2}', "[" * 400 + "]" * 400, '"🦓 \\u0627\\u0301"', '"$x_{1}$"',
    '"<script>x</script>"', '"\\u001b[31mred"', "NaN", "Infinity", "1" * 5000,
)))  # fmt: skip
_BROKEN_JSON = tuple(map(Raw, (
    "1, 2", "", "'x'", "undefined", "0x10", "01", "[" * MANY + "]" * MANY, "[" * MANY,
    '{"a":' * MANY + "1" + "}" * MANY, "-Infinity", '"\n"', "}", '"',
)))  # fmt: skip
_RAW_YAML = tuple(map(Raw, (
    "!!bool x", "!!int x", "!!float x", "!!int ''", "!!timestamp x", "2001-99-99", "2001-01-01",
    "2001-12-14t21:59:43.10-99:99", "!!binary x", "!!binary é", "!!null x", "!!set {a, b}",
    "!!omap [a: 1, b]", "!!pairs [a]", "!!python/object/apply:os.system ['true']", "!x y", "! z",
    '"\\U00110000"', '"\\xZZ"', '"\\uD800"', "0o9", "09", "0b2", "1:60:60", "190:20:30.15", ".nan",
    ".inf", "-.inf", "1_000", "~", "=", "<<", "{<<: 1}", "{<<: [1]}", "&a [*a]", "&a {x: *a}",
    "*nobody", "&a &b x", "[&a 1, *a]", "{? [a]: 1}", "{? {a: 1}: 1}", "{1: 2}", "{null: 1}",
    "{true: 1}", "{1.5: 1}", "yes", "off", "0.1e+1", "1e-4", "%", "@", "`", "|", ">", "- ", "? ",
    "{" * 3000, "[" * 3000, "- " * 3000, "? " * 3000, "!!seq " * 300, "a" * MANY, "9" * 5000,
    "!<tag:yaml.org,2002:int> 5", "'\\0'", "\u202e", "\ufeff", "\x85", "--- a", "...",
    "[&a [x,x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b,*b,*b],"
    " &d [*c,*c,*c,*c,*c,*c,*c,*c,*c], &e [*d,*d,*d,*d,*d,*d,*d,*d,*d],"
    " &f [*e,*e,*e,*e,*e,*e,*e,*e,*e], &g [*f,*f,*f,*f,*f,*f,*f,*f,*f],"
    " &h [*g,*g,*g,*g,*g,*g,*g,*g,*g], [*h,*h,*h,*h,*h,*h,*h,*h,*h]]",
)))  # fmt: skip
_KEYS = (
    "", "id", "label", "x" * 300, "\u202e", "a\nb", "__class__", "__init__", "self", "é", "None",
    "threshhold", "name", "format", "version", "0", " ", "auto_map", "torch_dtype", "_name_or_path",
    "\x1b[31m", "file_name", "codecs", "<<",
)  # fmt: skip


def _odd_values(raw: Sequence[Raw]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.sampled_from(raw),
        st.sampled_from(raw),
        st.integers(-(1 << 70), 1 << 70),
        st.integers(-3, 300),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=12),
        st.lists(st.integers(-2, 70), max_size=4),
    )


def _to_tree(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs((key, _to_tree(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_to_tree(item) for item in value]
    return value


def _holders(tree: Any) -> list[tuple[Any, int]]:
    """Every place in a tree: the list or object, and the number in it."""
    found: list[tuple[Any, int]] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            for at, item in enumerate(node):
                found.append((node, at))
                todo.append(item[1] if isinstance(node, Pairs) else item)
    return found


def _dumped(node: Any) -> str:
    """JSON, which is YAML too; keys twice and raw text as they are."""
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, Pairs):
        inner = (f"{json.dumps(str(key))}: {_dumped(item)}" for key, item in node)
        return "{" + ", ".join(inner) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(_dumped, node)) + "]"
    return json.dumps(node, default=str)


@st.composite
def _changed_tree(draw: Any, value: Any, raw: Sequence[Raw]) -> str:
    """The text of a document in which a few places have been changed."""
    tree = _to_tree(value)
    if draw(st.integers(0, 11)) == 0:
        raw = (*raw, *_BROKEN_JSON)
    odd = _odd_values(raw)
    if draw(st.integers(0, 19)) == 0:
        return _dumped(draw(odd))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4)))):
        places = _holders(tree)
        if not places:
            break
        holder, at = places[draw(st.integers(0, 9999)) * len(places) // 10_000]
        what = draw(st.sampled_from(("value", "value", "value", "drop", "twice", "key", "add")))
        pairs = isinstance(holder, Pairs)
        if what == "value":
            holder[at] = (holder[at][0], draw(odd)) if pairs else draw(odd)
        elif what == "drop":
            del holder[at]
        elif what == "twice":
            holder.append((holder[at][0], draw(odd)) if pairs else holder[at])
        elif what == "key" and pairs:
            holder[at] = (draw(st.sampled_from(_KEYS)), holder[at][1])
        else:
            holder.append((draw(st.sampled_from(_KEYS)), draw(odd)) if pairs else draw(odd))
    return _dumped(tree)


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _json_cases(data: bytes) -> st.SearchStrategy[bytes]:
    return _changed_tree(json.loads(data), _RAW_JSON).map(_bytes_of)


@st.composite
def _jsonl_cases(draw: Any, data: bytes) -> bytes:
    lines = [_bytes_of(json.dumps(json.loads(line))) for line in data.splitlines() if line.strip()]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1)) if lines else 0
        what = draw(st.sampled_from(("change", "change", "change", "twice", "drop", "junk")))
        if what == "junk" or not lines:
            lines.insert(at, draw(st.binary(max_size=20)))
        elif what == "twice":
            lines.append(lines[at])
        elif what == "drop":
            del lines[at]
        else:
            try:
                value = json.loads(lines[at])
            except (ValueError, RecursionError):
                continue
            lines[at] = _bytes_of(draw(_changed_tree(value, _RAW_JSON)).replace("\n", " "))
    return draw(st.sampled_from((b"\n", b"\r\n", b"\n\n", b"\x0b"))).join(lines)


def _yaml_cases(data: bytes) -> st.SearchStrategy[bytes]:
    value = yaml.safe_load(data)
    head = data[: data.find(b"\n") + 1] if data.startswith(b"#") else b""
    flow = _changed_tree(value, _RAW_JSON + _RAW_YAML).map(lambda text: head + _bytes_of(text))
    lines = data.decode().splitlines()
    return st.one_of(flow, flow, _block_yaml(lines))


@st.composite
def _block_yaml(draw: Any, lines: Sequence[str]) -> bytes:
    """A line of YAML as people write it, with another value."""
    lines = list(lines)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        key = lines[at].partition(":")[0]
        value = draw(st.sampled_from(_RAW_YAML) | st.sampled_from(_RAW_JSON + _BROKEN_JSON))
        lines[at] = draw(st.sampled_from((f"{key}: {value}", str(value), f"{key}{value}")))
    return _bytes_of("\n".join(lines) + "\n")


# --- text and tables ------------------------------------------------------------------------------

_WORDS = (
    "", " ", "0", "-1", "1e999", "nan", "9" * 5000, "\x00", "\x0b", "\x1b[31m", "\u202e", "\u2028",
    "é" * MANY, "..", "../x.avi", "/etc/passwd", "a\\b", '"', '""', '"""', "'", ",", ";", "\t",
    "[" * 5000, "[" * MANY, "[1]", "['a', 'b']", '["a", {}]', "(" * 5000, "{'a': 1}", "-" * 300,
    "[" + "-" * 5000 + "1]", "[" + "+1" * 3000 + "]", "['\\ud800']", "[0" + "9" * 5000 + "]",
    "v_PullUps_g08_c01.avi", "v__g00_c00", "x" * 140_000, "a.b.c", ".", ".hidden", "train", "test",
    "file_name", "label", "CON", "🦓", "\r", "=1+1", "1,5",
)  # fmt: skip


@st.composite
def _text_cases(draw: Any, data: bytes, separators: str = " \n") -> bytes:
    words = [""]
    for letter in data.decode():
        if letter in separators:
            words += [letter, ""]
        else:
            words[-1] += letter
    for _ in range(draw(st.sampled_from((1, 1, 2, 4)))):
        at = draw(st.integers(0, 9999)) * len(words) // 10_000
        what = draw(st.sampled_from(("word", "word", "drop", "twice", "join")))
        if what == "word":
            words[at] = draw(st.sampled_from(_WORDS) | st.text(max_size=8))
        elif what == "drop":
            words[at] = ""
        elif what == "twice":
            words[at:at] = words[: 2 * draw(st.integers(1, 9))]
        else:
            words[at] += draw(st.sampled_from(_WORDS))
    coding = draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")))
    return "".join(words).encode(coding, "surrogatepass" if coding[0] == "u" else "replace")


# --- .npy in .zip ---------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Member:
    """A member of an archive, and what the archive says of it, which need not be true."""

    name: bytes
    data: bytes
    method: int = 8
    flags: int = 0
    crc: int | None = None
    coded: bytes | None = None
    """As it lies there; None: ``data``, compressed."""
    size: int | None = None
    coded_size: int | None = None


def zipped(members: Sequence[Member]) -> bytes:
    """An archive that says what it is told to."""
    body, index = io.BytesIO(), io.BytesIO()
    for one in members:
        coded = one.coded
        if coded is None:
            coded = _deflated(one.data) if one.method == 8 else one.data
        crc = zlib.crc32(one.data) if one.crc is None else one.crc
        size = len(one.data) if one.size is None else one.size
        coded_size = len(coded) if one.coded_size is None else one.coded_size
        told = struct.pack(
            "<HHHHIIIHH", one.flags, one.method, 0, 33, crc % 2**32, coded_size % 2**32,
            size % 2**32, len(one.name), 0,
        )  # fmt: skip
        at = body.tell()
        body.write(b"PK\x03\x04" + struct.pack("<H", 20) + told + one.name + coded)
        index.write(b"PK\x01\x02" + struct.pack("<HH", 20, 20) + told)
        index.write(struct.pack("<HHHII", 0, 0, 0, 0, at % 2**32) + one.name)
    end, start = index.getvalue(), body.tell()
    counts = struct.pack(
        "<HHHHIIH", 0, 0, len(members) % 2**16, len(members) % 2**16, len(end), start, 0
    )
    return body.getvalue() + end + b"PK\x05\x06" + counts


def _deflated(data: bytes) -> bytes:
    coder = zlib.compressobj(6, wbits=-15)
    return coder.compress(data) + coder.flush()


@functools.cache
def _bomb() -> tuple[bytes, int]:
    """Deflated zeros, :data:`BOMB_BYTES` of them, and their CRC."""
    block = bytes(8 << 20)
    coder = zlib.compressobj(9, wbits=-15)
    one = coder.compress(block) + coder.flush(zlib.Z_FULL_FLUSH)
    times = BOMB_BYTES // len(block)
    crc = 0
    for _ in range(times):
        crc = zlib.crc32(block, crc)
    return one * times + coder.flush(zlib.Z_FINISH), crc


def npy(header: bytes, data: bytes, *, version: tuple[int, int] = (1, 0), extra: int = 0) -> bytes:
    """A ``.npy`` whose header is these bytes; ``extra`` is added to the length it states."""
    form = "<H" if version[0] == 1 else "<I"
    size = (len(header) + extra) % (1 << (16 if version[0] == 1 else 32))
    return b"\x93NUMPY" + bytes(version) + struct.pack(form, size) + header + data


_DESCR = (
    "'|u1'", "'|b1'", "'<i4'", "'>i4'", "'<f8'", "'<f2'", "'|O'", "'|V1000000000'", "'<U9'",
    "'<U1000000000'", "'<M8[ns]'", "'<c16'", "[('a', '|u1')]", "[('a', '|O')]", "('|u1', (9, 9))",
    "'" + "u" * 5000 + "'", "None", "[]", "{}", "''", "'|S0'", "'<i3'", "5", "['|u1']",
    "[('a','|u1'),('a','|u1')]",
)  # fmt: skip
_SHAPE = (
    "()", "(0,)", "(5,)", "(5, 9)", "(70, 5, 9)", "(5, 9, 70)", "(-1, 5, 9)", "(70, -5, 9)",
    "(-1, -1, -1)", "(70, 0, 9)", "(2**40,)", "(1000000, 1000, 1000)", "(1, 1, 2000000000)",
    "(65535, 65535, 1)", "(65536, 65536, 1)", "(1" + "0" * 30 + ", 1, 1)", "(70.0, 5.0, 9.0)",
    "(True, True, True)", "('a', 'b', 'c')", "(None,)", "[70, 5, 9]", "70", "None", "(70, 5, 9, 1)",
    "(" + "1, " * 80 + ")", "(9" + "9" * 5000 + ", 1, 1)", "((70,), 5, 9)", "(1, 1, 1300000000)",
    "(0xFFFFFFFFFFFFFFFF, 1, 1)", "(4294967296, 4294967296, 1)", "(70, 5, 10)", "(71, 5, 9)",
)  # fmt: skip
_HEADERS = (
    b"", b"(" * 5000, b"[" * 9000, b"{" * 200, b"-" * 9000 + b"1", b"x", b"\xff\xfe", b"None",
    b"\x00" * 40, b"{'descr': '|u1'}", b"{'descr': '|u1', 'fortran_order': False, 'shape': (70L, 5L"
    b", 9L)}", b"{'descr'" + b" " * 60000, b"'", b'"""', b"\\", b"{1: 2}", b"{'descr': \t", b"\t",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 6000 + b",)}", b"0" * 9000,
    b"1if 1else 2", b"{'shape': 1j, 'descr': b'', 'fortran_order': ...}", b"  x\n y", b"$", b"\x0c",
    b"{'descr': '|u1', 'fortran_order': 0, 'shape': (70, 5, 9)}", b"[1]*9999999999", b"9**9**9**9",
)  # fmt: skip


@st.composite
def _npy_cases(draw: Any, valid: bytes) -> bytes:
    """The array with another header, other data, or neither."""
    length = struct.unpack_from("<H", valid, 8)[0]
    header, data = valid[10 : 10 + length], valid[10 + length :]
    what = draw(st.sampled_from(("fields", "fields", "fields", "header", "data", "length")))
    if what == "header":
        header = draw(st.sampled_from(_HEADERS))
    elif what == "fields":
        descr = draw(st.sampled_from(_DESCR) | st.just("'|u1'"))
        shape = draw(st.sampled_from(_SHAPE))
        order = draw(st.sampled_from(("False", "False", "False", "True", "0", "None")))
        header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    elif what == "data":
        data = draw(st.sampled_from((b"", data[:7], data + b"x" * 99, b"\xff" * len(data))))
    version = draw(st.sampled_from(((1, 0), (1, 0), (1, 0), (2, 0), (3, 0), (9, 9), (0, 0))))
    extra = draw(st.sampled_from((0, 0, 0, 1, -1, 50000, -99))) if what == "length" else 0
    return npy(header, data, version=version, extra=extra)


@st.composite
def _npz_cases(draw: Any, data: bytes) -> bytes:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [
            Member(name=name.encode(), data=archive.read(name)) for name in archive.namelist()
        ]
    at = draw(st.integers(0, len(members) - 1)) if draw(st.booleans()) else 0
    what = draw(
        st.sampled_from(("npy", "npy", "npy", "npy", "method", "lies", "name", "twice", "bomb"))
    )
    one = members[at]
    if what == "npy":
        one.data = draw(_npy_cases(one.data))
    elif what == "method":
        one.method = draw(st.sampled_from((0, 1, 9, 12, 14, 93, 95, 99, 65535)))
        one.flags = draw(st.sampled_from((0, 1, 8, 32, 2048, 8193)))
    elif what == "lies":
        one.size = draw(st.sampled_from((0, 1, 1 << 31, (1 << 32) - 1, None)))
        one.coded_size = draw(st.sampled_from((0, 1, 1 << 31, (1 << 32) - 1, None)))
        one.crc = draw(st.sampled_from((0, None)))
    elif what == "name":
        odd = (b"", b"../x.npy", b"x", b"\xff\xfe.npy", b"a" * 3000 + b".npy", b"/spk.npy", b".npy")
        one.name = draw(st.sampled_from(odd))
    elif what == "twice":
        members += [one] * draw(st.sampled_from((1, 2, 3000)))
    else:
        _swell(draw, one)
    packed = zipped(members)
    return packed + draw(st.sampled_from((b"", b"", b"", b"junk")))


def _swell(draw: Any, one: Member) -> None:
    """A header that may be true of it, and more zeros than anybody has memory for."""
    coded, crc = _bomb()
    text = draw(st.sampled_from((
        "{'descr': '|u1', 'fortran_order': False, 'shape': (120, 1000, 1000), }",
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({BOMB_BYTES}, 1, 1), }}",
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, {BOMB_BYTES}), }}",
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({BOMB_BYTES},), }}",
        f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({BOMB_BYTES // 4},), }}",
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({BOMB_BYTES // 65535}, 65535, 1), }}",
        None,
    )))  # fmt: skip
    if text is None:  # no array: zeros alone
        one.coded, one.crc, one.size = coded, crc, BOMB_BYTES
        return
    head = npy(text.encode() + b"\n", b"")
    coder = zlib.compressobj(wbits=-15)
    start = coder.compress(head) + coder.flush(zlib.Z_FULL_FLUSH)
    one.coded, one.size, one.crc = start + coded, len(head) + BOMB_BYTES, 0


# --- files of one library each --------------------------------------------------------------------


@st.composite
def _safetensors_cases(draw: Any, data: bytes) -> bytes:
    length = struct.unpack_from("<Q", data)[0]
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    text = _bytes_of(draw(_changed_tree(header, _RAW_JSON)))
    stated = draw(st.sampled_from((len(text),) * 5 + (0, 1, len(text) - 1, 1 << 40, (1 << 64) - 1)))
    return struct.pack("<Q", stated) + text + rest


@st.composite
def _shard_cases(draw: Any, data: bytes) -> bytes:
    """A shard whose index is changed and whose checksum is right again."""
    import google_crc32c
    import zstandard

    # An offset and a length for each chunk, and their checksum, at the end.
    count = _index_entries(data)
    index = list(struct.unpack_from(f"<{2 * count}Q", data, len(data) - 16 * count - 4))
    body = data[: len(data) - 16 * count - 4]
    if draw(st.booleans()):
        planes = draw(st.sampled_from((0, 1, 44, 45, 720, 721, 1 << 16)))
        frame = zstandard.ZstdCompressor(
            write_content_size=draw(st.booleans()), write_checksum=draw(st.booleans())
        ).compress(random.Random(planes).randbytes(planes))
        index[:2] = len(body), len(frame)
        body += frame
    else:
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, min(5, len(index) - 1)))
            index[at] = draw(st.sampled_from(_BOUNDARY_64) | st.integers(0, len(body)))
    table = struct.pack(f"<{len(index)}Q", *index)
    return body + table + struct.pack("<I", google_crc32c.value(table))


def _index_entries(data: bytes) -> int:
    import google_crc32c

    for count in range(1, (len(data) - 4) // 16 + 1):
        table = data[len(data) - 16 * count - 4 : -4]
        if google_crc32c.value(table) == struct.unpack("<I", data[-4:])[0]:
            return count
    raise ValueError("no index")


_CELLS: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.none() | st.sampled_from((-1, 0, 1, 7, 8, 256, 65536, 1 << 31, (1 << 63) - 1)),
    "double": st.none() | st.floats(),
    "string": st.none()
    | st.sampled_from(("", "c0", "C1", "../x", "a\nb", "\u202e", "{}", "[]", "{" * 5000, "x" * 300))
    | st.sampled_from(("null", '{"source": 3}', '{"attributes": []}', '{"source": {}}', "1e999"))
    | st.text(max_size=8),
    "list<element: string>": st.none() | st.lists(st.none() | st.text(max_size=5), max_size=3),
    "list<element: binary>": st.none() | st.lists(st.none() | st.binary(max_size=60), max_size=3),
}


@st.composite
def _parquet_cases(draw: Any, data: bytes) -> bytes:
    """Good Parquet that holds other cells, other columns, or says other things of itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = pq.read_table(io.BytesIO(data))
    whole = whole.drop_columns([name for name in whole.column_names if name == "preview"])
    what = draw(st.sampled_from(("cell", "cell", "cell", "about", "column", "rows")))
    schema, columns = whole.schema, whole.to_pydict()
    if what == "cell":
        for _ in range(draw(st.integers(1, 3))):
            field = schema.field(draw(st.integers(0, len(schema) - 1)))
            cells = _CELLS.get(str(field.type), st.none())
            columns[field.name][draw(st.integers(0, whole.num_rows - 1))] = draw(cells)
    changed = pa.table(columns, schema=schema)
    if what == "about":
        about = json.loads(schema.metadata[b"spikedata"])
        text = _bytes_of(draw(_changed_tree(about, _RAW_JSON)))
        changed = changed.replace_schema_metadata({b"spikedata": text})
    elif what == "column":
        at = draw(st.integers(0, len(schema) - 1))
        kind = draw(st.sampled_from((pa.int32(), pa.string(), pa.binary(), pa.large_string())))
        odd = pa.array([None] * whole.num_rows, kind)
        name = draw(st.sampled_from((schema.field(at).name, "x", "id")))
        changed = changed.set_column(at, name, odd)
    elif what == "rows":
        changed = draw(st.sampled_from((changed[:0], pa.concat_tables([changed, changed]))))
    file = io.BytesIO()
    coding = draw(st.sampled_from(("NONE", "ZSTD", "SNAPPY", "GZIP")))
    pq.write_table(changed, file, compression=coding, row_group_size=draw(st.integers(1, 5)))
    return file.getvalue()


@st.composite
def _hdf5_cases(draw: Any, data: bytes) -> bytes:
    """Good HDF5 with other attributes, links, layouts or filters."""
    import h5py
    import numpy as np

    file = io.BytesIO(data)
    with h5py.File(file, "r+") as opened:
        clips = opened["clips"]
        name = draw(st.sampled_from(sorted(clips)))
        what = draw(st.sampled_from(("attribute", "attribute", "json", "json", "layout", "link")))
        node = draw(st.sampled_from((opened, clips[name])))
        if what == "attribute":
            key = draw(st.sampled_from(sorted(node.attrs)))
            odd = st.sampled_from(
                (0, -1, 1 << 62, 1.5, float("nan"), "x", b"x", [1, 2], np.bool_(True), "a" * 60000)
            )
            node.attrs[key] = draw(odd)
        elif what == "json":
            key = draw(st.sampled_from(sorted({"about", "clip", "attributes"} & set(node.attrs))))
            text = draw(_changed_tree(json.loads(node.attrs[key]), _RAW_JSON))[:60000]
            node.attrs[key] = text.encode("utf-8", "replace").replace(b"\x00", b"").decode()
        elif what == "layout":
            shape = draw(st.sampled_from(((5, 9, 9), (5, 9), (), (5, 9, 10), (70000, 1, 1))))
            del clips[name]
            chunks = shape if len(shape) == 3 and draw(st.booleans()) else None
            kind = draw(st.sampled_from(("u1", "i1", "f8", "S4", "u2")))
            made = clips.create_dataset(name, shape=shape, dtype=kind, chunks=chunks)
            for key in () if draw(st.booleans()) else opened.attrs:
                made.attrs[key] = opened.attrs[key]
        else:
            del clips[name]
            link = draw(st.sampled_from((
                h5py.SoftLink("/clips/c0"), h5py.SoftLink("/nothing"),
                h5py.SoftLink(f"/clips/{name}"), h5py.ExternalLink("/etc/passwd", "/"), opened,
            )))  # fmt: skip
            clips[name] = link
    return file.getvalue()


_BY_KIND: dict[str, Callable[[bytes], st.SearchStrategy[bytes]]] = {
    "json": _json_cases,
    "jsonl": _jsonl_cases,
    "yaml": _yaml_cases,
    "text": _text_cases,
    "csv": functools.partial(_text_cases, separators=",\n"),
    "npz": _npz_cases,
    "safetensors": _safetensors_cases,
    "shard": _shard_cases,
    "parquet": _parquet_cases,
    "hdf5": _hdf5_cases,
}
