"""Templates keep training and evaluation apart, and filling them is exact."""

from __future__ import annotations

import pytest

from clapkit.errors import SpecError
from clapkit.text.prompts import DEFAULT, EVALUATION, PROMPTS, TRAINING, clean_label, ensemble, fill


def test_evaluation_never_uses_a_template_of_training_but_the_default():
    trained = {template for templates in TRAINING.values() for template in templates}
    evaluated = {template for templates in EVALUATION.values() for template in templates}
    assert trained & evaluated == {DEFAULT}


@pytest.mark.parametrize("domain", PROMPTS)
def test_each_template_of_a_domain_can_be_filled_and_differs_from_the_others(domain):
    assert set(PROMPTS[domain]) == {*TRAINING[domain], *EVALUATION[domain]}
    filled = [fill(template, "rain") for template in PROMPTS[domain]]
    assert len(set(filled)) == len(filled) >= 10
    assert all(sentence.count("rain") == 1 and "{" not in sentence for sentence in filled)
    for templates in (ensemble(domain), ensemble(domain, training=True)):
        assert len(set(templates)) == len(templates) >= 5


def test_the_sound_ensembles_are_large():
    assert min(len(ensemble("sound")), len(ensemble("sound", training=True))) >= 10
    assert ensemble("sound")[0] == DEFAULT


def test_labels_become_words():
    assert fill("this is the sound of {}", "door_wood__knock ") == "this is the sound of door wood knock"
    assert clean_label("  crackling_fire\n") == "crackling fire"


def test_braces_of_a_label_are_ordinary_characters():
    assert fill("{}, and again {}", "{0} {x}") == "{0} {x}, and again {0} {x}"


@pytest.mark.parametrize("template", ["no place", "", "{label}", "{} and {0}", "{} {", "}{} ", None])
def test_templates_that_cannot_be_filled_are_named(template):
    with pytest.raises(SpecError) as caught:
        fill(template, "dog")
    assert repr(template) in str(caught.value)


@pytest.mark.parametrize("label", ["", "_", "  ", None, 3])
def test_labels_that_are_no_text_are_named(label):
    with pytest.raises(SpecError, match=r"a label is text") as caught:
        fill(DEFAULT, label)
    assert repr(label) in str(caught.value)


def test_an_unknown_domain_gets_the_nearest_name():
    with pytest.raises(SpecError, match="'musik'; did you mean 'music'"):
        ensemble("musik")
