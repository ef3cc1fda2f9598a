"""The messages between a worker and the server as bytes: nothing in them is ever unpickled."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import Any, NamedTuple

import torch

from yfkernels._checks import require
from yfkernels.asynchronous.flat import FlatBuffers
from yfkernels.asynchronous.push import Next, PushResult, Refusal, Reply, Request, Version

_MAGIC = b"YFKA"
_PROTOCOL = 1
_TENSORS = 16  # a header has room for so many
# of both: codes are places in these lists, so that entries are added at the end alone
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_NEXT = tuple(Next)
_REFUSALS = tuple(Refusal)

# magic, protocol, kind, tensors, token, worker, next, outcome, version, lease, staleness, samples,
# loss, model, dtypes, sizes; then a checksum of these and of the indices; then the indices
_FIELDS = struct.Struct(f"<4sHBBQIBB2xqqqqdQ{_TENSORS}s{_TENSORS}Q")
_CHECKSUM = struct.Struct("<I")
SIZE = _FIELDS.size + _CHECKSUM.size  # bytes of a header without indices


class Kind(IntEnum):
    """What a message is.

    Gradients and parameters are sent before their header, as raw bytes, one message for each flat
    tensor. Nothing of them is used before the header that comes with them has been found to fit;
    and nothing at all is received before a first header has.
    """

    ASK = 1  # by a worker: a request without a gradient
    PUSH = 2  # by a worker: a request after its gradient
    REPLY = 3  # by the server, after the parameters if there is work
    REFUSE = 4  # by the server: `Fault` says why it closes the connection


class Fault(str, Enum):
    """Why a message makes its receiver close the connection, before anything of it is used."""

    MAGIC = "it is not of this protocol"
    PROTOCOL = "it is of another version of this protocol"
    CHECKSUM = "its checksum is wrong"
    CODE = "a code in it means nothing"
    TOKEN = "it is from another run"
    WORKER = "it names another worker"
    KIND = "it is not the message that is due"
    MODEL = "it is about another model: shapes, sizes or dtypes differ"
    SHORT = "less was sent than it says"
    LOST = "its sender counts as lost"


_FAULTS = tuple(Fault)


class WireError(ConnectionError):
    """A message that does not fit.

    Attributes:
        fault: why.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"a message was refused: {fault.value}")
        self.fault = fault


class Layout(NamedTuple):
    """The form of a model's flat tensors.

    Attributes:
        dtypes: of each.
        sizes: their numbers of elements.
        model: a hash of the shapes and dtypes of the parameters, in their order.
    """

    dtypes: tuple[torch.dtype, ...]
    sizes: tuple[int, ...]
    model: int

    @classmethod
    def of(cls, buffers: FlatBuffers) -> Layout:
        """The layout of a model.

        Raises:
            TypeError: a dtype that has no code.
            ValueError: more flat tensors than a header has room for.
        """
        flats = buffers.parameters
        require(len(flats) <= _TENSORS, "model", len(flats), f"of at most {_TENSORS} flat tensors")
        for flat in flats:
            if flat.dtype not in _DTYPES:
                known = ", ".join(str(dtype) for dtype in _DTYPES)
                raise TypeError(f"Invalid model: it has parameters of {flat.dtype}; give {known}")
        shapes = repr([(tuple(param.shape), str(param.dtype)) for param in buffers.params])
        digest = int.from_bytes(hashlib.sha256(shapes.encode()).digest()[:8], "little")
        dtypes, sizes = (flat.dtype for flat in flats), (flat.numel() for flat in flats)
        return cls(tuple(dtypes), tuple(sizes), digest)

    def __str__(self) -> str:
        tensors = zip(self.dtypes, self.sizes)
        return " and ".join(f"{size} of {dtype}" for dtype, size in tensors)


class Header(NamedTuple):
    """A header's fields.

    Attributes:
        kind: what the message is.
        token: of the run: the `run` of its versions.
        worker: the worker's rank.
        layout: of the sender's model.
        version: number of the version: that of a gradient, or of the parameters.
        lease: of a gradient, or the next; None without one.
        indices: the samples of the next batch, of which there may be any number.
        loss: of a gradient's batch.
        next: what the worker is to do.
        result: what became of a gradient.
        fault: why the connection is closed.
    """

    kind: Kind
    token: int
    worker: int
    layout: Layout
    version: int = 0
    lease: int | None = None
    indices: list[int] | None = None
    loss: float = math.nan
    next: Next = Next.STOP
    result: PushResult | None = None
    fault: Fault | None = None


def pack(header: Header) -> bytes:
    """A header as bytes: `SIZE` of them, and 8 for each index.

    Example:
        >>> layout = Layout((torch.float32,), (16,), model=3)
        >>> header = Header(Kind.ASK, token=7, worker=1, layout=layout)
        >>> len(pack(header)) == SIZE, unpack(pack(header))[:3] == header[:3]
        (True, True)
    """
    layout, result = header.layout, header.result
    sizes = [*layout.sizes, *(0 for _ in range(_TENSORS - len(layout.sizes)))]
    fields = _FIELDS.pack(
        _MAGIC,
        _PROTOCOL,
        header.kind,
        len(layout.sizes),
        header.token,
        header.worker,
        _NEXT.index(header.next),
        _outcome(header),
        header.version,
        -1 if header.lease is None else header.lease,
        0 if result is None else result.staleness,
        -1 if header.indices is None else len(header.indices),
        header.loss,
        layout.model,
        bytes(_DTYPES.index(dtype) for dtype in layout.dtypes),
        *sizes,
    )
    indices = struct.pack(f"<{len(header.indices or ())}q", *(header.indices or ()))
    return fields + _CHECKSUM.pack(zlib.crc32(indices, zlib.crc32(fields))) + indices


def unpack(raw: bytes | memoryview) -> Header:
    """The header that bytes begin with, of any run, worker and model.

    Raises:
        WireError: the bytes are no header of this protocol.
    """
    if len(raw) < SIZE:
        raise WireError(Fault.SHORT)
    (checksum,) = _CHECKSUM.unpack_from(raw, _FIELDS.size)
    magic, protocol, kind, tensors, token, worker, following, outcome, *rest = _FIELDS.unpack_from(
        raw
    )
    version, lease, staleness, samples, loss, model, dtypes, *sizes = rest
    if magic != _MAGIC:
        raise WireError(Fault.MAGIC)
    if protocol != _PROTOCOL:
        raise WireError(Fault.PROTOCOL)
    stop = SIZE + 8 * max(samples, 0)
    if stop > len(raw) or checksum != zlib.crc32(raw[SIZE:stop], zlib.crc32(raw[: _FIELDS.size])):
        raise WireError(Fault.CHECKSUM)
    try:
        kind = Kind(kind)
        layout = Layout(
            tuple(_DTYPES[code] for code in dtypes[:tensors]), tuple(sizes[:tensors]), model
        )
        refused = kind is Kind.REFUSE
        return Header(
            kind,
            token,
            worker,
            layout,
            version,
            lease if lease >= 0 else None,
            list(struct.unpack_from(f"<{samples}q", raw, SIZE)) if samples >= 0 else None,
            loss,
            _NEXT[following],
            None if refused else _result(outcome, staleness),
            _FAULTS[outcome] if refused else None,
        )
    except (IndexError, ValueError) as error:
        raise WireError(Fault.CODE) from error


def _outcome(header: Header) -> int:
    """A fault of a refused message; else 0 for no push, 1 for applied, and the refusals."""
    if header.fault is not None:
        return _FAULTS.index(header.fault)
    if header.result is None:
        return 0
    return 1 if header.result.refusal is None else 2 + _REFUSALS.index(header.result.refusal)


def _result(outcome: int, staleness: int) -> PushResult | None:
    if outcome == 0:
        return None
    refusal = None if outcome == 1 else _REFUSALS[outcome - 2]
    return PushResult(refusal is None, staleness, refusal)


class Ends(NamedTuple):
    """What the two ends of one connection have agreed on: the makers and readers of headers.

    Attributes:
        token: of the run.
        worker: the worker's rank.
        layout: of the model.
    """

    token: int
    worker: int
    layout: Layout

    def header(self, kind: Kind, **fields: Any) -> Header:
        """A header of this connection."""
        return Header(kind, *self)._replace(**fields)

    def read(self, raw: bytes | memoryview, due: Sequence[Kind]) -> Header:
        """A header that came, checked before anything of what follows it is received.

        Raises:
            WireError: it does not fit.
        """
        header = unpack(raw)
        if header.kind is Kind.REFUSE and Kind.REFUSE in due:
            return header  # which says what does not fit, so that it cannot fit itself
        if header.token != self.token:
            raise WireError(Fault.TOKEN)
        if header.worker != self.worker:
            raise WireError(Fault.WORKER)
        if header.kind not in due:
            raise WireError(Fault.KIND)
        if header.layout != self.layout:
            raise WireError(Fault.MODEL)
        return header

    def request(self, request: Request, has_gradient: bool) -> Header:
        """A worker's request."""
        if not has_gradient:
            return self.header(Kind.ASK)
        assert request.version is not None
        return self.header(
            Kind.PUSH,
            version=request.version.number,
            lease=request.lease,
            loss=request.loss,
        )

    def reply(self, reply: Reply) -> Header:
        """The server's reply."""
        return self.header(
            Kind.REPLY,
            version=reply.version.number,
            lease=reply.lease,
            indices=reply.indices,
            next=reply.next,
            result=reply.result,
        )

    def why(self, refusal: Header) -> str:
        """What a worker is to be told whose message was refused."""
        fault = Fault.CODE if refusal.fault is None else refusal.fault
        why = f"the server closed the connection, as it was sent what does not fit: {fault.value}"
        if fault is Fault.MODEL:
            why += f"; the server has {refusal.layout}, this worker {self.layout}"
        return why

    def version(self, header: Header) -> Version:
        """The version that a header names."""
        return Version(self.token, header.version)
