"""The folder of `macrec quantize`: semantic IDs and the quantizer that made them."""

from pathlib import Path

from safetensors import SafetensorError

from ..model.files import discard, move_into_place, write_checksums
from ..model.modeling_macrec_quantizer import MacRecQuantizer
from ..model.semantic_ids import ITEMS_NAME, SemanticIdTable


def write_ids(output: Path, table: SemanticIdTable, quantizer: MacRecQuantizer) -> None:
    """Table and quantizer, written beside and moved into place; the table's list of items comes last.

    Until it is there the folder counts as incomplete, so that codes and quantizer of two runs are never mixed up.
    """
    beside = output / ".partial"
    try:
        discard(beside)
        table.save_pretrained(beside)
        quantizer.save_pretrained(beside / "quantizer")
        write_checksums(beside)
        (output / ITEMS_NAME).unlink(missing_ok=True)
        for path in sorted(beside.iterdir(), key=lambda path: path.name == ITEMS_NAME):
            move_into_place(path, output / path.name)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{output}: the semantic IDs could not be written: {error}. Is the disk full? The checkpoints are whole: "
            "--resume goes on from the last."
        ) from error
    finally:
        discard(beside)
