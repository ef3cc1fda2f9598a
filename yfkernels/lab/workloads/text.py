"""Predicting the next character of real text: the sources of Python's standard library.

The text is that of the Python that runs, so results compare only where `TextTask.fingerprint` is
the same.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yfkernels._checks import require
from yfkernels.lab.workloads.supervised import SupervisedTask
from yfkernels.lab.workloads.training import Batch, Evaluation

CONTEXT = 64
# Tab, newline and the printable characters of ASCII; all other bytes share one more token.
BYTES = (9, 10, *range(32, 127))
VOCABULARY = len(BYTES) + 1
TRAINING_FILES = (
    "_pydecimal", "argparse", "ast", "asyncio/base_events", "calendar", "codecs", "collections",
    "configparser", "dataclasses", "datetime", "difflib", "doctest", "email/message", "enum",
    "fractions", "functools", "gettext", "http/client", "imaplib", "inspect", "ipaddress", "locale",
    "logging", "mailbox", "mimetypes", "optparse", "pathlib", "pdb", "pickle", "pickletools",
    "platform", "plistlib", "random", "shutil", "smtplib", "socket", "statistics", "subprocess",
    "tarfile", "tempfile", "textwrap", "threading", "tokenize", "traceback", "turtle", "typing",
    "urllib/request", "uuid", "warnings", "weakref",
)  # fmt: skip
TEST_FILES = ("bdb", "cmd", "csv", "ftplib", "heapq", "json/encoder", "queue", "zipfile")
MANUAL = ("pydoc_data/topics",)  # the language reference, what help("assert") prints
EVALUATED = 256  # windows a loss is measured on


@dataclass(frozen=True)
class TextTask(SupervisedTask):
    """A language model over characters.

    The models make logits, (batch, length, VOCABULARY), of tokens, (batch, length).

    Attributes:
        training: tokens, int64.
        test: the same, of other files.
        fingerprint: which text it is.
        batch_size: windows of CONTEXT characters a step, from random places.

    Raises:
        ValueError: a batch is empty.
    """

    training: Tensor
    test: Tensor
    fingerprint: str
    batch_size: int = 16

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")

    @property
    def training_size(self) -> int:
        """Number of windows that the training text fills, each with the character after it."""
        return (len(self.training) - 1) // CONTEXT

    @property
    def conditions(self) -> str:
        """Sizes of the text and of a batch, for people."""
        return (
            f"{len(self.training):,} training and {len(self.test):,} test characters of "
            f"{self.fingerprint}, windows of {CONTEXT}, batch {self.batch_size}"
        )

    def with_batch_size(self, batch_size: int) -> TextTask:
        """The same task with batches of another size."""
        return replace(self, batch_size=batch_size)

    def held_out(self) -> TextTask:
        """The training text alone, its last quarter held out as the test text: for tuning."""
        end = len(self.training) * 3 // 4
        return replace(self, training=self.training[:end], test=self.training[end:])

    def examples(self, indices: Sequence[int]) -> Batch:
        """Of the windows that fill the training text, one after the other, those of the indices."""
        return _windows(self.training, CONTEXT * torch.tensor(indices))

    def batches(self, seed: int) -> Iterator[Batch]:
        """Windows from random places, and the same one character later."""
        return self._random_windows(self.training, seed)

    def test_batches(self, seed: int) -> Iterator[Batch]:
        """The same of the test text."""
        return self._random_windows(self.test, seed)

    def _random_windows(self, text: Tensor, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(len(text) - CONTEXT, (self.batch_size,), generator=generator)
            yield _windows(text, starts)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Loss and share of characters predicted, on windows spread evenly over the test text."""
        return self._evaluation(model, _spread_windows(self.test))

    def evaluate_training(self, model: nn.Module) -> Evaluation:
        """The same on the training text."""
        return self._evaluation(model, _spread_windows(self.training))


def text_lstm(hidden: int = 128) -> TextTask:
    """One LSTM layer: of 128 units it has 118k parameters with the layers round it."""
    title = "Character LSTM on Python's standard library"
    return TextTask(title, partial(_Recurrent, hidden), _cross_entropy, *_corpus())


def text_transformer(width: int = 64, layers: int = 2) -> TextTask:
    """Causal layers with four heads: two of width 64 are 117k parameters."""
    title = "Causal transformer on Python's standard library"
    return TextTask(title, partial(_Transformer, width, layers), _cross_entropy, *_corpus())


def manual_transformer() -> TextTask:
    """The small one on prose, as a source file quotes it; the last quarter is the test text."""
    title = "Causal transformer on Python's manual"
    training, test, fingerprint = _corpus(MANUAL, MANUAL)
    whole = replace(text_transformer(), title=title, training=training, test=test)
    return replace(whole, fingerprint=fingerprint).held_out()


class _Recurrent(nn.Module):
    def __init__(self, hidden: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        logits: Tensor = self.head(states)
        return logits


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.place = nn.Parameter(torch.empty(CONTEXT, width))
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY)
        for weight in (self.embedding.weight, self.place):
            nn.init.normal_(weight, std=0.02)  # GPT-2's

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.embedding(tokens) + self.place[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(states)))
        return logits


class _Block(nn.Module):
    """Attention and two dense layers, each after a norm and added to what came in."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.dense = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, states: Tensor) -> Tensor:
        states = states + self._attend(self.norms[0](states))
        changed: Tensor = states + self.dense(self.norms[1](states))
        return changed

    def _attend(self, states: Tensor) -> Tensor:
        split = self.queries_keys_values(states).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (batch, head, place, width)
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        mixed: Tensor = self.mix(attended.transpose(1, 2).flatten(2))
        return mixed


def _cross_entropy(logits: Tensor, following: Tensor) -> Tensor:
    """Mean in nats a character."""
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())


def _spread_windows(text: Tensor) -> Batch:
    """Windows spread evenly over a text."""
    starts = torch.linspace(0, len(text) - CONTEXT - 1, EVALUATED).long()
    return _windows(text, starts)


def _windows(text: Tensor, starts: Tensor) -> Batch:
    """Windows from some places, and the same one character later."""
    places = starts[:, None] + torch.arange(CONTEXT + 1)
    window = text[places]
    return window[:, :-1], window[:, 1:]


@cache
def _corpus(
    training_files: Sequence[str] = TRAINING_FILES, test_files: Sequence[str] = TEST_FILES
) -> tuple[Tensor, Tensor, str]:
    """Training tokens, test tokens, and what tells this text from another Python's."""
    library = Path(sysconfig.get_path("stdlib"))
    training, test = (
        b"\n".join(_source(library, name) for name in names)
        for names in (training_files, test_files)
    )
    digest = hashlib.sha256(training + test).hexdigest()
    token = torch.full((256,), len(BYTES))
    token[list(BYTES)] = torch.arange(len(BYTES))

    def tokens(text: bytes) -> Tensor:
        return token[torch.frombuffer(bytearray(text), dtype=torch.uint8).long()]

    name = f"Python {platform.python_version()}, SHA-256 {digest[:16]}"
    return tokens(training), tokens(test), name


def _source(library: Path, name: str) -> bytes:
    """A module's text; what one Python has as a file, another has as a package."""
    files = (library / f"{name}.py", library / name / "__init__.py")
    return b"".join(path.read_bytes() for path in files if path.exists())
