"""`python examples/hypergradients.py` lets SGD tune a learning rate that begins far too small."""

from functools import partial

import sklearn.datasets
import torch
from torch import Tensor, nn

import yfkernels

STEPS = 200
BATCH = 64
LR = 1e-4


def load_digits() -> tuple[Tensor, Tensor]:
    """1797 images of 8 x 8 pixels, flat, and their labels."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def make_sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)


def draw(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.randint(len(images), (BATCH,))
    return images[rows], labels[rows]


def compute_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(images), labels)


def main() -> None:
    images, labels = load_digits()
    train = images[:1200], labels[:1200]
    validation = images[1200:], labels[1200:]

    before = compute_loss(make_model(), *train)

    def report(name: str, model: nn.Module, lr: float) -> None:
        after = compute_loss(model, *train)
        print(f"{name:6}  lr {LR:.4f} -> {lr:.4f}  loss {before:.4f} -> {after:.4f}")

    model = make_model()
    optimizer = make_sgd(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        compute_loss(model, *draw(*train)).backward()
        optimizer.step()
    report("SGD", model, LR)

    model = make_model()
    optimizer = yfkernels.HD(make_sgd(model))
    for _ in range(STEPS):
        optimizer.zero_grad()
        compute_loss(model, *draw(*train)).backward()
        optimizer.step()
    report("HD", model, optimizer.diagnostics()["lr"][0])

    model = make_model()
    tuner = yfkernels.MARTHE(make_sgd(model))
    for _ in range(STEPS):
        training_loss = partial(compute_loss, model, *draw(*train))  # the batch is drawn here,
        validation_loss = partial(compute_loss, model, *draw(*validation))  # before the step
        tuner.step(training_loss, validation_loss)  # calls backward() itself
    report("MARTHE", model, tuner.diagnostics()["lr"][0])


if __name__ == "__main__":
    main()
