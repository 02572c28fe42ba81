"""Probes: learned on some videos, chosen on others, scored on the rest, and beaten by nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, r2_score  # type: ignore[import-untyped]
from torch import Tensor, nn

from orchestrator.errors import RequestError
from orchestrator.evaluation.measures.ridge import RidgeRegression
from orchestrator.evaluation.probes.attentive import (
    AttentiveHeads,
    HeadHyperparameters,
    StackedAdamW,
    hyperparameter_grid,
    predict_heads,
    train_heads,
)
from orchestrator.evaluation.probes.scores import average_precision, r_squared, top1_accuracy
from orchestrator.evaluation.probes.split import check_disjoint, split_videos
from orchestrator.job.config.probe import Attentive, ProbeSplit

DIM, GRID = 16, (2, 3, 3)


def class_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    k, b, _ = outputs.shape
    each = F.cross_entropy(outputs.flatten(0, 1), targets.repeat(k), reduction="none")
    return each.view(k, b).mean(1)


@pytest.mark.parametrize("shape", [(300, 20), (30, 80)])
def test_ridge_solves_the_normal_equations(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(2.0, 3.0, shape).astype(np.float32)
    y, new = draw.normal(size=(len(x), 2)), draw.normal(2.0, 3.0, (7, shape[1]))
    strengths = [0.01, 1.0, 1e4]
    found = RidgeRegression(x, y).predict(new, strengths)
    exact = x.astype(np.float64)
    center, scale = exact.mean(0), exact.std(0) + 1e-8
    z, wanted = (exact - center) / scale, y - y.mean(0)
    for number, strength in enumerate(strengths):
        w = np.linalg.solve(z.T @ z + strength * np.eye(shape[1]), z.T @ wanted)
        np.testing.assert_allclose(
            found[number], (new - center) / scale @ w + y.mean(0), rtol=1e-6, atol=1e-7
        )


class OneHead(nn.Module):
    """Textbook cross-attention with one query, its queries and keys as matrices of their own."""

    def __init__(self, heads: AttentiveHeads, number: int) -> None:
        super().__init__()
        self.heads, self.number = heads, number
        self.attention = heads.attention_query.shape[1]

    def forward(self, tokens: Tensor) -> Tensor:
        h, i = self.heads, self.number
        places = [place[i] for place in h.position_embeddings]
        t, y, x = GRID
        where = (
            places[0][:, None, None].expand(t, y, x, DIM)
            + places[1][None, :, None].expand(t, y, x, DIM)
            + places[2][None, None].expand(t, y, x, DIM)
        ).reshape(-1, DIM)
        z = (tokens - tokens.mean(-1, keepdim=True)) / (
            tokens.var(-1, unbiased=False, keepdim=True) + 1e-5
        ).sqrt() + where
        rows = []
        for clip in z:
            parts = []
            for a in range(self.attention):
                weight = torch.softmax(clip @ h.attention_query[i, a], 0)
                values = clip @ h.value[i, a] + h.value_bias[i, a]
                parts.append((weight[:, None] * values).sum(0))
            out = torch.cat(parts) @ h.value_out[i] + h.value_out_bias[i] + h.query[i]
            inner = F.layer_norm(out, (DIM,), h.scale[0][i], h.shift[0][i])
            inner = F.gelu(inner @ h.mlp_in[i] + h.mlp_in_bias[i])
            out = out + inner @ h.mlp_out[i] + h.mlp_out_bias[i]
            out = F.layer_norm(out, (DIM,), h.scale[1][i], h.shift[1][i])
            rows.append(out @ h.output_proj[i] + h.output_proj_bias[i])
        return torch.stack(rows)


def shaken(heads: AttentiveHeads) -> AttentiveHeads:
    with torch.no_grad():
        for weight in heads.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return heads


def test_many_heads_at_once_are_each_a_head_of_the_textbook() -> None:
    heads = shaken(AttentiveHeads(3, DIM, GRID, 4, seed=0))
    tokens = torch.randn(5, 18, DIM, generator=torch.Generator().manual_seed(2))
    found = heads(tokens)
    for number in range(3):
        torch.testing.assert_close(found[number], OneHead(heads, number)(tokens))


def test_wide_features_have_several_attention_heads() -> None:
    heads = AttentiveHeads(1, 192, GRID, 2, seed=0)
    assert heads.attention_query.shape == (1, 3, 192)
    assert heads(torch.randn(2, 18, 192)).shape == (1, 2, 2)


def test_each_of_the_stack_moves_as_adamw_alone_would_move_it() -> None:
    settings = [HeadHyperparameters(1e-2, 0.5), HeadHyperparameters(1e-3, 0.0)]
    tokens = torch.randn(6, 18, DIM, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    heads = AttentiveHeads(2, DIM, GRID, 3, seed=0)
    stacked = StackedAdamW(heads, settings, "cpu")
    alone = []
    for setting in settings:
        one = AttentiveHeads(1, DIM, GRID, 3, seed=0)
        decayed = [w for w in one.parameters() if id(w) in one.decayed_parameter_ids()]
        rest = [w for w in one.parameters() if id(w) not in one.decayed_parameter_ids()]
        groups = [
            {"params": decayed, "weight_decay": setting.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        alone.append((one, torch.optim.AdamW(groups, lr=setting.lr)))
    for _ in range(5):
        class_loss(heads(tokens), targets).sum().backward()  # type: ignore[no-untyped-call]
        stacked.step(1.0)
        for one, optimizer in alone:
            optimizer.zero_grad()
            class_loss(one(tokens), targets).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    for number, (one, _) in enumerate(alone):
        for mine, theirs in zip(heads.parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(mine[number], theirs[0], rtol=1e-4, atol=1e-5)


def clips(count: int, seed: int, *, shuffled: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and in one token of each clip the mark of its class: a mean over tokens drowns it."""
    draw = np.random.default_rng(seed)
    tokens = draw.normal(size=(count, 18, DIM)).astype(np.float32)
    label = draw.integers(0, 3, count)
    marks = np.random.default_rng(99).normal(size=(3, DIM)) * 3
    tokens[np.arange(count), draw.integers(0, 18, count)] += marks[label].astype(np.float32)
    return tokens, draw.permutation(label) if shuffled else label


@pytest.mark.parametrize("shuffled", [False, True])
def test_an_attentive_probe_learns_what_is_there_and_nothing_else(shuffled: bool) -> None:
    tokens, label = clips(480, 0, shuffled=shuffled)
    fresh, truth = clips(300, 1, shuffled=shuffled)
    config = Attentive(kind="attentive", lrs=(1e-2, 1e-5), weight_decays=(0.01,), epochs=30)
    heads = train_heads(
        config,
        hyperparameter_grid(config),
        lambda rows: torch.from_numpy(tokens[rows]),
        np.arange(480),
        torch.from_numpy(label),
        class_loss,
        dim=DIM,
        grid=GRID,
        outputs=3,
    )
    guess = predict_heads(heads, lambda rows: torch.from_numpy(fresh[rows]), np.arange(300), 64)
    right = (guess.argmax(-1).numpy() == truth).mean(1)
    if shuffled:
        assert np.all(np.abs(right - 1 / 3) < 0.1)
    else:
        assert right[0] > 0.8
        assert right[1] < right[0] - 0.2, "a rate that is too small has learned less"


def test_where_things_are_can_be_read_though_no_token_says_it() -> None:
    """One token is another: its place is in no token's content."""
    draw = np.random.default_rng(0)
    at = draw.integers(0, 9, 400)
    ground, thing = draw.normal(size=(2, DIM))
    tokens = (ground + 0.1 * draw.normal(size=(400, 9, DIM))).astype(np.float32)
    tokens[np.arange(400), at] += (thing - ground).astype(np.float32)
    place = torch.from_numpy(np.stack([at % 3, at // 3], 1) - 1.0).float()
    config = Attentive(kind="attentive", lrs=(1e-2,), weight_decays=(0.01,), epochs=60)
    heads = train_heads(
        config,
        hyperparameter_grid(config),
        lambda rows: torch.from_numpy(tokens[rows]),
        np.arange(300),
        place[:300],
        lambda outputs, wanted: ((outputs - wanted) ** 2).mean((1, 2)),
        dim=DIM,
        grid=(1, 3, 3),
        outputs=2,
    )
    rows = np.arange(300, 400)
    found = predict_heads(heads, lambda rows: torch.from_numpy(tokens[rows]), rows, 64)
    assert r2_score(place[300:].numpy(), found[0].numpy()) > 0.8


def test_the_same_seed_gives_the_same_heads() -> None:
    tokens, label = clips(64, 0)
    config = Attentive(kind="attentive", lrs=(1e-3,), weight_decays=(0.1,), epochs=2, batch=16)

    def trained(config: Attentive) -> AttentiveHeads:
        return train_heads(
            config,
            hyperparameter_grid(config),
            lambda rows: torch.from_numpy(tokens[rows]),
            np.arange(64),
            torch.from_numpy(label),
            class_loss,
            dim=DIM,
            grid=GRID,
            outputs=3,
        )

    one, two = trained(config), trained(config)
    other = trained(config.model_copy(update={"seed": 1}))
    assert torch.equal(one.output_proj, two.output_proj)
    assert not torch.equal(one.output_proj, other.output_proj)


VIDEOS = [f"v{i}-{i:08x}-000 of /videos/v{i}.mp4" for i in range(60)]


def test_a_video_is_on_one_side_and_the_sides_have_their_shares_of_every_label() -> None:
    strata = ["a"] * 40 + ["b"] * 20
    sides = split_videos(VIDEOS, strata, ProbeSplit(validation=0.25, test=0.25))
    assert np.bincount(sides[:40], minlength=3).tolist() == [20, 10, 10]
    assert np.bincount(sides[40:], minlength=3).tolist() == [10, 5, 5]
    assert np.array_equal(
        sides, split_videos(VIDEOS, strata, ProbeSplit(validation=0.25, test=0.25))
    )
    moved = [video.replace("/videos/", "/elsewhere/") for video in VIDEOS]
    assert np.array_equal(
        sides, split_videos(moved, strata, ProbeSplit(validation=0.25, test=0.25))
    )
    other = split_videos(VIDEOS, strata, ProbeSplit(validation=0.25, test=0.25, seed=1))
    assert not np.array_equal(sides, other)
    order = np.random.default_rng(0).permutation(60)
    again = split_videos(
        [VIDEOS[i] for i in order],
        [strata[i] for i in order],
        ProbeSplit(validation=0.25, test=0.25),
    )
    assert np.array_equal(sides[order], again), "the order of rows decides nothing"
    held = split_videos(VIDEOS, strata, ProbeSplit(), test=False)
    assert set(held.tolist()) == {0, 1}


def test_too_few_videos_and_videos_on_two_sides_are_refused() -> None:
    with pytest.raises(RequestError, match="3 videos of 3 labels are too few to split"):
        split_videos(VIDEOS[:3], ["a", "b", "c"], ProbeSplit())
    check_disjoint(VIDEOS[:3], VIDEOS[3:])
    with pytest.raises(RequestError, match=r"1 videos are in .* v2-"):
        check_disjoint(VIDEOS[:3], VIDEOS[2:])


def test_scores_are_those_of_the_textbook() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 200)
    guess = np.round(truth + draw.normal(size=200), 1)  # rounded: some are equal
    video = np.arange(200) // 4
    found = average_precision(guess, truth, video, 0.95)
    assert found.value == pytest.approx(average_precision_score(truth, guess))
    states = draw.normal(size=200)
    near = states + 0.5 * draw.normal(size=200)
    r2 = r_squared(near, states, video, 0.95)
    assert r2.value == pytest.approx(r2_score(states, near))
    assert r2.value is not None
    assert r2.low is not None
    assert r2.high is not None
    assert r2.low < r2.value < r2.high
    assert top1_accuracy(guess > 0.5, video, 0.95).value == pytest.approx((guess > 0.5).mean())


def test_rows_of_one_video_do_not_narrow_an_interval() -> None:
    right = np.random.default_rng(0).random(40) < 0.5
    apart = top1_accuracy(right, np.arange(40), 0.95)
    copied = top1_accuracy(right.repeat(50), np.arange(40).repeat(50), 0.95)
    assert copied == apart
    careless = top1_accuracy(right.repeat(50), np.arange(2000), 0.95)
    assert careless.low is not None
    assert apart.low is not None
    assert careless.low > apart.low + 0.05


def test_what_cannot_be_scored_has_no_number() -> None:
    video = np.arange(4)
    assert average_precision(np.arange(4.0), np.zeros(4), video, 0.95).value is None
    assert r_squared(np.arange(4.0), np.ones(4), video, 0.95).value is None
    assert math.isfinite(
        average_precision(np.arange(4.0), np.array([0, 0, 0, 1]), video, 0.95).low or 0
    )
    assert replace(top1_accuracy(np.ones(4, bool), video, 0.95), metric="").value == 1
