"""A rule's sums of the move, one or two: from tiles to a piece, and at last to the table.

Over the rounds of a piece in float32, then in float64. Sums are tuples, one place for each.
"""

from __future__ import annotations

import triton
import triton.language as tl

from yfkernels.ops.triton.reduce import is_last, strided_total


@triton.jit
def no_sums(zeros, MOVE_SUMS: tl.constexpr):
    """Where sums of that shape begin."""
    if MOVE_SUMS == 1:
        return (zeros,)
    else:
        return zeros, zeros


@triton.jit
def add_tile(sums, shares, mask):
    """Adds the elements' shares, where the mask is true if there is one."""
    if len(sums) == 1:
        return (_add_shares(sums[0], shares[0], mask),)
    else:
        return _add_shares(sums[0], shares[0], mask), _add_shares(sums[1], shares[1], mask)


@triton.jit
def _add_shares(sums, shares, mask):
    if mask is not None:
        shares = tl.where(mask, shares, 0.0)
    # four neighbours at a time: they are in one thread
    return sums + tl.sum(shares.reshape(sums.shape[0], 4), axis=1)


@triton.jit
def add_rounds(totals, sums):
    """Adds what rounds over tiles have summed."""
    if len(totals) == 1:
        return (totals[0] + tl.sum(sums[0].to(tl.float64)),)
    else:
        return (
            totals[0] + tl.sum(sums[0].to(tl.float64)),
            totals[1] + tl.sum(sums[1].to(tl.float64)),
        )


@triton.jit
def end_piece(piece_move_sums, piece, totals):
    """piece_move_sums: [pieces, move_sums]."""
    place = piece_move_sums + piece * len(totals)
    tl.store(place, totals[0])
    if len(totals) == 2:
        tl.store(place + 1, totals[1])


@triton.jit
def end_table(piece_move_sums, num_pieces, ticket, move_sums, MOVE_SUMS: tl.constexpr):
    """By the program that is done last, in an order that depends on the number of pieces alone."""
    if is_last(ticket, tl.num_programs(0)):
        for k in tl.static_range(MOVE_SUMS):
            tl.store(move_sums + k, strided_total(piece_move_sums + k, num_pieces, MOVE_SUMS))
