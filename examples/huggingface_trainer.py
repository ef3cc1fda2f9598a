"""`python examples/huggingface_trainer.py` trains a small GPT-2 from scratch with the Trainer."""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from yfkernels import YellowFin
from yfkernels.integrations.transformers import TRAINING_ARGUMENTS, log_with

LENGTH = 64  # of a sequence, in bytes


def load_sequences() -> list[dict[str, Tensor]]:
    """The source of argparse; a token is a byte."""
    tokens = torch.tensor(list(Path(argparse.__file__).read_bytes()))
    sequences = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
    return [{"input_ids": sequence, "labels": sequence} for sequence in sequences]


def make_model() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=256,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=100,
            per_device_train_batch_size=16,
            logging_steps=20,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            **TRAINING_ARGUMENTS,  # no schedule, and no clip but the optimizer's own
        )
        trainer = Trainer(
            make_model(),
            arguments,
            train_dataset=load_sequences(),
            optimizer_cls_and_kwargs=(YellowFin, {"max_norm": 1.0}),
        )
        log_with(trainer)  # the logs then have learning rate, momentum and gradient norm, too
        trainer.train()

    logs = [log for log in trainer.state.log_history if "loss" in log]
    print(f"lr {logs[-1]['optimizer/lr']:.2g}, momentum {logs[-1]['optimizer/momentum']:.2f}")
    print(f"loss: {logs[0]['loss']:.4f} -> {logs[-1]['loss']:.4f}")


if __name__ == "__main__":
    main()
