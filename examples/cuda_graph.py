"""`python examples/cuda_graph.py` captures forward, backward and step in one CUDA graph."""

import torch
from torch import nn

import yfkernels

STEPS = 200


def main() -> None:
    if not torch.cuda.is_available():
        print("There is no CUDA device here, and a CUDA graph needs one.")
        return

    torch.manual_seed(0)
    inputs = torch.randn(1024, 20, device="cuda")
    targets = (inputs @ torch.randn(20, 3, device="cuda")).argmax(dim=1)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3)).cuda()
    optimizer = yfkernels.YellowFin(model.parameters(), capturable=True)

    # A graph reads and writes the same memory in every replay: batches are copied into these.
    x, y = inputs[:64].clone(), targets[:64].clone()

    def train_step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    # One step outside allocates what the optimizer keeps; on a side stream, as autograd wants it.
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        before = train_step().item()
    torch.cuda.current_stream().wait_stream(side_stream)

    optimizer.zero_grad()  # gradients are then allocated in the memory of the graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = train_step()

    for _ in range(STEPS):
        rows = torch.randint(len(inputs), (64,), device="cuda")
        x.copy_(inputs[rows])
        y.copy_(targets[rows])
        graph.replay()
    print(f"loss: {before:.4f} -> {loss.item():.4f}")


if __name__ == "__main__":
    main()
