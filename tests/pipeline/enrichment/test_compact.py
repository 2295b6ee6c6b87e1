"""The flat hash table gives what a dict gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.pipeline.enrichment.compact import Index, Texts


@given(st.lists(st.binary(max_size=3), max_size=400), st.lists(st.binary(max_size=3), max_size=50))
def test_an_index_numbers_texts_as_a_dict_does(texts: list[bytes], others: list[bytes]) -> None:
    index, expected = Index(), dict[bytes, int]()
    for text in texts:
        assert index.add(text) == expected.setdefault(text, len(expected))
    assert len(index) == len(expected)
    assert [index[number] for number in range(len(index))] == list(expected)
    for text in texts + others:
        assert index.find(text) == expected.get(text, -1)


def test_an_index_stays_right_as_it_grows_and_takes_few_bytes() -> None:
    index = Index()
    texts = [b"%d.example" % number for number in range(20_000)]
    for text in texts:
        index.add(text)
    assert [index.find(text) for text in texts] == list(range(len(texts)))
    assert index.find(b"none.example") == -1
    assert index.nbytes < sum(map(len, texts)) + 32 * len(texts)


def test_texts_may_be_empty() -> None:
    texts = Texts()
    assert [texts.append(each) for each in (b"", b"a", b"")] == [0, 1, 2]
    assert [texts[0], texts[1], texts[2]] == [b"", b"a", b""]
