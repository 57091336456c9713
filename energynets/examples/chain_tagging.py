"""Chain tagging: an energy over sequences of tags, whose exact minimum is known, learned through its relaxed one.

A sentence is n words, and y its tags: n categorical variables over C tags, a point of `Simplex(C)`. Tags next to each
other depend on one another:

    E(y; x) = -sum_i <U x_i, y_i> - sum_i y_i^T W y_{i+1} + sum_i <y_i, log y_i>

Mirror descent on it is the mean-field update, and no step at all is the independent classifier softmax(U x_i). U and W
are trained through T unrolled steps. Over whole tags the exact minimum is Viterbi's, with the same U and W. The
sentences come from a chain that is known, so the best that anyone can do is known too.

Source: Sutton & McCallum, An introduction to conditional random fields (2012), sections 2.3 and 4.1.
"""

from __future__ import annotations

import sys
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from energynets.cli.bars import Bars
from energynets.cli.main import run
from energynets.cli.options import Quiet
from energynets.energies import Energy, MeasuredEnergy, Simplex
from energynets.inference import MirrorDescent, NoGradient, path
from energynets.models import EnergyNetwork
from energynets.objectives import LOSSES

# ------------------------------------------------------------------------------------------------- the planted chain


class Chain(NamedTuple):
    """Tags from a Markov chain, words x_i = mean of their tag + noise of variance 1.

    Args:
        means: (C, D).
        transition: (C, C), log p(tag_{i+1} | tag_i); the first tag is uniform.
    """

    means: Tensor
    transition: Tensor

    @staticmethod
    def draw(num_tags: int, num_inputs: int, coupling: float, generator: torch.Generator) -> Chain:
        """A chain whose transitions are exp(coupling N(0, 1)), normalised: 0 makes the tags independent."""
        means = torch.randn(num_tags, num_inputs, generator=generator)
        return Chain(means, torch.log_softmax(coupling * torch.randn(num_tags, num_tags, generator=generator), -1))

    def sample(self, sentences: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Words (B, n, D) and tags (B, n)."""
        tags = [torch.randint(len(self.means), (sentences,), generator=generator)]
        for _ in range(length - 1):
            tags.append(torch.multinomial(self.transition[tags[-1]].exp(), 1, generator=generator)[:, 0])
        tags_Bn = torch.stack(tags, 1)
        noise = torch.randn(sentences, length, self.means.shape[1], generator=generator)
        return self.means[tags_Bn] + noise, tags_Bn

    def scores(self, words: Tensor) -> Tensor:
        """log p(x_i | tag) up to a constant, linear in x_i: (B, n, D) -> (B, n, C)."""
        return words @ self.means.T - self.means.square().sum(-1) / 2


# --------------------------------------------------------------------------------------------------- exact inference


def viterbi(scores: Tensor, coupling: Tensor) -> Tensor:
    """argmax over tags of sum_i scores[i, tag_i] + sum_i coupling[tag_i, tag_{i+1}], exactly, in n C^2 steps.

    Args:
        scores: (B, n, C).
        coupling: (C, C).

    Returns:
        Tags (B, n).

    Source: Viterbi (1967); Sutton & McCallum (2012), section 4.1.
    """
    best, came_from = scores[:, 0], []
    for score in scores[:, 1:].unbind(1):
        best, origin = (best[:, :, None] + coupling).max(1)
        best = best + score
        came_from.append(origin)
    tags = [best.argmax(-1)]
    for origin in reversed(came_from):
        tags.append(origin.gather(1, tags[-1][:, None])[:, 0])
    return torch.stack(tags[::-1], 1)


def marginals(scores: Tensor, coupling: Tensor) -> Tensor:
    """p(tag_i | x) of the chain, (B, n, C): the derivative of log Z, whose recursion is Viterbi's with sums for maxima.

    The most probable tag of each word has the most tags right on average; Viterbi's answer is the likeliest sentence.

    Source: Sutton & McCallum (2012), section 4.1.
    """

    def log_partition(scores: Tensor) -> Tensor:
        total = scores[:, 0]
        for score in scores[:, 1:].unbind(1):
            total = torch.logsumexp(total[:, :, None] + coupling, 1) + score
        return torch.logsumexp(total, -1).sum()

    return torch.func.grad(log_partition)(scores)


# -------------------------------------------------------------------------------------------------------- the energy


class Scores(nn.Module):
    """The features: phi = U x_i + u0 at every word, (B, n, D) -> (B, n C)."""

    def __init__(self, num_inputs: int, num_tags: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_tags)

    def forward(self, words: Tensor) -> Tensor:
        return self.linear(words).flatten(1)


class Neighbours(nn.Module):
    """-sum_i y_i^T W y_{i+1}: (B, n C) -> (B,)."""

    def __init__(self, num_tags: int) -> None:
        super().__init__()
        self.coupling = nn.Parameter(torch.zeros(num_tags, num_tags))

    def forward(self, y: Tensor) -> Tensor:
        tags = y.unflatten(-1, (-1, len(self.coupling)))
        return -(tags[:, :-1] @ self.coupling * tags[:, 1:]).sum((1, 2))


class ChainEnergy(Energy):
    """-<phi, y> - sum_i y_i^T W y_{i+1}: all that an energy of one's own needs is its potential."""

    def __init__(self, length: int, num_tags: int) -> None:
        super().__init__(length * num_tags, domain=Simplex(num_tags))
        self.neighbours = Neighbours(num_tags)

    def initial_logits(self, phi: Tensor) -> Tensor:
        return phi

    def potential(self, y: Tensor, phi: Tensor) -> Tensor:
        return self.neighbours(y) - (phi * y).sum(-1)


def measured_chain(length: int, num_tags: int) -> MeasuredEnergy:
    """The same energy as a measured one, which the engine takes: h is the neighbours' part, and it measures y itself.

    A and U are the identity and stay so. It is no faster here, where K = L; a head of few measurements is.
    """
    size = length * num_tags
    energy = MeasuredEnergy(size, size, size, Neighbours(num_tags), bias=False, domain=Simplex(num_tags))
    for fixed in (energy.measure, energy.unary.weight):
        nn.init.eye_(fixed)
    for fixed in (energy.measure, energy.unary.weight, energy.offset):
        fixed.requires_grad_(False)
    return energy


# ------------------------------------------------------------------------------------------------ learning and result


def train(model: EnergyNetwork, words: Tensor, tags: Tensor, *, epochs: int, seed: int, name: str, bars: Bars) -> None:
    """Cross-entropy of the tags after T steps, differentiated through all of them."""
    targets = one_hot(tags, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for rows in torch.randperm(len(words), generator=generator).split(100):
            loss = LOSSES["softmax"](model(words[rows]), targets[rows], model.domain)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        bars.show(name, epoch + 1, epochs, f"loss {loss:.3f}")


def one_hot(tags: Tensor, model: EnergyNetwork) -> Tensor:
    """Tags (B, n) as a corner of the simplices, (B, n C)."""
    return functional.one_hot(tags, model.num_labels // tags.shape[1]).flatten(1).float()


class Result(NamedTuple):
    """What inference over a learned energy is worth.

    Args:
        relaxed: share of tags that the rounded relaxed minimum gets right.
        exact: the same for the exact minimum, by Viterbi.
        agreement: share of sentences where the two are the same.
        gap: mean of E(rounded) - E(exact) >= 0 over sentences.
        gap_where_different: the same over those where the two differ.
    """

    relaxed: float
    exact: float
    agreement: float
    gap: float
    gap_where_different: float


@torch.no_grad()
def evaluate(model: EnergyNetwork, words: Tensor, tags: Tensor) -> Result:
    """Relaxed inference rounded, against Viterbi over the same energy."""
    phi = model.compute_features(words)
    rounded = model.infer(words, gradient=NoGradient()).y.view(*tags.shape, -1).argmax(-1)
    coupling = next(module.coupling for module in model.energy.modules() if isinstance(module, Neighbours))
    exact = viterbi(phi.view(*tags.shape, -1), coupling)
    context = model.energy.condition(phi)
    energies = [model.energy.potential(one_hot(answer, model), context) for answer in (rounded, exact)]
    gap, different = energies[0] - energies[1], (rounded != exact).any(-1)
    return Result(
        relaxed=(rounded == tags).float().mean().item(),
        exact=(exact == tags).float().mean().item(),
        agreement=1 - different.float().mean().item(),
        gap=gap.mean().item(),
        gap_where_different=gap[different].mean().item() if different.any() else 0.0,
    )


def main(
    sentences: Annotated[int, typer.Option(min=1, help="Training sentences; as many are tested.")] = 2_000,
    length: Annotated[int, typer.Option(min=1, help="Words of a sentence.")] = 12,
    tags: Annotated[int, typer.Option(min=2, help="C.")] = 5,
    coupling: Annotated[float, typer.Option(min=0, help="How strongly neighbouring tags are tied.")] = 2.0,
    steps: Annotated[int, typer.Option(min=1, help="T, unrolled.")] = 8,
    epochs: Annotated[int, typer.Option(min=1)] = 15,
    seed: int = 0,
    measured: Annotated[bool, typer.Option("--measured", help="The same energy as a measured one.")] = False,
    quiet: Quiet = False,
) -> None:
    """Learn to tag sentences drawn from a known chain, and compare with what is exact.

    Example: python -m energynets.examples.chain_tagging --coupling 3
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    chain = Chain.draw(tags, num_inputs=3, coupling=coupling, generator=generator)
    train_words, train_tags = chain.sample(sentences, length, generator)
    words, truth = chain.sample(sentences, length, generator)

    make = measured_chain if measured else ChainEnergy
    solver = MirrorDescent(steps, step_size=0.5)  # undamped, strongly tied neighbours would overshoot in turn
    energy = EnergyNetwork(Scores(3, tags), make(length, tags), solver)
    independent = EnergyNetwork(Scores(3, tags), make(length, tags), MirrorDescent(steps=0))
    with Bars(quiet=quiet) as bars:
        bars.say(f"energy: {path(energy.energy, solver).reason}")
        train(independent, train_words, train_tags, epochs=epochs, seed=seed, name="independent", bars=bars)
        train(energy, train_words, train_tags, epochs=epochs, seed=seed, name="energy", bars=bars)
    result = evaluate(energy, words, truth)
    known = (chain.scores(words), chain.transition)
    best = [(answer == truth).float().mean().item() for answer in (viterbi(*known), marginals(*known).argmax(-1))]
    typer.echo("tags right, of test sentences")
    typer.echo(f"  independent classifier          {100 * evaluate(independent, words, truth).relaxed:6.2f} %")
    typer.echo(f"  energy, relaxed and rounded     {100 * result.relaxed:6.2f} %")
    typer.echo(f"  energy, exact (Viterbi)         {100 * result.exact:6.2f} %")
    typer.echo(f"  true parameters (Viterbi)       {100 * best[0]:6.2f} %")
    typer.echo(f"  true posterior, tag by tag      {100 * best[1]:6.2f} %   (the most that is possible on average)")
    typer.echo(f"rounded minimum is the exact one in {100 * result.agreement:.1f} % of sentences")
    typer.echo(f"energy gap {result.gap:.4f} on average, {result.gap_where_different:.4f} where they differ")


if __name__ == "__main__":
    sys.exit(run(main, "python -m energynets.examples.chain_tagging"))
