"""The rows of 5_ablations.py, which `benchmarks/result_lists.py` takes too: one quantizer and one training each."""

# A row is a quantizer and flags of `macrec train`. The four rows after MACRec are the paper's Table 3, the quantizers
# "cross-modal" and "independent" its Table 4.
NO_CONTRASTIVE, NO_ALIGNMENT = ["--contrastive-weights", "{zeros}"], ["--alignment-weight", "0"]
QUANTIZERS = {
    "cross-modal": [],
    "without L_con": NO_CONTRASTIVE,
    "without L_align": NO_ALIGNMENT,
    "independent": NO_CONTRASTIVE + NO_ALIGNMENT,
    "text": ["--modalities", "text"],
    "image": ["--modalities", "image"],
    "photos missing": [],
}
NO_IMPLICIT = ["--implicit-alignment-weight", "0"]
ROWS = {
    "MACRec": ("cross-modal", []),
    "without L_con": ("without L_con", []),
    "without L_align": ("without L_align", []),
    "without L_implicit": ("cross-modal", NO_IMPLICIT),
    "without explicit alignment": ("cross-modal", ["--tasks", "text_to_text,image_to_image"]),
    "MQL4GRec": ("independent", NO_IMPLICIT),
    "TIGER (text)": ("text", []),
    "TIGER (image)": ("image", []),
    "photos missing": ("photos missing", []),  # with --drop-photos
}
