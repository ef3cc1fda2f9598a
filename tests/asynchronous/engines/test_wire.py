"""Headers: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import ast
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from yfkernels.asynchronous import FlatBuffers, Next, PushResult, Refusal, Reply, Request, Version
from yfkernels.asynchronous.engines.wire import (
    SIZE,
    Ends,
    Fault,
    Header,
    Kind,
    Layout,
    WireError,
    pack,
    unpack,
)

LAYOUT = Layout((torch.float32, torch.bfloat16), (2**40, 64), model=2**64 - 1)
ENDS = Ends(token=2**63 - 1, worker=7, layout=LAYOUT)
FULL = ENDS.reply(
    Reply(
        Next.WORK, Version(ENDS.token, 5), PushResult(False, 3, Refusal.STALE), 9, [4, 0, 2**62 + 1]
    )
)


def headers() -> Iterator[Header]:
    """Every kind and every code."""
    for kind in Kind:
        yield ENDS.header(kind, fault=Fault.MAGIC if kind is Kind.REFUSE else None)
    for following in Next:
        yield FULL._replace(next=following)
    for refusal in Refusal:
        yield FULL._replace(result=PushResult(False, -2, refusal))
    yield FULL._replace(result=PushResult(True, 0), lease=None, indices=None)
    yield FULL._replace(result=None, lease=0, indices=[])
    for fault in Fault:
        yield ENDS.header(Kind.REFUSE, fault=fault)
    for loss in (0.1, math.inf, -0.0):
        yield FULL._replace(loss=loss)


def comparable(header: Header) -> Header:
    """Its loss may be NaN, which equals nothing."""
    return header._replace(loss=0.0)


@pytest.mark.parametrize("header", list(headers()), ids=lambda header: header.kind.name)
def test_what_goes_in_comes_out(header: Header) -> None:
    raw = pack(header)
    assert len(raw) == SIZE + 8 * len(header.indices or ())
    for read in (unpack(raw), unpack(memoryview(raw + b"what came before"))):
        assert comparable(read) == comparable(header)
        assert math.isnan(read.loss) if math.isnan(header.loss) else read.loss == header.loss


def test_no_changed_byte_gets_in() -> None:
    raw = pack(FULL)
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 0x10
        with pytest.raises(WireError) as error:
            unpack(changed)
        assert error.value.fault in (Fault.MAGIC, Fault.PROTOCOL, Fault.CHECKSUM)


def test_no_header_that_is_cut_short_gets_in() -> None:
    raw = pack(FULL)
    for length in range(0, len(raw) - 1):
        with pytest.raises(WireError):
            unpack(raw[:length] + bytes(len(raw) - length))


@pytest.mark.parametrize("place", ["kind", "dtype", "next", "outcome"])
def test_no_code_without_a_meaning_gets_in(place: str) -> None:
    """By a sender who knows the checksum."""
    offset = {"kind": 6, "next": 20, "outcome": 21, "dtype": 72}[place]
    raw = bytearray(pack(FULL)[: SIZE - 4])
    raw[offset] = 200
    indices = pack(FULL)[SIZE:]
    whole = bytes(raw) + struct.pack("<I", zlib.crc32(indices, zlib.crc32(raw))) + indices
    with pytest.raises(WireError) as error:
        unpack(whole)
    assert error.value.fault is Fault.CODE


@pytest.mark.parametrize(
    ("theirs", "fault"),
    [
        (ENDS._replace(token=1), Fault.TOKEN),
        (ENDS._replace(worker=8), Fault.WORKER),
        (ENDS._replace(layout=LAYOUT._replace(model=1)), Fault.MODEL),
        (ENDS._replace(layout=LAYOUT._replace(sizes=(64, 64))), Fault.MODEL),
        (
            ENDS._replace(layout=LAYOUT._replace(dtypes=(torch.bfloat16, torch.float32))),
            Fault.MODEL,
        ),
        (ENDS._replace(layout=Layout(LAYOUT.dtypes[:1], LAYOUT.sizes[:1], 2**64 - 1)), Fault.MODEL),
    ],
)
def test_ends_agree_or_part(theirs: Ends, fault: Fault) -> None:
    with pytest.raises(WireError, match=fault.value) as error:
        ENDS.read(pack(theirs.request(Request(""), False)), [Kind.ASK])
    assert error.value.fault is fault
    reason = ENDS.header(Kind.REFUSE, fault=fault)
    assert theirs.read(pack(reason), [Kind.REPLY, Kind.REFUSE]).fault is fault


def test_only_what_is_due_is_read() -> None:
    push = pack(ENDS.request(Request("", Version(ENDS.token, 3), 4, 0.5), True))
    header = ENDS.read(push, [Kind.ASK, Kind.PUSH])
    assert (ENDS.version(header), header.lease, header.loss) == ((ENDS.token, 3), 4, 0.5)
    for due in ([Kind.ASK], [Kind.REPLY, Kind.REFUSE]):
        with pytest.raises(WireError, match=Fault.KIND.value):
            ENDS.read(push, due)
    with pytest.raises(WireError, match=Fault.KIND.value):
        ENDS.read(pack(ENDS.header(Kind.REFUSE)), [Kind.ASK, Kind.PUSH])


# ---- layouts


def layout_of(*params: nn.Parameter) -> Layout:
    return Layout.of(FlatBuffers(params))


def test_a_layout_tells_models_apart() -> None:
    def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
        return nn.Parameter(torch.zeros(shape, dtype=dtype))

    layout = layout_of(parameter(4, 4), parameter(2, dtype=torch.bfloat16))
    assert layout[:2] == ((torch.float32, torch.bfloat16), (16, 32))
    assert str(layout) == "16 of torch.float32 and 32 of torch.bfloat16"
    assert layout == layout_of(parameter(4, 4), parameter(2, dtype=torch.bfloat16))
    square, long = layout_of(parameter(4, 4)), layout_of(parameter(2, 8))
    assert (square.sizes, square.dtypes) == (long.sizes, long.dtypes)
    assert square.model != long.model
    both = parameter(3), parameter(5)
    assert layout_of(*both).model != layout_of(*reversed(both)).model


def test_what_a_header_has_no_room_or_code_for_is_named() -> None:
    with pytest.raises(TypeError, match=r"it has parameters of torch.float8_e5m2; give torch.fl"):
        layout_of(nn.Parameter(torch.zeros(4).to(torch.float8_e5m2)))
    buffers = FlatBuffers([nn.Parameter(torch.zeros(1))])
    buffers.parameters *= 17
    with pytest.raises(ValueError, match="Invalid model value: 17; it must be of at most 16 flat"):
        Layout.of(buffers)


def test_nothing_is_unpickled() -> None:
    """No module of the engines imports what could, or calls it by another name."""
    import yfkernels.asynchronous.engines as engines

    for file in Path(engines.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not {name for name in names if "pickle" in name or name.endswith("_object")}, file
        assert not names & {"load", "loads", "rpc"}, file
