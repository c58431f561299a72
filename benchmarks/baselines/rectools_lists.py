r"""SASRec and BERT4Rec by RecTools, as lists for `macrec evaluate --lists`.

An environment of its own, because RecTools asks for other versions of numpy and pandas:

    python -m venv rectools && rectools/bin/pip install -r benchmarks/baselines/requirements.txt
    rectools/bin/python benchmarks/baselines/rectools_lists.py --interactions interactions.csv --system sasrec \
        --minutes 10 --seeds 3 --output lists/
    macrec evaluate model/ --interactions interactions.csv --lists sasrec=lists/sasrec.seed-0.jsonl

Full softmax cross-entropy on the real positions (RecTools' "softmax" leaves padding out), padding masked in
attention, histories longer than a session cut into pieces, early stop on validation. `--minutes` are CPU minutes of
one training; there are six configurations and the further seeds of the best one.
"""

import argparse
import copy
import logging
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from budget import fill_row
from purchases import PLACES, in_pieces, read_purchases
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel

SESSION = 20  # purchases that are read, as the recommender's `max_history`
BATCH = 128
CONFIGURATIONS = [
    {"n_factors": width, "n_blocks": blocks, "dropout_rate": dropout}
    for width in (64, 128)
    for blocks, dropout in ((1, 0.5), (2, 0.2), (2, 0.5))
]
MODELS = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}


class RecTools:
    """A model of RecTools under the protocol of `budget.System`."""

    def __init__(self, model_class, purchases, configuration, seed):
        torch.manual_seed(seed)
        np.random.seed(seed)
        self.purchases = purchases
        self.model = model_class(
            **configuration,
            n_heads=1,
            session_max_len=SESSION,
            use_key_padding_mask=True,
            loss="softmax",
            lr=1e-3,
            batch_size=BATCH,
        )
        longest = SESSION + self.model.data_preparator_type.train_session_max_len_addition
        self.data = as_dataset([piece for history in purchases.training() for piece in in_pieces(history, longest)])

    @property
    def steps(self):
        return math.ceil(self.data.user_id_map.size / BATCH)

    def epoch(self):
        self.model.fit_partial(self.data, min_epochs=1, max_epochs=1)

    def rank(self, histories):
        data = as_dataset([history[-SESSION:] for history in histories])
        found = self.model.recommend(
            np.arange(len(histories)), data, k=PLACES, filter_viewed=False, on_unsupported_targets="ignore"
        )
        lists = np.full((len(histories), PLACES), -1, dtype=np.int64)
        lists[found[Columns.User], found[Columns.Rank] - 1] = found[Columns.Item]
        return lists

    def state(self):
        return copy.deepcopy(self.model.lightning_model.state_dict())

    def restore(self, state):
        self.model.lightning_model.load_state_dict(state)


def as_dataset(sequences):
    """Sequences as RecTools reads them; the place in the sequence stands for the time."""
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences]),
            Columns.Item: np.concatenate(sequences),
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(np.concatenate([np.arange(len(sequence)) for sequence in sequences])),
        }
    )
    return Dataset.construct(frame)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path, required=True)
    parser.add_argument("--system", choices=MODELS, required=True)
    parser.add_argument("--minutes", type=float, default=10, help="CPU minutes of a training (default: 10)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--configurations", type=int, default=len(CONFIGURATIONS), help="only the first so many")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    purchases = read_purchases(args.interactions)

    def make(configuration, seed):
        return RecTools(MODELS[args.system], purchases, configuration, seed)

    fill_row(
        args.system, make, purchases, CONFIGURATIONS[: args.configurations], args.minutes, args.seeds, args.output
    )


if __name__ == "__main__":
    main()
