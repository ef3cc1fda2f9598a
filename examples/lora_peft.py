"""`python examples/lora_peft.py` adapts a small GPT-2 with LoRA, by YellowFin and by AdamW."""

import copy
from functools import partial

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import GPT2Config, GPT2LMHeadModel

from yfkernels import YellowFin

VOCABULARY = 32
LENGTH = 16
BATCH = 32


def count(sequences: int, direction: int) -> Tensor:
    """Sequences that count up (direction 1) or down (-1) from anywhere in steps of 1 to 6."""
    first = torch.randint(VOCABULARY, (sequences, 1))
    step = torch.randint(1, 7, (sequences, 1)) * direction
    return (first + step * torch.arange(LENGTH)) % VOCABULARY


def train(model: nn.Module, optimizer: Optimizer, direction: int, steps: int) -> None:
    model.train()
    for _ in range(steps):
        batch = count(BATCH, direction)
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, direction: int) -> float:
    model.eval()
    batch = count(1000, direction)
    return model(input_ids=batch, labels=batch).loss.item()


def main() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    base = GPT2LMHeadModel(config)
    train(base, AdamW(base.parameters(), lr=1e-3), direction=1, steps=300)

    lora = LoraConfig(target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True)
    optimizers = {
        "YellowFin": YellowFin,  # frozen parameters have no gradient and cost nothing
        "AdamW, lr 0.001": partial(AdamW, lr=1e-3),
        "AdamW, lr 0.01": partial(AdamW, lr=1e-2),
    }
    for name, make_optimizer in optimizers.items():
        torch.manual_seed(0)
        model = get_peft_model(copy.deepcopy(base), lora)
        before = evaluate(model, direction=-1)
        train(model, make_optimizer(model.parameters()), direction=-1, steps=100)
        print(f"{name:15}  loss {before:.4f} -> {evaluate(model, direction=-1):.4f}")


if __name__ == "__main__":
    main()
