"""`torchrun --nproc-per-node 4 examples/asynchronous.py` trains with workers that never wait."""

import sklearn.datasets
import torch
from torch import Tensor, nn

import yfkernels
from yfkernels.asynchronous import Batches, Server
from yfkernels.asynchronous.engines import gloo

EPOCHS = 10
BATCH = 64


def load_digits() -> tuple[Tensor, Tensor]:
    """1797 images of 8 x 8 pixels, flat, and their labels."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the processes share the cores of one machine
    images, labels = load_digits()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def compute_loss(batch: list[int]) -> Tensor:
        return nn.functional.cross_entropy(model(images[batch]), labels[batch])

    if not gloo.is_server():
        gloo.work(model, compute_loss)
        return

    # While a worker computes a gradient, the others change the parameters: its gradient is stale.
    # The closed loop measures what that adds to the momentum, and sets less of its own.
    everything = list(range(len(images)))
    before = compute_loss(everything).item()
    optimizer = yfkernels.YellowFin(model.parameters(), closed_loop=True)
    server = Server(model, optimizer, batches=Batches(len(images), BATCH, epochs=EPOCHS))
    service = gloo.serve(server)

    for name, counts in service.workers.items():
        print(f"{name}: {counts.applied} gradients")
    diagnostics = optimizer.diagnostics()
    print(f"mean staleness {server.log.mean_staleness:.2f}, momentum {diagnostics['momentum']:.2f}")
    print(f"loss: {before:.4f} -> {compute_loss(everything).item():.4f}")


if __name__ == "__main__":
    main()
