"""Measuring a trained run: its videos against the true frames, in the columns of the paper's table 1.

    options ─► bench (clips, truth, instruments) ─► videos ─► scores ─► table ─► markdown, JSON, contact sheet

What makes the numbers is in `cinescene_core.metrics`. A column whose weights are not there says so; a video that
failed is counted, never dropped.
"""

from .options import EvaluationOptions
from .printing import compare, to_markdown
from .run import evaluate, run_evaluate
from .scores import VideoScores
from .table import EvaluationRecord, MetricRow, MetricTable, read_table, write_table
from .yardstick import Yardstick

__all__ = [
    "EvaluationOptions",
    "EvaluationRecord",
    "MetricRow",
    "MetricTable",
    "VideoScores",
    "Yardstick",
    "compare",
    "evaluate",
    "read_table",
    "run_evaluate",
    "to_markdown",
    "write_table",
]
