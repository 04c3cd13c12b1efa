"""What a student is charged for differing from its teacher.

Dimension legend: M teachers, B rows of a batch, K outputs. s and t are the logits of student and teacher.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def softened_divergences(student_BK: "Tensor", teacher_BK: "Tensor", temperature: float) -> "Tensor":
    """T^2 KL(softmax(t / T) || softmax(s / T)) of each row, [B] (Hinton et al. 2015, arXiv:1503.02531).

    Its gradient by s is T (softmax(s / T) - softmax(t / T)). For large T that tends to the one of matching
    centred logits, ((s - mean s) - (t - mean t)) / K. T^2 keeps the gradient at one size for all T.

    Args:
        student_BK: logits s of the student.
        teacher_BK: logits t of the teacher.
        temperature: T > 0.
    """
    from torch.nn import functional

    log_student_BK = functional.log_softmax(student_BK / temperature, dim=1)
    log_teacher_BK = functional.log_softmax(teacher_BK / temperature, dim=1)
    return temperature**2 * _divergences(log_student_BK, log_teacher_BK)


def softened_divergence(student_BK: "Tensor", teacher_BK: "Tensor", temperature: float) -> "Tensor":
    """The mean over the rows of `softened_divergences`, a scalar."""
    return softened_divergences(student_BK, teacher_BK, temperature).mean()


def squared_errors(student_BK: "Tensor", teacher_BK: "Tensor") -> "Tensor":
    """(1 / K) sum_k (s_k - t_k)^2 of each row, [B]: the soft term of regression."""
    return (student_BK - teacher_BK).square().mean(dim=1)


def target_class_divergences(
    student_BK: "Tensor", teacher_BK: "Tensor", classes_B: "Tensor", temperature: float
) -> "Tensor":
    """TCKD of each row, [B]: KL between the teacher's and the student's belief in the row's class.

    KL((p, 1 - p) || (q, 1 - q)) with p = softmax(t / T)_c and q = softmax(s / T)_c of the row's class c
    (Zhao et al. 2022, arXiv:2203.08679, equation 5, without T^2).

    Args:
        student_BK: logits s of the student.
        teacher_BK: logits t of the teacher.
        classes_B: int64 classes c.
        temperature: T > 0.
    """
    return _divergences(
        _log_target_and_rest(student_BK / temperature, classes_B),
        _log_target_and_rest(teacher_BK / temperature, classes_B),
    )


def nontarget_class_divergences(
    student_BK: "Tensor", teacher_BK: "Tensor", classes_B: "Tensor", temperature: float
) -> "Tensor":
    """NCKD of each row, [B]: KL between the beliefs in the K - 1 other classes, given that it is one of them.

    KL(softmax(t' / T) || softmax(s' / T)), where s' and t' are the logits without the one of the row's class
    (Zhao et al. 2022, equation 5, without T^2). It is 0 for K = 2.
    """
    from torch.nn import functional

    return _divergences(
        functional.log_softmax(_without(student_BK, classes_B) / temperature, dim=1),
        functional.log_softmax(_without(teacher_BK, classes_B) / temperature, dim=1),
    )


def decoupled_divergence(
    student_BK: "Tensor",
    teacher_BK: "Tensor",
    classes_B: "Tensor",
    *,
    temperature: float,
    target_weight: float,
    nontarget_weight: float,
) -> "Tensor":
    """T^2 (alpha TCKD + beta NCKD), the mean over the rows (Zhao et al. 2022, equation 7).

    alpha is `target_weight`, beta `nontarget_weight`. With alpha = 1 and, in each row, beta = 1 - p it would be
    `softened_divergence`: there a teacher that is sure of its class (p near 1) teaches little of the others.
    """
    target_B = target_class_divergences(student_BK, teacher_BK, classes_B, temperature)
    nontarget_B = nontarget_class_divergences(student_BK, teacher_BK, classes_B, temperature)
    return temperature**2 * (target_weight * target_B + nontarget_weight * nontarget_B).mean()


def softened_mean(teachers_MBK: "Tensor", temperature: float) -> "Tensor":
    """Return logits [B, K] whose softmax at T is the mean over m of softmax(t_m / T): T log mean_m softmax(t_m / T).

    So an ensemble is one teacher to every loss above, at the temperature T (Hinton et al. 2015, section 3).
    """
    import math

    import torch

    log_shares_MBK = torch.log_softmax(teachers_MBK / temperature, dim=2)
    return temperature * (log_shares_MBK.logsumexp(dim=0) - math.log(len(teachers_MBK)))


def _divergences(log_student_BK: "Tensor", log_teacher_BK: "Tensor") -> "Tensor":
    """sum_k p_k (log p_k - log q_k) of each row, p the teacher's and q the student's probabilities, [B]."""
    from torch.nn import functional

    return functional.kl_div(log_student_BK, log_teacher_BK, reduction="none", log_target=True).sum(dim=1)


def _log_target_and_rest(logits_BK: "Tensor", classes_B: "Tensor") -> "Tensor":
    """Return log probabilities [B, 2] of the row's class and of all others together.

    The second is a log-sum-exp, since log(1 - p) has no digits left where p is near 1.
    """
    import torch

    all_B = logits_BK.logsumexp(dim=1)
    target_B = logits_BK.gather(1, classes_B[:, None]).squeeze(1)
    rest_B = _without(logits_BK, classes_B).logsumexp(dim=1)
    return torch.stack([target_B - all_B, rest_B - all_B], dim=1)


def _without(logits_BK: "Tensor", classes_B: "Tensor") -> "Tensor":
    """Return [B, K - 1]: each row without its class."""
    import torch

    others_BK = torch.arange(logits_BK.shape[1], device=classes_B.device) != classes_B[:, None]
    return logits_BK[others_BK].reshape(len(logits_BK), -1)
