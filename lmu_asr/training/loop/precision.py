"""Number formats of a step: which one is asked for, and which is fast here.

bfloat16 halves the time of a step where a processor has instructions for it; where it has none, a
product can take hundreds of times longer. So it is measured, carefully.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from lmu_asr.training.sizing.probe import Prober
from lmu_asr.training.sizing.profile import Bucket

NAMES = {None: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}
SIZE, REPEATS = 256, 3
WORTH_A_TRY = 3.0  # bfloat16 products that take longer than this many float32 ones end the matter
WORTH_SAYING = 0.85
ROWS = 4


def dtype_of(name: str) -> torch.dtype | None:
    """Autocast type of a name in a plan."""
    return {name: dtype for dtype, name in NAMES.items()}[name]


def time_precisions(asked: str, prober: Prober, bucket: Bucket) -> dict[str, Any]:
    """Measure float32 and bfloat16 for ``train.precision=auto`` and say which one is used.

    On a CPU that is always float32, with a hint where bfloat16 was faster: it changes the numbers
    of a run. On a GPU that has bfloat16 it is bfloat16 unless that was measured to be slower.

    Args:
        asked: ``train.precision``.
        prober: runs the steps.
        bucket: utterances of a common length.
    """
    step = prober.step
    used = NAMES[step.precision]
    if asked != "auto":
        return {"asked": asked, "used": used}
    ratio = product_ratio(step.world.device)
    about: dict[str, Any] = {"asked": asked, "used": used, "bf16_product_over_float32": ratio}
    # without instructions for bfloat16 a whole step could take minutes, so none is tried
    if ratio > WORTH_A_TRY:
        return {**about, "used": "float32"}
    try:
        seconds = {name: _seconds(prober, bucket, name) for name in ("float32", "bf16")}
    except MemoryError:
        return {**about, "why": f"{ROWS} utterances do not fit: not measured"}
    about["seconds"] = seconds
    share = seconds["bf16"] / seconds["float32"]
    if step.world.device.type == "cuda":
        return {**about, "used": "float32" if share > 1.05 else used}
    if share < WORTH_SAYING:
        about["hint"] = f"train.precision=bf16 would take {share:.0%} of the time of float32 here"
    return about


def product_ratio(device: torch.device) -> float:
    """Time of a bfloat16 matrix product over that of a float32 one; the fastest of a few of each."""
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(SIZE, SIZE, device=device, dtype=dtype)
        times[dtype] = min(_product_seconds(x) for _ in range(REPEATS))
    return round(times[torch.bfloat16] / times[torch.float32], 3)


def _product_seconds(x: torch.Tensor) -> float:
    start = time.perf_counter()
    y = x @ x
    if y.is_cuda:
        # kernels run asynchronously: without this only the launch is timed
        torch.cuda.synchronize(y.device)
    return max(time.perf_counter() - start, 1e-9)


def _seconds(prober: Prober, bucket: Bucket, name: str) -> float:
    """Seconds of a step, the faster of two; the first of a format makes what it keeps."""
    step = prober.step
    before = step.precision
    step.precision = dtype_of(name)
    try:
        return min(prober.run(ROWS, bucket, count=False).seconds for _ in range(2))
    finally:
        step.precision = before
