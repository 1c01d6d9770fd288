"""The ruler: protocols that ask a network about a case, measurements of its answers, and what is made of them.

Asking (:mod:`protocols`, :mod:`segmenting`) is separate from measuring (:mod:`measuring`): masks of any method are
measured as :class:`Answer`.
"""

from sam_lora.evaluation.cases import (
    CaseDataset,
    CaseEvaluation,
    Evaluated,
    evaluate_case,
    measure_answers,
    only_one,
)
from sam_lora.evaluation.protocols import EvaluationRules, object_boxes
from sam_lora.evaluation.report import EvaluationReport
from sam_lora.evaluation.segmenting import Answer
from sam_lora.evaluation.truth import CaseTruth

__all__ = [
    "Answer",
    "CaseDataset",
    "CaseEvaluation",
    "CaseTruth",
    "Evaluated",
    "EvaluationReport",
    "EvaluationRules",
    "evaluate_case",
    "measure_answers",
    "object_boxes",
    "only_one",
]
