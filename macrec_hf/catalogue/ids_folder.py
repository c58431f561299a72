"""The folder of `macrec quantize`: semantic IDs, the quantizer that made them, and how it went."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.output_folder import output_folder
from ..model.checksums import write_checksums
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from ..model.semantic_ids import ITEMS_NAME, SemanticIdTable

REPORT_NAME = "report.json"


def write_ids(output: Path, table: SemanticIdTable, quantizer: MacRecQuantizer, report: Mapping[str, Any]) -> None:
    """Table, quantizer and report take their places together: codes and quantizer of two runs are never mixed up."""
    with output_folder(output, last=ITEMS_NAME) as beside:
        table.save_pretrained(beside)
        quantizer.save_pretrained(beside / "quantizer")
        (beside / REPORT_NAME).write_text(json.dumps(report, indent=2))
        write_checksums(beside)
