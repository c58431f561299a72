"""Words of scripts with blanks are counted as ever; of scripts without, pieces of words."""

import pickle

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer

from macrec_hf.catalogue import offline_encoders
from macrec_hf.catalogue.offline_encoders import HASH_BUCKETS, OfflineTextEncoder
from macrec_hf.catalogue.words import WordsAndPieces

LATIN = [
    "Red ceramic mug, 12 oz",
    "GREEN Café-crème mug (Größe L) – naïve façade",
    "Красная кружка 300 мл",
    "κόκκινη κούπα",
    "كوب أحمر صغير",
    "लाल चाय का मग",
    "mug №5 ½ ™ 😀 100% a_b x",
    "",
]


def test_other_scripts_are_counted_as_words_and_pairs():
    """As a plain vectorizer counts them, so that embeddings stay what they were."""
    plain = HashingVectorizer(
        n_features=HASH_BUCKETS,
        ngram_range=(1, 2),
        token_pattern=r"(?u)\w+",
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    )
    encoder = OfflineTextEncoder()
    before, now = plain.transform(LATIN), encoder.batch_features(LATIN)
    assert (before != now).nnz == 0 and before.nnz == now.nnz > 50
    embeddings = encoder.catalogue_embeddings(now)
    other = OfflineTextEncoder()
    other._hasher = plain
    assert np.array_equal(embeddings, other.catalogue_embeddings(other.batch_features(LATIN)), equal_nan=True)


def test_words_and_pieces():
    analyze = WordsAndPieces()
    assert analyze("Red MUG red") == ["red", "mug", "red", "red mug", "mug red"]
    assert analyze("红茶杯") == ["红", "茶", "杯", "红茶", "茶杯", "红茶杯"]
    assert analyze("ＵＳＢ充電 12V") == ["usb", "12v", "usb 12v", "充", "電", "充電"]
    assert analyze("ﾏｸﾞ・マグ") == ["マ", "グ", "マグ"] * 2  # narrow letters are the same ones; the dot is none
    assert analyze("머그 컵") == ["머", "그", "머그", "컵"]
    assert analyze("ถ้วย") == ["ถ", "้", "ว", "ย", "ถ้", "้ว", "วย", "ถ้ว", "้วย"]
    assert pickle.loads(pickle.dumps(analyze))("红 a") == analyze("红 a")


CATALOGUES = {
    "Chinese": "白瓷茶杯 大号茶杯 蓝色茶杯 玻璃茶杯套装 "
    "男士皮鞋 女士皮鞋黑 棕色皮鞋 真皮皮鞋 "
    "折叠雨伞 自动雨伞 儿童雨伞 黑色雨伞",
    "Japanese": "白いティーカップ 大きなティーカップ 青ティーカップ ガラスティーカップ "
    "男性革靴 女性用革靴 茶色の革靴 本革の革靴 "
    "折りたたみ傘 自動開閉の傘 子供用傘 黒い傘",
    "Thai": "ถ้วยชาสีขาว ถ้วยชาใหญ่ ถ้วยชาแก้ว ชุดถ้วยชา "
    "รองเท้าหนังชาย รองเท้าหนังหญิง รองเท้าหนังดำ รองเท้าหนังแท้ "
    "ร่มพับ ร่มอัตโนมัติ ร่มเด็ก ร่มกันฝน",
    "Korean": "하얀찻잔 큰찻잔 파란찻잔 유리찻잔세트 "
    "남성구두 여성구두 갈색구두 가죽구두 "
    "접이식우산 자동우산 아동우산 검정우산",
    "Khmer": "ពែងតែស ពែងតែធំ ពែងតែខៀវ ឈុតពែងតែ "
    "ស្បែកជើងបុរស ស្បែកជើងនារី ស្បែកជើងខ្មៅ ស្បែកជើងថ្មី "
    "ឆ័ត្របត់ ឆ័ត្រស្វ័យប្រវត្តិ ឆ័ត្រកុមារ ឆ័ត្រខ្មៅ",
    "Lao": "ຈອກຊາຂາວ ຈອກຊາໃຫຍ່ ຈອກຊາຟ້າ ຊຸດຈອກຊາ ເກີບໜັງຊາຍ ເກີບໜັງຍິງ ເກີບໜັງດຳ ເກີບໜັງແທ້ ຄັນຮົ່ມພັບ ຄັນຮົ່ມໃຫຍ່ ຄັນຮົ່ມເດັກ ຄັນຮົ່ມດຳ",
    "mixed": "Noritake白瓷茶杯 IKEA茶杯 茶杯12oz 玻璃茶杯Set "
    "Clarks男士皮鞋 皮鞋42码 ECCO皮鞋 皮鞋Nappa "
    "雨伞Auto Totes雨伞 儿童雨伞XS 雨伞UV50",
}


@pytest.mark.parametrize("name", CATALOGUES)
def test_items_of_one_kind_are_nearest_in_scripts_without_blanks(name, monkeypatch):
    titles, kinds = CATALOGUES[name].split(), np.arange(12) // 4

    def alike():
        encoder = OfflineTextEncoder()
        rows = encoder.catalogue_embeddings(encoder.batch_features(titles))
        cosines = rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)
        np.fill_diagonal(cosines, -2)
        same = kinds[:, None] == kinds
        gap = cosines[same & (cosines > -2)].mean() - cosines[~same].mean()
        return (kinds[cosines.argmax(1)] == kinds).sum(), gap

    found, gap = alike()
    assert found >= 11 and gap > 0.25
    words = WordsAndPieces()._words  # what was counted of them before
    monkeypatch.setattr(offline_encoders, "WordsAndPieces", lambda: words)
    assert alike()[1] < gap
