"""LoRA, YellowFin untuned beside AdamW on a grid: held-out loss, a row for each training.

    python -m bench.convergence.lora --out bench/results/lora.csv

A transformer of two layers learns the source of argparse, byte by byte, and is then adapted to the
prose of Python's help pages, with the same batches for every optimizer. Takes peft and
transformers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from bench.common.results import write_csv
from yfkernels import YellowFin

LENGTH, BATCH, HELD_OUT = 64, 16, 200
PRETRAINING = 1000  # steps
STEPS = (100, 200)
CONTESTANTS: dict[str, Callable[[Any], Optimizer]] = {
    "yellowfin": YellowFin,
    **{f"adamw {lr:g}": partial(AdamW, lr=lr) for lr in (1e-3, 3e-3, 1e-2, 3e-2)},
}
Row = tuple[int, str, int, float]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="how many; default: 5")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    options = parser.parse_args(argv)
    rows: list[Row] = []
    for seed in range(options.seeds):
        rows += trained(seed)
        write_csv(options.out, ("seed", "optimizer", "steps", "loss"), rows)
        print(f"seed {seed} done", flush=True)


def trained(seed: int) -> list[Row]:
    """Of one base model, which every optimizer adapts."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"vocab_size": 256, "n_positions": LENGTH, "n_embd": 64, "n_layer": 2, "n_head": 4}
    base = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    source = _sequences(Path(argparse.__file__).read_bytes())
    _train(base, AdamW(base.parameters(), lr=1e-3), source, PRETRAINING)
    prose = _sequences("".join(topics.values()).encode()[:100_000])
    lora = LoraConfig(r=8, target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True)
    rows = []
    for name, build in CONTESTANTS.items():
        torch.manual_seed(1000 + seed)
        model = get_peft_model(deepcopy(base), lora)
        optimizer, done = build(model.parameters()), 0
        for steps in STEPS:
            _train(model, optimizer, prose[:-HELD_OUT], steps - done)
            rows.append((seed, name, steps, round(_evaluated(model, prose[-HELD_OUT:]), 4)))
            done = steps
    return rows


def _sequences(text: bytes) -> Tensor:
    """A token is a byte."""
    return torch.tensor(list(text))[: len(text) // LENGTH * LENGTH].reshape(-1, LENGTH)


def _train(model: nn.Module, optimizer: Optimizer, sequences: Tensor, steps: int) -> None:
    model.train()
    for _ in range(steps):
        batch = sequences[torch.randint(len(sequences), (BATCH,))]
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()


@torch.no_grad()
def _evaluated(model: nn.Module, sequences: Tensor) -> float:
    model.eval()
    return float(model(input_ids=sequences, labels=sequences).loss)


if __name__ == "__main__":
    main()
