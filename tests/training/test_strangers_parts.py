"""Parts that somebody else wrote: what is wrong with them is told by name, with the clip, and not by a traceback."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from clapkit import cookbook
from clapkit.cli.main import _tell
from clapkit.data.clip import Clip
from clapkit.errors import ClapkitError, RecipeError
from clapkit.objectives.base import Embeddings, named_losses
from clapkit.objectives.contrast import InfoNCE, KappaNCE
from clapkit.recipes.dual.contrastive import recipe as contrastive
from clapkit.training.loader import _wrong
from clapkit.views.base import carried_out, check_again, decided
from clapkit.views.mixtures import MixClips
from clapkit.views.sequence import OrderContrast

CLIP = Clip("bark", np.ones(4, np.float32), rate_hz=8000)


@dataclass(frozen=True)
class Odd:
    drawn: object = None
    made: object = None
    domain: str = "audio"

    adds: ClassVar[tuple[str, ...]] = ()

    def draw(self, rng, clip, pool):
        return self.drawn

    def apply(self, clip, params, pool):
        return self.made(clip)


@dataclass(frozen=True)
class Gives:
    losses: object

    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[str] = "rows"

    def __call__(self, z):
        return self.losses(z)


def batch() -> Embeddings:
    return Embeddings(torch.eye(3, requires_grad=True), torch.eye(3), torch.tensor(5.0))


def test_what_is_drawn_has_to_be_a_dict_of_plain_numbers():
    assert decided(Odd({"p": 1}), None, CLIP, ()) == {"p": 1}
    with pytest.raises(RecipeError, match=r"Odd.*drew None for clip 'bark': a dict is expected"):
        decided(Odd(), None, CLIP, ())
    with pytest.raises(RecipeError, match=r"drew .*array.* for clip 'bark', which cannot be logged"):
        check_again(Odd(), {"p": np.zeros(2)}, {"p": np.zeros(2)}, CLIP)


def test_what_is_drawn_has_to_come_from_the_generator():
    check_again(Odd(), {"p": 0.25}, {"p": 0.25}, CLIP)
    with pytest.raises(RecipeError, match=r"0\.25.* for clip 'bark', and .*0\.5.* from the same generator"):
        check_again(Odd(), {"p": 0.25}, {"p": 0.5}, CLIP)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda clip: None, "made a NoneType of clip 'bark'"),
        (lambda clip: clip.audio, "made a ndarray of clip 'bark'"),
        (lambda clip: clip.with_(audio=np.ones((2, 4))), r"sound of shape \(2, 4\) of clip 'bark'"),
        (lambda clip: clip.with_(audio="a.wav"), "sound of shape str of clip 'bark'"),
        (lambda clip: clip.with_(rate_hz=16000), "made 'bark' at 16000 Hz of clip 'bark' at 8000 Hz"),
        (lambda clip: clip.with_(id="other"), "made 'other' at 8000 Hz of clip 'bark'"),
        (lambda clip: {}["gain"], r"fails on clip 'bark': KeyError: 'gain' \(.*, line \d+\)"),
    ],
)
def test_an_audio_view_makes_a_clip_of_the_same_name_and_rate(made, message):
    assert carried_out(Odd(made=lambda clip: clip), CLIP, {}, {}) is CLIP
    with pytest.raises(RecipeError, match=message):
        carried_out(Odd(made=made), CLIP, {}, {})


@pytest.mark.parametrize("losses", [None, 1.0, {}, {"a": 1.0}, {1: torch.tensor(0.0)}, {"a": torch.zeros(3)}, [1]])
def test_losses_are_named_scalars(losses):
    with pytest.raises(ClapkitError, match=r"Gives gave .*: expected is a dict of names and losses"):
        named_losses(Gives(lambda z: losses), batch())


def test_losses_have_a_gradient():
    assert set(named_losses(InfoNCE(), batch())) == {"audio_to_text", "text_to_audio"}
    with pytest.raises(ClapkitError, match=r"the losses of Gives \(a\) have no gradient"):
        named_losses(Gives(lambda z: {"a": z.audio_BD.detach().sum()}), batch())


def test_what_is_no_view_or_objective_is_refused_when_the_recipe_is_written():
    with pytest.raises(RecipeError, match=r"the domain of Odd.* is audio, mel or text, not 'audoi'"):
        contrastive.but(views=(*contrastive.views, Odd(domain="audoi")))
    with pytest.raises(RecipeError, match=r"views are frozen dataclasses .* a class: put its value there"):
        contrastive.but(views=(MixClips,))
    with pytest.raises(RecipeError, match="which lacks adds, domain, draw, apply"):
        contrastive.but(views=(3,))
    with pytest.raises(RecipeError, match="is no objective"):
        contrastive.but(objective=InfoNCE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe = 3", "is no recipe but 3"),
        ("def recipe(:", "SyntaxError"),
        ("recipe = 1 / 0", r"ZeroDivisionError: division by zero \(.*line 1\)"),
    ],
)
def test_a_module_that_holds_no_recipe_is_told(tmp_path, monkeypatch, text, message):
    name = f"own_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecipeError, match=message):
        cookbook.find_recipe(f"{name}:recipe")


def test_a_warning_of_ours_is_a_line_of_words(capsys):
    others = []
    _tell(lambda *told: others.append(told), "a batch has 9 clips", UserWarning, cookbook.__file__, 1)
    assert capsys.readouterr().err == "warning: a batch has 9 clips\n" and not others
    _tell(lambda *told: others.append(told), "of another", UserWarning, warnings.__file__, 7)
    assert others == [("of another", UserWarning, warnings.__file__, 7)]


def test_a_wrong_caption_that_is_true_of_what_was_mixed_in_keeps_its_place():
    """Views behind OrderContrast mix in a clip for which a kind's caption is true: the other kinds keep their place."""
    rng = np.random.default_rng(0)
    tick = Clip("tick", np.sin(np.arange(4000) * 0.3).astype(np.float32), captions=("a tick",), rate_hz=8000)
    hum = replace(tick, id="hum", captions=("a hum",), audio=np.sin(np.arange(4000) * 0.03).astype(np.float32))
    order = OrderContrast(longest_s=1.0, p=1.0)
    clip = order.apply(tick, order.draw(rng, tick, (tick, hum)), {"tick": tick, "hum": hum})
    mixed_in = tick.with_(id="other", captions=(clip.wrong[0].upper(),))
    assert _wrong((clip,)) == clip.wrong and len(clip.wrong) == 2
    assert _wrong((clip, mixed_in)) == ("", clip.wrong[1])
    assert _wrong((clip.with_(wrong_sounds=()), mixed_in)) == clip.wrong[1:], "places mean nothing without kinds"


@pytest.mark.parametrize("kappa", [1.0, 1e-4])
def test_a_batch_without_targets_costs_nothing(kappa):
    z = replace(batch(), soft_target_BU=torch.zeros(3, 3))
    loss = sum(KappaNCE(kappa=kappa)(z).values())
    loss.backward()
    assert loss == 0 and not z.audio_BD.grad.any()
