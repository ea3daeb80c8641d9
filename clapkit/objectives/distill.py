"""A student takes over what a teacher knows: where things lie, how alike they are, or a frozen space as a whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch.nn import functional

from clapkit.errors import SpecError, nearest_name
from clapkit.objectives.base import Embeddings, Reduces
from clapkit.objectives.contrast import InfoNCE, check_share, wide
from clapkit.objectives.siamese import comparable

Side = Literal["audio", "text"]


@dataclass(frozen=True)
class CosineDistillation:
    """The student's vectors are turned towards the teacher's, one at a time (tinyCLAP; card 009). No captions needed.

        side = "audio":  cosine_audio = -1/B sum_b       cos(audio_b, audio_teacher_b)
        side = "text":   cosine_text  = -1/B sum_bu P_bu cos(text_u, text_teacher_u)    a mean over clips as well

    Vectors have unit norm; no gradient reaches the teacher. Teacher and student must see the same piece of sound.

    Why it is enough: for every unit vector t, |t . a - t . a_teacher| <= |a - a_teacher| = sqrt(2 - 2 cos), so no score
    against any text moves by more than that. Relations: half of Siamese's l, less 1; AffinityDistillation asks only for
    equal scores, so its teacher may live in another space and width.
    Limits. Student = teacher: -1; right angles: 0; opposite: 1.
    """

    side: Side = "audio"

    reduces: ClassVar[Reduces] = "samples"

    def __post_init__(self) -> None:
        if self.side not in get_args(Side):
            raise SpecError(f"side is audio or text, not '{self.side}'; {nearest_name(self.side, get_args(Side))}")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.side, f"{self.side}_teacher")

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        if self.side == "audio":
            student_BD, teacher_BD = comparable(z, "audio_BD", "audio_teacher_BD")
            return {"cosine_audio": -(student_BD * teacher_BD.detach()).sum(1).mean()}
        student_UD, teacher_UD = comparable(z, "text_UD", "text_teacher_UD")
        share_U = wide(z.target_BU()).mean(0)
        return {"cosine_text": -(share_U * (student_UD * teacher_UD.detach()).sum(1)).sum()}


@dataclass(frozen=True)
class AffinityDistillation:
    """The student's scores between clips and texts follow the teacher's (card 009, extensions; for texts card 063).

    With S_bu = scale * a_b . t_u of the student and T_bu = teacher_scale * a_b . t_u of the teacher (no gradient):

        affinity_to_text  = (1 - balance) / B  sum_b KL(softmax_u(T_b.) || softmax_u(S_b.))
        affinity_to_audio = balance / U        sum_u KL(softmax_b(T_.u) || softmax_b(S_.u))

    Which text belongs to which clip is the teacher's word: the target of the batch is not read, the texts may be any
    bank of sentences. The widths of student and teacher may differ, the teacher may be turned in its space.

    Relations. A teacher that is certain of the pairs (orthogonal vectors, teacher_scale -> infinity): InfoNCE. KL in
    place of the cross-entropy takes the teacher's own entropy off, which moves no gradient.
    Limits. Equal scores: 0, and so it is where they differ by a constant within a row (or column). scale 0: log U (or
    log B) less the teacher's entropy. One clip: nothing to share out to, affinity_to_audio is 0.
    """

    balance: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("audio", "text", "audio_teacher", "text_teacher", "teacher_scale")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        check_share("balance", self.balance)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        audio_BD, text_UD = comparable(z, "audio_BD", "text_UD")
        audio_teacher_BD, text_teacher_UD = comparable(z, "audio_teacher_BD", "text_teacher_UD")
        student_BU = z.scale * (audio_BD @ text_UD.T)
        teacher_BU = (z["teacher_scale"] * (audio_teacher_BD @ text_teacher_UD.T)).detach()
        return {
            "affinity_to_text": (1 - self.balance) * _mean_divergence(teacher_BU, student_BU),
            "affinity_to_audio": self.balance * _mean_divergence(teacher_BU.T, student_BU.T),
        }


def _mean_divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """KL from the rows of the teacher's scores to the student's, mean over rows."""
    rows = torch.log_softmax(student, dim=1), torch.log_softmax(teacher, dim=1)
    return functional.kl_div(*rows, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class CrossPrediction:
    """Contrast after a detour on one side, then on the other: the cross-MLP form of Wav2CLIP (card 045).

    a = audio, t = text (there the frozen space), g(a) = audio_prediction, h(t) = text_prediction, two small MLPs:

        loss = 1/2 [InfoNCE(a, h(t)) + InfoNCE(g(a), t)]           each with `balance`, target, scale as InfoNCE has it

    The sound is searched for by g(a) . t; a itself keeps what the frozen space has no room for. Other texts and sounds
    (..._negative, ..._private) stand in the term in whose space they are: texts beside t, sounds beside a.
    Relations. g and h the identity: InfoNCE. One scale serves both terms.
    """

    balance: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("audio", "text", "audio_prediction", "text_prediction")
    reduces: ClassVar[Reduces] = "rows"

    def __post_init__(self) -> None:
        check_share("balance", self.balance)

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        audio_BD, text_prediction_UD = comparable(z, "audio_BD", "text_prediction_UD")
        audio_prediction_BD, text_UD = comparable(z, "audio_prediction_BD", "text_UD")
        contrast = InfoNCE(balance=self.balance)
        without_texts = replace(z, text_negative_ED=None, text_private_BKD=None, private_BK=None)
        without_sounds = replace(z, audio_negative_FD=None, audio_private_UKD=None, audio_private_UK=None)
        beside_audio = replace(without_texts, audio_BD=audio_BD, text_UD=text_prediction_UD)
        beside_text = replace(without_sounds, audio_BD=audio_prediction_BD, text_UD=text_UD)
        return {
            f"{name}_{place}": part / 2
            for place, terms in (("by_audio", beside_audio), ("by_text", beside_text))
            for name, part in contrast(terms).items()
        }
