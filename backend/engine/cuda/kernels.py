"""Triton kernels of a decoder's steps on a GPU: rotation and writing, attention over pages, norm, SwiGLU.

Compiled at first use, for NVIDIA and AMD alike. With TRITON_INTERPRET=1 they run on the processor, for tests.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rotate_and_write(
    qkv, queries, keys, values, positions, slots, cosine, sine,
    ROTATE: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """One program a token and head: queries and keys are rotated, keys and values put into their slots.

    Args:
        qkv: [tokens, (HEADS + 2 KV_HEADS) × D].
        queries: out, [tokens, HEADS, D].
        keys: pages as [slots, KV_HEADS, D].
        values: the same.
        positions: int64 [tokens].
        slots: int64 [tokens].
        cosine: float32 [positions, D / 2].
        sine: the same.
        ROTATE: False for layers without positional encoding.
        HEADS: of queries.
        KV_HEADS: of keys and values.
        D: size of a head.
        HALF: a power of two from D / 2 on.
    """
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = tl.arange(0, HALF)
    inside = i < D // 2
    row = qkv + token * ((HEADS + 2 * KV_HEADS) * D) + head * D
    a = tl.load(row + i, mask=inside)
    b = tl.load(row + D // 2 + i, mask=inside)
    if ROTATE:  # noqa: SIM102 - known when it is compiled, unlike the other
        if head < HEADS + KV_HEADS:
            at = tl.load(positions + token) * (D // 2) + i
            c, s = tl.load(cosine + at, mask=inside), tl.load(sine + at, mask=inside)
            x, y = a.to(tl.float32), b.to(tl.float32)
            a, b = (x * c - y * s).to(qkv.dtype.element_ty), (y * c + x * s).to(qkv.dtype.element_ty)
    if head < HEADS:
        to = queries + (token * HEADS + head) * D
    elif head < HEADS + KV_HEADS:
        to = keys + (tl.load(slots + token) * KV_HEADS + head - HEADS) * D
    else:
        to = values + (tl.load(slots + token) * KV_HEADS + head - HEADS - KV_HEADS) * D
    tl.store(to + i, a, mask=inside)
    tl.store(to + D // 2 + i, b, mask=inside)


@triton.jit
def attend(
    queries, keys, values, out, parts, tops, sums, tables, positions, query_starts, context_lens, scale, width,
    PAGE: tl.constexpr, GROUP: tl.constexpr, LANES: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr,
    DEPTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPLIT: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One program a sequence × split, key head and bunch of tokens: online softmax over a split of its pages.

    FlashAttention 2 (Dao 2023) over block tables; with several splits FlashDecoding, whose halves `join` puts together.
    A key is seen by the queries at its position and behind it, so positions may have gaps. Splits are of a fixed size:
    how many there are beyond a row's context changes nothing.

    Args:
        queries: [tokens, GROUP × KV_HEADS, D], rotated.
        keys: pages, [blocks × PAGE, KV_HEADS, D].
        values: the same.
        out: [tokens, GROUP × KV_HEADS, D]; written where SPLITS is 1.
        parts: float32 [SPLITS, tokens, GROUP × KV_HEADS, D], a split's sums, not divided; where SPLITS is more than 1.
        tops: float32 [SPLITS, tokens, GROUP × KV_HEADS], a split's largest scores.
        sums: the same of its weights.
        tables: int32 [sequences, width].
        positions: int64 [tokens].
        query_starts: int32 [sequences + 1].
        context_lens: int32 [sequences].
        scale: of scores.
        width: of `tables`.
        PAGE: tokens of a block.
        GROUP: query heads of a key head.
        LANES: a power of two from GROUP on.
        KV_HEADS: of keys and values.
        D: size of a head.
        DEPTH: a power of two from D on, at least 16.
        ROWS: rows of a tile, LANES × its tokens, at least 16.
        COLUMNS: keys of a tile.
        SPLIT: keys of a split.
        SPLITS: how many there are.
    """
    bunch, head = tl.program_id(2), tl.program_id(1)
    sequence, split = tl.program_id(0) // SPLITS, tl.program_id(0) % SPLITS
    end = tl.load(query_starts + sequence + 1)
    first = tl.load(query_starts + sequence) + bunch * (ROWS // LANES)
    if first >= end:
        return
    row, depth = tl.arange(0, ROWS), tl.arange(0, DEPTH)
    token, lane = first + row // LANES, row % LANES
    valid = (token < end) & (lane < GROUP)
    position = tl.load(positions + token, mask=valid, other=-1)
    at = token.to(tl.int64) * (GROUP * KV_HEADS) + head * GROUP + lane
    inside = valid[:, None] & (depth < D)[None, :]
    query = tl.load(queries + at[:, None] * D + depth[None, :], mask=inside, other=0.0)
    context = tl.load(context_lens + sequence)
    begin = split * SPLIT
    stop = tl.minimum(tl.minimum(begin + SPLIT, context), (tl.max(position, 0) + 1).to(tl.int32))
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    held = tl.zeros((ROWS, DEPTH), tl.float32)
    for column in range(begin, stop, COLUMNS):
        key = column + tl.arange(0, COLUMNS)
        there = key < stop
        block = tl.load(tables + sequence * width + key // PAGE, mask=there, other=0).to(tl.int64)
        base = ((block * PAGE + key % PAGE) * KV_HEADS + head) * D
        loaded = there[:, None] & (depth < D)[None, :]
        k = tl.load(keys + base[:, None] + depth[None, :], mask=loaded, other=0.0)
        score = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
        score = tl.where(there[None, :] & (key[None, :] <= position[:, None]), score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)  # a row may see none of these keys
        weight = tl.exp(score - finite[:, None])
        shrunk = tl.exp(top - finite)
        total = total * shrunk + tl.sum(weight, 1)
        v = tl.load(values + base[:, None] + depth[None, :], mask=loaded, other=0.0)
        held = held * shrunk[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        top = higher
    if SPLITS == 1:
        result = held / tl.where(total == 0.0, 1.0, total)[:, None]
        tl.store(out + at[:, None] * D + depth[None, :], result.to(out.dtype.element_ty), mask=inside)
    else:
        rows = tl.load(query_starts + tl.num_programs(0) // SPLITS).to(tl.int64) * (GROUP * KV_HEADS)
        at += split * rows
        if begin < stop:  # what lies behind a context has no part, and none is read
            tl.store(parts + at[:, None] * D + depth[None, :], held, mask=inside)
        tl.store(tops + at, top, mask=valid)
        tl.store(sums + at, total, mask=valid)


@triton.jit
def join(parts, tops, sums, out, rows, D: tl.constexpr, DEPTH: tl.constexpr, SPLITS: tl.constexpr):
    """One program a row of tokens × heads: what `attend` left of each split, in one."""
    row, depth = tl.program_id(0).to(tl.int64), tl.arange(0, DEPTH)
    inside = depth < D
    top = tl.load(tops + row)
    for split in range(1, SPLITS):
        top = tl.maximum(top, tl.load(tops + split * rows + row))
    total, held = 0.0, tl.zeros((DEPTH,), tl.float32)
    for split in range(SPLITS):
        at = split * rows + row
        seen = tl.load(sums + at)
        shrunk = tl.exp(tl.load(tops + at) - top)
        total += shrunk * seen
        held += shrunk * tl.load(parts + at * D + depth, mask=inside & (depth * 0.0 + seen > 0.0), other=0.0)
    tl.store(out + row * D + depth, (held / total).to(out.dtype.element_ty), mask=inside)


@triton.jit
def add_rms_norm(
    residual, delta, weight, out, width, eps, ADDS: tl.constexpr, BLOCK: tl.constexpr
):
    """One program a row: `delta` is added to `residual` in place, then its RMS norm is written to `out`."""
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = i < width
    at = row * width + i
    x = tl.load(residual + at, mask=inside, other=0.0)
    if ADDS:
        added = x.to(tl.float32) + tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        x = added.to(residual.dtype.element_ty)
        tl.store(residual + at, x, mask=inside)
    x = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    w = tl.load(weight + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (x * scale * w).to(out.dtype.element_ty), mask=inside)


@triton.jit
def silu_mul(gate_up, out, width, BLOCK: tl.constexpr):
    """One program a row and a piece of it: silu(gate) × up."""
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < width
    gate = tl.load(gate_up + row * 2 * width + i, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + i, mask=inside, other=0.0).to(tl.float32)
    silu = (gate * tl.sigmoid(gate)).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * width + i, (silu * up).to(out.dtype.element_ty), mask=inside)
