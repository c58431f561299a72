# Everything here builds on transformers. Loaded before any file of this folder, it finds none of them half loaded when
# our classes are registered with it (`macrec_hf/auto_classes.py`).
import transformers  # noqa: F401
