"""Tables to draw: every Arrow type that pyarrow makes, and objects of JSON of any shape."""

from __future__ import annotations

import datetime
import decimal
from zoneinfo import ZoneInfo

import pyarrow
import pyarrow.compute
from hypothesis import strategies as st
from pyarrow import types

_WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=5)
_SCALARS = [
    pyarrow.null(), pyarrow.bool_(), pyarrow.int8(), pyarrow.uint16(), pyarrow.int64(), pyarrow.uint64(),
    pyarrow.float16(), pyarrow.float32(), pyarrow.float64(), pyarrow.string(), pyarrow.large_string(),
    pyarrow.string_view(), pyarrow.binary(), pyarrow.large_binary(), pyarrow.binary_view(), pyarrow.binary(3),
    pyarrow.date32(), pyarrow.date64(), pyarrow.time32("s"), pyarrow.time32("ms"), pyarrow.time64("us"),
    pyarrow.timestamp("s"), pyarrow.timestamp("us"), pyarrow.timestamp("ms", "Europe/Berlin"),
    pyarrow.timestamp("us", "UTC"), pyarrow.duration("s"), pyarrow.duration("us"), pyarrow.month_day_nano_interval(),
    pyarrow.decimal32(7, 2), pyarrow.decimal64(12, 3), pyarrow.decimal128(30, 4), pyarrow.decimal256(60, 4),
]  # fmt: skip


def _nested(inner):
    """Types that hold others. Names of keys differ: an object of Python cannot have two alike."""
    keys = st.lists(st.sampled_from("abc"), min_size=0, max_size=3, unique=True)
    return st.one_of(
        inner.map(pyarrow.list_),
        inner.map(pyarrow.large_list),
        inner.map(pyarrow.list_view),
        inner.map(lambda kind: pyarrow.list_(kind, 2)),
        keys.flatmap(
            lambda names: st.tuples(*[inner] * len(names)).map(lambda k: pyarrow.struct([*zip(names, k, strict=True)]))
        ),
        inner.map(lambda kind: pyarrow.map_(pyarrow.string(), kind)),
    )


_PLAIN = st.sampled_from([pyarrow.string(), pyarrow.int64(), pyarrow.large_string()])
arrow_types = st.one_of(
    st.recursive(st.sampled_from(_SCALARS), _nested, max_leaves=4),
    st.sampled_from([pyarrow.uuid(), pyarrow.json_(), pyarrow.bool8()]),
    _PLAIN.flatmap(lambda kind: st.sampled_from([pyarrow.int8(), pyarrow.int32()]).map(
        lambda index: pyarrow.dictionary(index, kind))),
    _PLAIN.map(lambda kind: pyarrow.run_end_encoded(pyarrow.int32(), kind)),
    st.just(pyarrow.sparse_union([pyarrow.field("x", pyarrow.int8()), pyarrow.field("y", pyarrow.string())])),
)  # fmt: skip


def values_of(kind: pyarrow.DataType) -> st.SearchStrategy:
    """Values of a type, null among them."""
    return st.none() | _values(kind)


def _values(kind: pyarrow.DataType) -> st.SearchStrategy:
    if isinstance(kind, pyarrow.BaseExtensionType):
        by_name = {"arrow.uuid": st.binary(min_size=16, max_size=16), "arrow.json": st.just('{"a": 1}')}
        return by_name.get(kind.extension_name, st.integers(0, 1))
    if types.is_null(kind):
        return st.none()
    if types.is_boolean(kind):
        return st.booleans()
    if types.is_integer(kind):
        signed = types.is_signed_integer(kind)
        return st.integers(-(2 ** (kind.bit_width - 1)) if signed else 0, 2 ** (kind.bit_width - signed) - 1)
    if types.is_floating(kind):
        return st.floats(width=kind.bit_width)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _WORDS
    if types.is_fixed_size_binary(kind):
        return st.binary(min_size=kind.byte_width, max_size=kind.byte_width)
    if any(known(kind) for known in (types.is_binary, types.is_large_binary, types.is_binary_view)):
        return st.binary(max_size=4)
    if types.is_date(kind):
        return st.dates()
    if types.is_time(kind):
        return st.times().map(lambda time: time.replace(microsecond=0))
    if types.is_timestamp(kind):
        zone = ZoneInfo(kind.tz) if kind.tz else None
        low, high = datetime.datetime(1905, 1, 1), datetime.datetime(2200, 1, 1)
        seconds = st.datetimes(low, high).map(lambda moment: moment.replace(microsecond=0))
        return seconds.map(lambda m: m.replace(tzinfo=datetime.timezone.utc).astimezone(zone)) if zone else seconds
    if types.is_duration(kind):
        return st.integers(-(10**6), 10**6).map(lambda seconds: datetime.timedelta(seconds=seconds))
    if types.is_interval(kind):
        return st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9)).map(pyarrow.MonthDayNano)
    if types.is_decimal(kind):
        most = 10**kind.precision - 1
        scaled = st.integers(-most, most)
        return scaled.map(lambda number: decimal.Decimal(number).scaleb(-kind.scale, decimal.Context(prec=80)))
    if types.is_map(kind):
        pairs = st.dictionaries(_WORDS, values_of(kind.item_type), max_size=2)
        return pairs.map(lambda found: list(found.items()))
    if types.is_fixed_size_list(kind):
        return st.lists(values_of(kind.value_type), min_size=kind.list_size, max_size=kind.list_size)
    if types.is_struct(kind):
        return st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    return st.lists(values_of(kind.value_type), max_size=2)


def _array(kind: pyarrow.DataType, values: list) -> pyarrow.Array:
    if types.is_run_end_encoded(kind):
        return pyarrow.compute.run_end_encode(pyarrow.array(values, kind.value_type))
    if types.is_union(kind):
        numbers, words = (
            pyarrow.array(part, field.type) for part, field in zip(zip(*values, strict=True), kind, strict=True)
        )
        which = pyarrow.array([place % 2 for place in range(len(values))], pyarrow.int8())
        return pyarrow.UnionArray.from_sparse(which, [numbers, words], ["x", "y"])
    if isinstance(kind, pyarrow.BaseExtensionType):
        return kind.wrap_array(pyarrow.array(values, kind.storage_type))
    return pyarrow.array(values, kind)


def _cells(kind: pyarrow.DataType) -> st.SearchStrategy:
    if types.is_union(kind):
        return st.tuples(st.integers(-9, 9), _WORDS)
    inner = kind.value_type if types.is_dictionary(kind) or types.is_run_end_encoded(kind) else kind
    return values_of(inner)


_COLUMNS = st.sampled_from(["a", "b", "c d", "", "é"])


@st.composite
def arrow_tables(draw):
    """A column ``text`` and up to three others, of which two may have one name; nulls at first in some."""
    rows, columns = draw(st.integers(1, 6)), draw(st.lists(st.tuples(_COLUMNS, arrow_types), max_size=3))
    fields, arrays = [], []
    for name, kind in columns:
        values = [draw(_cells(kind)) for _ in range(rows)]
        if not types.is_union(kind) and draw(st.booleans()):
            values[: rows // 2] = [None] * (rows // 2)
        metadata = draw(st.none() | st.just({"unit": "m"}))
        fields.append(pyarrow.field(name, kind, metadata=metadata))
        arrays.append(_array(kind, values))
    place = draw(st.integers(0, len(fields)))
    fields.insert(place, pyarrow.field("text", pyarrow.string()))
    texts = draw(st.lists(st.sampled_from(["w1", "w2 w3", "", None]), min_size=rows, max_size=rows))
    arrays.insert(place, pyarrow.array(texts, pyarrow.string()))
    metadata = draw(st.none() | st.just({"made": "by hand"}))
    table = pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields, metadata=metadata))
    cut = draw(st.integers(0, rows))
    return pyarrow.concat_tables([table.slice(0, cut), table.slice(cut)]) if draw(st.booleans()) else table


_NUMBERS = (
    st.integers(-5, 5) | st.integers(-(2**66), 2**66) | st.floats(allow_nan=False, allow_infinity=False, width=32)
)
json_values = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=5,
)
#: Alike enough for a table to hold many of them.
_ALIKE = st.sampled_from([
    st.integers(-5, 5), _NUMBERS, _WORDS, st.booleans(), st.lists(st.integers(-5, 5) | st.floats(-9, 9), max_size=2),
    st.dictionaries(st.sampled_from("xyz"), st.none() | st.integers(0, 9), max_size=3), json_values,
])  # fmt: skip


@st.composite
def json_rows(draw):
    """Objects with a text each; their further keys come and go, change their type late, and are null at first."""
    kinds = draw(st.dictionaries(st.sampled_from(["a", "b", "c d", "é"]), _ALIKE, max_size=3))
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        row = {"text": draw(st.sampled_from(["w1", "w2 w3", "w4", ""]))}
        for name, kind in kinds.items():
            if draw(st.booleans()):
                row[name] = draw(st.none() | kind)
        rows.append(row)
    many = draw(st.sampled_from([0, 0, 110]))  # more than a sample of the first rows
    return [rows[0]] * many + rows
