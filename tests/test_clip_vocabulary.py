"""Our tokenizer with the real vocabulary of CLIP, 49,408 tokens, against transformers' fast one, on 5,000 awkward strings.

The list comes in the wheel of `open_clip_torch`, of which nothing is imported: one file of it is read."""
import gzip
import html
import importlib.util
import os
import random
import unicodedata
from pathlib import Path

import pytest
import transformers

from minidiff.tokenizer import CLIPTokenizer, clean

NAME = "bpe_simple_vocab_16e6.txt.gz"


def vocabulary_file():
    "Where the list lies: named by CLIP_VOCABULARY, or beside an `open_clip` that is installed (looked for, not imported)."
    if given := os.environ.get("CLIP_VOCABULARY"): return Path(given)
    found = importlib.util.find_spec("open_clip")
    return Path(found.origin).parent / NAME if found and found.origin else None


PATH = vocabulary_file()
pytestmark = pytest.mark.skipif(PATH is None or not PATH.is_file(), reason="pip install --no-deps open_clip_torch brings CLIP's vocabulary")


@pytest.fixture(scope="module")
def ours():
    "As OpenAI's code reads the list: 48,894 merges from its second line on; bytes, bytes that end a word, merges, start, end."
    from minidiff.tokenizer import vocabulary
    lines = gzip.decompress(PATH.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1:49152 - 256 - 2 + 1]]
    return CLIPTokenizer(vocabulary(merges), merges)


@pytest.fixture(scope="module")
def real(ours, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    ours.save_pretrained(folder)
    return transformers.CLIPTokenizerFast.from_pretrained(folder)


def awkward(n, seed=0):
    "Words, marks, scripts, emoji with joiners, accents taken apart, odd spaces, special tokens, and any character at all."
    pick = random.Random(seed)
    words = ("A photo of the CAT's dog isn't we'll they'd I'm you've 3.14 1,000 x2 c++ C# don’t “red” ‘blue’ café naïve Ünïcode ﬁne ＲＥＤ ΟΔΟΣ ὈΔΥΣΣΕΎΣ İstanbul ıI ß ẞ Ǆ ǅ "
             "straße œuvre Привет мир здравствуйте こんにちは 世界 日本語 안녕하세요 مرحبا שלום नमस्ते ไทย ½ ² ① Ⅷ ٣ 四 ーー … — – ‐ · € £ ₿ &amp; &lt;b&gt; &amp;amp; <br> #tag @name http://x.y/z?q=1 "
             "a_b __init__ ... !!! ?! ''s 's 'S '' 'lll o'clock rock'n'roll 'tis").split()
    parts = ["🎨", "👩‍👩‍👧", "🇫🇷", "👍🏽", "❤️", "☃", "\u200d", "\u200b", "\ufe0f", "\u0301", "e\u0301", "\u00a0", "\u3000", "\u2028", "\u0085", "\x1c", "\x1f", "\x00", "\x7f", "\ufeff",
             "\ufffd", "\t", "\n", "\r\n", "  ", " ", "<|startoftext|>", "<|endoftext|>", "<|ENDOFTEXT|>", "<|end", "oftext|>", "</w>", "Ġ", "Ã", "ſ", "ﷺ", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "\U0001d400", "\u1e9e", "ǰ", "ﬃ"]
    planes = [(0x20, 0x7e), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x52f), (0x590, 0x6ff), (0x900, 0xdff), (0x1e00, 0x206f), (0x2100, 0x2bff), (0x3000, 0x30ff), (0xac00, 0xd7a3), (0xf900, 0xfdff),
              (0x10000, 0x103ff), (0x1f300, 0x1faff), (0x20000, 0x2a6df), (0xe0000, 0xe01ef)]

    def odd():
        low, high = pick.choice(planes)
        return chr(pick.randint(low, high))

    def case(word): return pick.choice([str, str.upper, str.lower, str.title, str.swapcase])(word)

    texts = ["", " ", "'", "’", "\u0301", "<|endoftext|>", "a" * 300, "'s" * 40, "é" * 99, "e\u0301" * 40, "🎨" * 30, "x " * 200]
    while len(texts) < n:
        made = [case(pick.choice(words)) if roll < 0.55 else pick.choice(parts) if roll < 0.8 else odd() for roll in (pick.random() for _ in range(pick.randint(1, 14)))]
        texts.append(pick.choice(["", " ", " ", " "]).join(made))
    return texts


def differing(ours, real, texts):
    theirs = real(texts, add_special_tokens=True).input_ids
    return [(text, own, other) for text, own, other in zip(texts, ours(texts, truncation=False).input_ids, theirs) if own != other]


def test_the_list(ours):
    assert len(ours) == 49408 and len(ours.merges) == 48894
    assert (ours.bos_token_id, ours.eos_token_id) == (49406, 49407)
    assert ours("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]  # as OpenAI's code and its papers' users have it


def test_5000_awkward_strings(ours, real):
    texts = awkward(5000)
    assert len(set(texts)) > 4500 and sum(not text.isascii() for text in texts) > 2500
    wrong = differing(ours, real, texts)
    assert not wrong, f"{len(wrong)} of {len(texts)}, such as {wrong[:3]}"


def test_padded_cut_and_back(ours, real):
    texts = awkward(400, seed=1)
    with pytest.warns(UserWarning, match="cut the last"): found = ours(texts, padding="max_length")
    theirs = real(texts, padding="max_length", truncation=True)
    assert found.input_ids == theirs.input_ids and found.attention_mask == theirs.attention_mask
    for row in found.input_ids: assert ours.decode(row, True) == real.decode(row, skip_special_tokens=True)


def test_every_token_is_found_again(ours, real):
    "What a token spells, cut again, is the same for both."
    assert not differing(ours, real, [token.removesuffix("</w>") for token in list(ours.vocab)[::7]])


def test_where_openai_cleans_otherwise(ours):
    "HTML turned back, curly quotes and full-width letters made plain, a final sigma: none of it is done here, nor by the fast tokenizer."
    for text, openai in {"red &amp; blue": "red & blue", "a ‘red’ star": "a 'red' star", "ＲＥＤ": "red", "ΟΔΟΣ": "οδος"}.items():
        narrow = "".join(unicodedata.normalize("NFKC", c) if "！" <= c <= "～" else c for c in text).translate({0x2018: "'", 0x2019: "'"})
        assert html.unescape(html.unescape(narrow)).lower() == openai
        assert clean(text) != openai and ours(text).input_ids != ours(openai).input_ids
