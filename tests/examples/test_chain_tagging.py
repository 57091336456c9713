from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from energynets.cli.bars import Bars
from energynets.cli.main import run
from energynets.energies import Simplex
from energynets.examples.chain_tagging import (
    Chain,
    ChainEnergy,
    Scores,
    evaluate,
    main,
    marginals,
    measured_chain,
    one_hot,
    train,
    viterbi,
)
from energynets.inference import MirrorDescent, path
from energynets.models import EnergyNetwork

C, D = 3, 3


def every_sentence(length):
    return torch.tensor(list(itertools.product(range(C), repeat=length)))


def totals(scores, coupling, sentences):
    """The score of every sentence, (sentences,), for scores (n, C)."""
    own = scores[torch.arange(len(scores)), sentences].sum(-1)
    return own + coupling[sentences[:, :-1], sentences[:, 1:]].sum(-1)


def random_chain(length, seed, batch=3):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, length, C, generator=generator, dtype=torch.float64)
    return scores, 2 * torch.randn(C, C, generator=generator, dtype=torch.float64)


@given(st.integers(1, 5), st.integers(0, 10_000))
def test_viterbi_is_the_best_of_all_sentences(length, seed):
    scores, coupling = random_chain(length, seed)
    sentences = every_sentence(length)
    for row, found in zip(scores, viterbi(scores, coupling), strict=True):
        assert torch.equal(found, sentences[totals(row, coupling, sentences).argmax()])


@given(st.integers(1, 4), st.integers(0, 10_000))
def test_marginals_are_sums_over_all_sentences(length, seed):
    scores, coupling = random_chain(length, seed)
    sentences = every_sentence(length)
    for row, found in zip(scores, marginals(scores, coupling), strict=True):
        weights = torch.softmax(totals(row, coupling, sentences), 0)
        expected = (functional.one_hot(sentences, C) * weights[:, None, None]).sum(0)
        torch.testing.assert_close(found, expected)


def test_scores_of_the_known_chain_are_the_words_densities():
    generator = torch.Generator().manual_seed(0)
    chain = Chain.draw(C, D, 1.0, generator)
    words, _ = chain.sample(2, 4, generator)
    density = torch.distributions.Normal(chain.means, 1.0).log_prob(words[:, :, None]).sum(-1)
    torch.testing.assert_close(torch.log_softmax(chain.scores(words), -1), torch.log_softmax(density, -1))


def test_the_chain_draws_what_it_says():
    generator = torch.Generator().manual_seed(0)
    chain = Chain.draw(C, D, 1.0, generator)
    words, tags = chain.sample(20_000, 3, generator)
    pairs = torch.zeros(C, C).index_put_((tags[:, 1], tags[:, 2]), torch.ones(len(tags)), accumulate=True)
    torch.testing.assert_close(pairs / pairs.sum(1, keepdim=True), chain.transition.exp(), rtol=0, atol=0.02)
    means = torch.stack([words[:, 0][tags[:, 0] == tag].mean(0) for tag in range(C)])
    torch.testing.assert_close(means, chain.means, rtol=0, atol=0.05)


def test_the_energy_at_whole_tags_is_minus_viterbis_score():
    scores, coupling = random_chain(4, 0, batch=1)
    energy = ChainEnergy(4, C).double()
    energy.neighbours.coupling.data.copy_(coupling)
    sentences = every_sentence(4)
    corners = functional.one_hot(sentences, C).flatten(1).double()
    potential = energy.potential(corners, scores.flatten(1).expand(len(corners), -1))
    torch.testing.assert_close(potential, -totals(scores[0], coupling, sentences))


def test_the_measured_energy_is_the_same_one_and_takes_the_engine():
    torch.manual_seed(0)
    general, measured = ChainEnergy(4, C).double(), measured_chain(4, C).double()
    coupling = torch.randn(C, C, dtype=torch.float64)
    general.neighbours.coupling.data.copy_(coupling)
    measured.head.coupling.data.copy_(coupling)
    solver = MirrorDescent(6, step_size=0.5)
    assert path(measured, solver).fast
    assert not path(general, solver).fast
    scores = Scores(D, C).double()
    words, found = torch.randn(5, 4, D, dtype=torch.float64), []
    for energy, weight in ((general, general.neighbours.coupling), (measured, measured.head.coupling)):
        logits = EnergyNetwork(scores, energy, solver)(words)
        found.append((logits, *torch.autograd.grad(logits.sin().sum(), (weight, scores.linear.weight))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [ChainEnergy, measured_chain])
def test_a_learned_energy_beats_the_independent_classifier_where_tags_are_tied(make):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    chain = Chain.draw(C, D, 3.0, generator)
    words, tags = chain.sample(400, 6, generator)
    new_words, new_tags = chain.sample(400, 6, generator)
    results = {}
    for steps in (0, 6):
        solver = MirrorDescent(steps, step_size=0.5)
        model = EnergyNetwork(Scores(D, C), make(6, C), solver)
        train(model, words, tags, epochs=12, seed=0, name="", bars=Bars(quiet=True))
        results[steps] = evaluate(model, new_words, new_tags)
    independent, energy = results[0], results[6]
    assert independent.agreement == 1  # no coupling learned: Viterbi takes the best tag of each word
    assert independent.gap == 0
    posterior = marginals(chain.scores(new_words), chain.transition).argmax(-1)
    best = (posterior == new_tags).float().mean().item()
    assert energy.relaxed > independent.relaxed + 0.6 * (best - independent.relaxed)
    assert energy.relaxed < best + 0.02
    assert energy.exact > independent.relaxed
    assert 0 < energy.gap <= energy.gap_where_different
    assert 0.6 < energy.agreement < 1


def test_one_hot_is_a_corner_of_the_domain():
    model = EnergyNetwork(Scores(D, C), ChainEnergy(2, C), MirrorDescent(0))
    y = one_hot(torch.tensor([[0, 2]]), model)
    assert y.tolist() == [[1, 0, 0, 0, 0, 1]]
    assert torch.equal(Simplex(C).project(y, 0.0), y)


TINY = ["--sentences", "30", "--length", "3", "--tags", "2", "--steps", "2", "--epochs", "1"]


@pytest.mark.parametrize("further", [[], ["--measured"], ["--length", "1"]])
def test_the_command_prints_what_it_found(capsys, further):
    assert run(main, "chain_tagging", [*TINY, *further]) == 0
    out, errors = capsys.readouterr()
    assert out.count(" %") >= 5
    assert "energy gap" in out
    assert errors.startswith("energy: ")
    assert run(main, "chain_tagging", [*TINY, *further, "--quiet"]) == 0
    assert capsys.readouterr() == (out, "")


def test_mistakes_end_as_elsewhere(capsys):
    assert run(main, "chain_tagging", ["--step", "3"]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("energynets: chain_tagging: No such option: --step")
    assert errors.count("\n") == 1


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "energynets.examples.chain_tagging", "--help"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "Usage: python -m energynets.examples.chain_tagging [OPTIONS]" in shown.stdout
    assert shown.stderr == ""
