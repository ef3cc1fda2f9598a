"""`python examples/plain_loop.py` trains with YellowFin, nothing set, saves and resumes."""

import tempfile
from pathlib import Path

import sklearn.datasets
import torch
from torch import Tensor, nn

import yfkernels


def load_digits() -> tuple[Tensor, Tensor]:
    """1797 images of 8 x 8 pixels, flat, and their labels."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


def train(images: Tensor, labels: Tensor, checkpoint: Path, epochs: int) -> list[float]:
    """Trains until `epochs` are done, from the checkpoint if there is one; the losses by epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = yfkernels.YellowFin(model.parameters())
    losses: list[float] = []

    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])  # the model first
        optimizer.load_state_dict(saved["optimizer"])
        losses = saved["losses"]

    first = len(losses)
    for epoch in range(first, epochs):
        shuffle = torch.Generator().manual_seed(epoch)  # so that a resumed epoch is the same
        total = 0.0
        for rows in torch.randperm(len(images), generator=shuffle).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / len(images))
        saved = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "losses": losses,
        }
        torch.save(saved, checkpoint)

    lr, momentum = optimizer.tuned_lrs()[0], optimizer.diagnostics()["momentum"]
    print(f"epochs {first} to {epochs}: lr {lr:.2g}, momentum {momentum:.2f}")
    return losses


def main() -> None:
    images, labels = load_digits()
    with tempfile.TemporaryDirectory() as folder:
        straight = train(images, labels, Path(folder, "straight.pt"), epochs=10)
        train(images, labels, Path(folder, "resumed.pt"), epochs=5)
        resumed = train(images, labels, Path(folder, "resumed.pt"), epochs=10)
    print(f"loss: {resumed[0]:.4f} -> {resumed[-1]:.4f}")
    print("resumed bit for bit:", resumed == straight)


if __name__ == "__main__":
    main()
