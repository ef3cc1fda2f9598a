"""`python examples/mixed_precision.py` trains under autocast with accumulated gradients."""

import sklearn.datasets
import torch
from torch import Tensor, nn

import yfkernels

EPOCHS = 10
BATCH = 64
PARTS = 4  # of a batch, whose gradients are accumulated


def load_digits(device: torch.device) -> tuple[Tensor, Tensor]:
    """1797 images of 8 x 8 pixels, flat, and their labels."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32, device=device) / 16
    return images, torch.tensor(labels, device=device)


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where it is fast, since it needs no scaler; else float16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def main() -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(device)
    images, labels = load_digits(device)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
    optimizer = yfkernels.YellowFin(model.parameters(), max_norm=1.0)  # in place of clip_grad_norm_
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    losses = []
    for _ in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(images), device=device).split(BATCH):
            optimizer.zero_grad()
            for rows in batch.chunk(PARTS):
                with torch.autocast(device.type, dtype):
                    loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
                loss = loss * len(rows) / len(batch)  # the parts add up to the mean of the batch
                scaler.scale(loss).backward()
                total += loss.item() * len(batch)
            scaler.step(optimizer)
            scaler.update()
        losses.append(total / len(images))

    print(f"{device.type}, {dtype}, scaler {'on' if scaler.is_enabled() else 'off'}")
    print(f"loss: {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
