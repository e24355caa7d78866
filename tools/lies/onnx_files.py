"""Lies of an exported ONNX file, by the fields of its protobuf message, its metadata and its bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import onnx
from onnx import helper

from pipeline.inference.onnx_file import CHECKSUM_KEY, sealed

from .values import addition, other_value, removal, text_of

_NUMBERS = (-1, 0, 1, 2, 7, 64, 4096, 10**6, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63))
_OPERATIONS = (
    "Loop",
    "If",
    "Expand",
    "Tile",
    "Concat",
    "Range",
    "ConstantOfShape",
    "RandomNormal",
    "Identity",
    "Relu",
    "X",
)


def forged(content: bytes) -> bytes:
    """The same with a checksum that fits."""
    model = onnx.load_model_from_string(content)
    kept = [item for item in model.metadata_props if item.key != CHECKSUM_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return sealed(model.SerializeToString())


def _changed(change: Callable[[Any, Random], None]) -> Callable[[bytes, Random], bytes]:
    def lie(content: bytes, rng: Random) -> bytes:
        model = onnx.load_model_from_string(content)
        change(model, rng)
        written: bytes = model.SerializeToString()
        return written

    return lie


def _of_metadata(change: Callable[[Any, Random], Any]) -> Callable[[bytes, Random], bytes]:
    def lie(model: Any, rng: Random) -> None:
        (entry,) = (item for item in model.metadata_props if item.key == "clipgru")
        # Protobuf's texts cannot have halves of characters.
        entry.value = text_of(change(json.loads(entry.value), rng)).encode("utf-8", "replace").decode()

    return _changed(lie)


def metadata_text(model: Any, rng: Random) -> None:
    """Metadata that is other JSON, or none, or twice."""
    (entry,) = (item for item in model.metadata_props if item.key == "clipgru")
    if rng.random() < 0.2:
        model.metadata_props.add(key="clipgru", value="null")
    entry.value = rng.choice(["null", "[]", "1", '""', "{", "", "[" * 100_000, entry.value * 2, entry.value[:-1]])


def _messages(message: Any) -> Iterator[Any]:
    """The message and those inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)


def field(model: Any, rng: Random) -> None:
    """One field of one message: another value, one element more, less, or in another order."""
    message = rng.choice([one for one in _messages(model) if one.ListFields()])
    what, value = rng.choice(message.ListFields())
    if what.is_repeated:
        _change_repeated(what, value, rng)
    elif what.type == what.TYPE_MESSAGE:
        message.ClearField(what.name)
    else:
        setattr(message, what.name, _other(what, value, rng))


def _change_repeated(what: Any, values: Any, rng: Random) -> None:
    place = rng.randrange(len(values))
    if rng.random() < 0.4:
        del values[place]
    elif what.type == what.TYPE_MESSAGE:
        values.add().CopyFrom(values[place])
    elif rng.random() < 0.5:
        values.append(values[place])
    else:
        values[place] = _other(what, values[place], rng)


def _other(what: Any, value: Any, rng: Random) -> Any:
    if what.type in (what.TYPE_STRING,):
        return rng.choice(["", "x", value + "x", "/etc/passwd", "scores", "features", "frames", *_OPERATIONS])
    if what.type == what.TYPE_BYTES:
        return rng.choice([b"", value[:-1], value + b"x", bytes(len(value)), b"\xff" * len(value)])
    if what.type in (what.TYPE_FLOAT, what.TYPE_DOUBLE):
        return rng.choice([math.nan, math.inf, 0.0, -1.0, 1e30])
    if what.type == what.TYPE_ENUM:
        return rng.choice([number.number for number in what.enum_type.values])
    low, high = (-(2**31), 2**31 - 1) if what.type == what.TYPE_INT32 else (-(2**63), 2**63 - 1)
    return min(max(rng.choice(_NUMBERS), low), high)


def external(model: Any, rng: Random) -> None:
    """A tensor that is said to lie in another file."""
    tensor = rng.choice([one for one in model.graph.initializer if one.HasField("raw_data")])
    onnx.external_data_helper.set_external_data(tensor, rng.choice(["/etc/passwd", "x.bin", "../x", "/dev/zero"]))
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")


def operation(model: Any, rng: Random) -> None:
    """Another operation, another domain, or a node more that makes much or runs long."""
    kind = rng.randrange(4)
    node = rng.choice(model.graph.node)
    if kind == 0:
        node.op_type = rng.choice(_OPERATIONS)
    elif kind == 1:
        node.domain = rng.choice(["com.microsoft", "ai.onnx.ml", "x"])
    elif kind == 2:
        shape = rng.choice([[10**5, 10**5], [2**31], [2**62], [-1], [0]])
        model.graph.initializer.append(helper.make_tensor("much", onnx.TensorProto.INT64, [len(shape)], shape))
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["much"], ["many"]))
        model.graph.output.append(helper.make_tensor_value_info("many", onnx.TensorProto.FLOAT, None))
    else:
        model.opset_import.append(helper.make_opsetid(rng.choice(["com.microsoft", "", "x"]), rng.choice([1, 20, 99])))


def bits(content: bytes, rng: Random) -> bytes:
    """Bits anywhere."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: Random) -> bytes:
    """Cut off, or with more behind."""
    return content[: rng.randrange(len(content))] if rng.random() < 0.7 else content + bytes(rng.randrange(1, 100))


LIES: dict[str, Callable[[bytes, Random], bytes]] = {
    "another value": _of_metadata(other_value),
    "a key removed": _of_metadata(removal),
    "a key added": _of_metadata(addition),
    "no metadata": _changed(metadata_text),
    "a field": _changed(field),
    "data in another file": _changed(external),
    "operations": _changed(operation),
    "bits": bits,
    "cut": cut,
}

FORGED = (
    "another value",
    "a key removed",
    "a key added",
    "no metadata",
    "a field",
    "data in another file",
    "operations",
)
