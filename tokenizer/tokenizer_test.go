package tokenizer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// merging is a tokenizer with a few merges, from the given JSON members.
const merging = `{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "abc": 5, "bc": 6, "Ġa": 7, "aa": 8, "aaaa": 9, "é": 10},
	"merges": ["a b", "b c", ["ab", "c"], "Ġ a", "a a", "aa aa"]%s},
	"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": %v, "use_regex": true}, "decoder": {"type": "ByteLevel"}%s}`

func parse(t *testing.T, model string, prefix bool, more string) *Tokenizer {
	t.Helper()
	tok, err := Parse([]byte(fmt.Sprintf(merging, model, prefix, more)))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestEncode(t *testing.T) {
	const added = `, "added_tokens": [
		{"id": 20, "content": "<s>", "special": true},
		{"id": 21, "content": "<s>x", "special": true},
		{"id": 22, "content": "<l>", "lstrip": true}, {"id": 23, "content": "<r>", "rstrip": true},
		{"id": 24, "content": "w", "single_word": true}]`
	const post = `, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
		{"SpecialToken": {"id": "E", "type_id": 0}}], "special_tokens": {"B": {"id": "B", "ids": [0, 1], "tokens": []}, "E": {"id": "E", "ids": [2], "tokens": []}}}`
	for _, c := range []struct {
		name, model, more, text string
		prefix                  bool
		want                    []int32
	}{
		{"lowest rank first", "", "", "abc", false, []int32{5}},
		{"leftmost first", "", "", "aaa", false, []int32{8, 0}},
		{"twice", "", "", "aaaaaa", false, []int32{9, 8}},
		{"words", "", "", "ab ab", false, []int32{4, 3, 4}},
		{"prefix space", "", "", "a a", true, []int32{7, 7}},
		{"no second space", "", "", " a", true, []int32{7}},
		{"bytes without a token are dropped", "", "", "axb", false, []int32{4}},
		{"unknown token", `, "unk_token": "c"`, "", "axb", false, []int32{0, 2, 1}},
		{"ignore merges", `, "ignore_merges": true`, "", "bc", false, []int32{6}},
		{"added, longest", "", added, "a<s>x<s>b", false, []int32{0, 21, 20, 1}},
		{"left strip", "", added, "a  <l> b", false, []int32{0, 22, 3, 1}},
		{"right strip", "", added, "a <r>  b", false, []int32{0, 3, 23, 1}},
		{"single word", "", added, "a w aw w", false, []int32{0, 3, 24, 7, 3, 24}},
		{"begin and end", "", post, "c", false, []int32{0, 1, 2, 2}},
		{"empty", "", post, "", true, []int32{0, 1, 2}},
		{"not UTF-8", "", "", "a\xffb", false, []int32{0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse(t, c.model, c.prefix, c.more).Encode(c.text, EncodeOptions{Begin: true, End: true})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("%q: got %v, want %v", c.text, got, c.want)
			}
		})
	}
}

// What a file asks for and we do not do is refused by name.
func TestRefused(t *testing.T) {
	whole := func(s string) string { return s }
	member := func(m string) string { return fmt.Sprintf(merging, "", false, ", "+m) }
	model := func(m string) string { return fmt.Sprintf(merging, ", "+m, false, "") }
	for _, c := range []struct {
		name, file, want string
	}{
		{"not JSON", whole(`{"model": }`), "not JSON at byte 11"},
		{"empty", whole(`{}`), "model.vocab: empty"},
		{"WordPiece", model(`"type": "WordPiece"`), `model.type "WordPiece" is not supported`},
		{"byte_fallback", model(`"byte_fallback": true`), "model.byte_fallback is not supported"},
		{"dropout", model(`"dropout": 0.1`), "model.dropout 0.1 is not supported"},
		{"subword prefix", model(`"continuing_subword_prefix": "##"`), `continuing_subword_prefix "##" is not supported`},
		{"word suffix", model(`"end_of_word_suffix": "</w>"`), `end_of_word_suffix "</w>" is not supported`},
		{"unknown unk", model(`"unk_token": "?"`), `unk_token "?" is not in the vocabulary`},
		{"fused unk", model(`"unk_token": "a", "fuse_unk": true`), "fuse_unk with a vocabulary that lacks byte 0x00"},
		{"normalizer", member(`"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "x"}]}`),
			`normalizer[1] "Prepend" is not supported: want NFC, NFD, NFKC or NFKD`},
		{"pre-tokenizer", member(`"pre_tokenizer": {"type": "Metaspace"}`), `pre_tokenizer "Metaspace" is not supported`},
		{"after ByteLevel", member(`"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]}`),
			`pre_tokenizer[1] "Digits" after ByteLevel is not supported`},
		{"no ByteLevel", member(`"pre_tokenizer": {"type": "Digits"}`), "no ByteLevel in it"},
		{"split behaviour", member(`"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "MergedWithNext"}`),
			`split behavior "MergedWithNext" is not supported`},
		{"split string", member(`"pre_tokenizer": {"type": "Split", "pattern": {"String": "x"}, "behavior": "Isolated"}`), "split without a Regex pattern is not supported"},
		{"split pattern", member(`"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}`), `split pattern "("`},
		{"post-processor", member(`"post_processor": {"type": "BertProcessing"}`), `post_processor "BertProcessing" is not supported`},
		{"template token", member(`"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]}`), `special token "x" has no ids`},
		{"template id", member(`"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}], "special_tokens": {"x": {"id": "x", "ids": [99]}}}`),
			"id 99, outside the vocabulary of 11"},
		{"template without text", member(`"post_processor": {"type": "TemplateProcessing", "single": []}`), "has no Sequence"},
		{"no decoder", `{"model": {"vocab": {"a": 0}}, "pre_tokenizer": {"type": "ByteLevel"}}`, "decoder: none"},
		{"decoder", member(`"decoder": {"type": "Metaspace"}`), `decoder "Metaspace" is not supported`},
		{"merge in three", `{"model": {"vocab": {"a": 0}, "merges": ["a b c"]}}`, `merge "a b c": want two tokens`},
		{"merge of one", `{"model": {"vocab": {"a": 0}, "merges": [["a"]]}}`, `merge ["a"]: want two tokens`},
		{"merge of a number", `{"model": {"vocab": {"a": 0}, "merges": [7]}}`, `merge 7`},
		{"merge without result", `{"model": {"vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}`, `model.merges[0] "a" "b": a part or the whole is not in the vocabulary`},
		{"same id", `{"model": {"vocab": {"a": 0, "b": 0}}}`, `tokens "a" and "b" both have id 0`},
		{"negative id", `{"model": {"vocab": {"a": -1}}}`, `token "a": id -1`},
		{"huge id", `{"model": {"vocab": {"a": 2000000000}}}`, `token "a": id 2000000000`},
		{"no bytes", `{"model": {"vocab": {"abc": 0}}}`, "no token for any single byte"},
		{"added id twice", member(`"added_tokens": [{"id": 0, "content": "z"}]`), `added token "z" has the id 0 of "a"`},
		{"added with another id", member(`"added_tokens": [{"id": 40, "content": "a"}]`), `added token "a": ids 0 and 40`},
		{"empty added", member(`"added_tokens": [{"id": 40, "content": ""}]`), "added token 40: 0 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.file))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "tokenizer.json: ") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Long words are merged as short ones are.
func TestLongWordsMergeAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A random vocabulary over few letters, so that merges overlap.
		f := &file{PreTokenizer: byteLevel(false), Decoder: byteLevel(false), Model: model{Vocab: map[string]int32{"a": 0, "b": 1, "c": 2}}}
		tokens := []string{"a", "b", "c"}
		for range rapid.IntRange(0, 25).Draw(t, "merges") {
			left, right := rapid.SampledFrom(tokens).Draw(t, "left"), rapid.SampledFrom(tokens).Draw(t, "right")
			f.Model.Merges = append(f.Model.Merges, mergeText{left, right})
			if _, ok := f.Model.Vocab[left+right]; !ok {
				f.Model.Vocab[left+right] = int32(len(tokens))
				tokens = append(tokens, left+right)
			}
		}
		tok, err := build(f)
		if err != nil {
			t.Fatal(err)
		}
		word := rapid.StringOfN(rapid.SampledFrom([]rune("abc")), 1, 200, -1).Draw(t, "word")
		merge := func(m func(*bpe, []symbol)) (ids []int32) {
			var e encoding
			e.t = tok
			for i := range len(word) {
				e.symbols = append(e.symbols, symbol{id: tok.model.byteID[word[i]], at: int32(i), prev: int32(i - 1), next: int32(i + 1)})
			}
			e.symbols[len(word)-1].next = -1
			m(&tok.model, e.symbols)
			for i := int32(0); i >= 0; i = e.symbols[i].next {
				ids = append(ids, e.symbols[i].id)
			}
			return ids
		}
		short := merge((*bpe).mergeShort)
		long := merge(func(m *bpe, s []symbol) { m.mergeLong(s, &mergeHeap{}) })
		if !reflect.DeepEqual(short, long) {
			t.Fatalf("%q: %v and %v", word, short, long)
		}
	})
}

// A word of megabytes without a place to cut is encoded in a moment.
func TestLongWordIsFast(t *testing.T) {
	ids, err := parse(t, "", false, "").Encode(strings.Repeat("abcaa", 400_000), EncodeOptions{})
	if err != nil || len(ids) != 800_000 {
		t.Fatalf("%d ids, %v", len(ids), err)
	}
}

func TestOffsets(t *testing.T) {
	files, err := Bytes().Files()
	if err != nil {
		t.Fatal(err)
	}
	var f map[string]any
	if err := json.Unmarshal(files["tokenizer.json"], &f); err != nil {
		t.Fatal(err)
	}
	f["normalizer"] = map[string]string{"type": "NFC"}
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	normalising, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "é", "e\u0301", "\u1112\u1161", EndOfText, " ", "x\u0323\u0307"}), 0, 9).Draw(t, "text"), "")
		for _, tok := range []*Tokenizer{Bytes(), normalising} {
			ids, starts, err := tok.EncodeOffsets(s, EncodeOptions{})
			if err != nil || len(ids) != len(starts) {
				t.Fatalf("%d ids, %d offsets, %v", len(ids), len(starts), err)
			}
			last := 0
			for i, at := range starts {
				if at < last || at >= len(s) {
					t.Fatalf("%q: offset %d after %d", s, at, last)
				}
				last = at
				// What comes before an offset is what the ids before it decode to.
				if i > 0 && starts[i] > starts[i-1] && utf8.RuneStart(s[at]) {
					before := tok.Decode(ids[:i], DecodeOptions{})
					if tok != normalising && before != s[:at] || tok == normalising && before != norm.NFC.String(s[:at]) {
						t.Fatalf("%q: %d ids are %q, want %q", s, i, before, s[:at])
					}
				}
			}
		}
	})
}

// A stream gives what Decode gives, and never half a character.
func TestStreamIsDecode(t *testing.T) {
	tok := Bytes()
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.OneOf(rapid.Int32Range(0, 256), rapid.SampledFrom([]int32{0xf0, 0x9f, 0x98, 0x80, 0xe2, 0x82, 0xac, 'a', 0xed, 0xa0})), 0, 20).Draw(t, "ids")
		s := tok.Stream(DecodeOptions{})
		var got string
		for _, id := range ids {
			part := s.Push(id)
			if !utf8.ValidString(part) {
				t.Fatalf("%v: part %q", ids, part)
			}
			got += part
		}
		got += s.Flush()
		if want := tok.Decode(ids, DecodeOptions{}); got != want {
			t.Fatalf("%v: got %q, want %q", ids, got, want)
		}
		// Python's bytes.decode(errors="replace") and Rust's from_utf8_lossy agree with
		// Go's own conversion where only whole characters and lone bytes stand.
		var raw []byte
		for _, id := range ids {
			if id < 256 {
				raw = append(raw, byte(id))
			} else {
				raw = append(raw, EndOfText...)
			}
		}
		if utf8.Valid(raw) && got != string(raw) {
			t.Fatalf("%v: got %q, want %q", ids, got, raw)
		}
	})
	for in, want := range map[string]string{
		"\xf0\x9f\x98": "�", "\xf0\x9f\x98a": "�a", "\xe2\x82\xe2\x82\xac": "�€", "\xed\xa0\x80": "���", "\xff\xfe": "��", "\xc3": "�", "\xf4\x90\x80\x80": "����",
	} {
		if got := replaceInvalid(in); got != want {
			t.Errorf("% x: got %q, want %q", in, got, want)
		}
	}
	s := tok.Stream(DecodeOptions{SkipSpecial: true})
	if got := s.Push(0xc3) + "|" + s.Push(256) + "|" + s.Push(0xa9) + "|" + s.Push(-1) + s.Push(9999); got != "||é|" {
		t.Errorf("got %q", got)
	}
}

func TestCheckVocab(t *testing.T) {
	if err := Bytes().CheckVocab(300); err != nil {
		t.Error(err)
	}
	if err := Bytes().CheckVocab(256); err == nil || !strings.Contains(err.Error(), "257") || !strings.Contains(err.Error(), "256") {
		t.Errorf("got %v, want both sizes", err)
	}
}

func TestLoadReadsWhatIsBeside(t *testing.T) {
	folder := t.TempDir()
	put := func(name, content string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("tokenizer.json", fmt.Sprintf(merging, "", false, ""))
	put("special_tokens_map.json", `{"bos_token": "b", "eos_token": {"content": "c", "lstrip": false}}`)
	put("tokenizer_config.json", `{"eos_token": "a", "pad_token": null, "chat_template": [{"name": "default", "template": "one"}, {"name": "rag", "template": "two"}]}`)
	put("generation_config.json", `{"eos_token_id": [2, 0, 5]}`)
	tok, err := Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	want := Special{BOS: 1, EOS: 0, Pad: None, Unknown: None, Stop: []int32{0, 2, 5}}
	if got := tok.Special(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := tok.ChatTemplate(); got != "one" {
		t.Errorf("template %q", got)
	}
	put("chat_template.jinja", "three")
	if tok, err = Load(folder); err != nil || tok.ChatTemplate() != "three" || len(tok.ChatTemplates()) != 2 {
		t.Errorf("template %q of %q, %v", tok.ChatTemplate(), tok.ChatTemplates(), err)
	}
	files, err := tok.Files()
	if err != nil || len(files) != 4 || files["generation_config.json"] != nil {
		t.Errorf("%d files, %v", len(files), err)
	}
	for name, content := range map[string]string{
		"tokenizer_config.json": `{"eos_token": "zz"}`, "generation_config.json": `{"eos_token_id": 99}`, "special_tokens_map.json": `[`,
	} {
		old, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		put(name, content)
		if _, err := Load(folder); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s %s: got %v", name, content, err)
		}
		put(name, string(old))
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "tokenizer.json") {
		t.Errorf("empty folder: got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(fmt.Sprintf(merging, "", false, ""), "abc aé")
	f.Add(fmt.Sprintf(merging, `, "unk_token": "a", "ignore_merges": true`, true, `, "added_tokens": [{"id": 20, "content": "<s>", "lstrip": true}]`), " <s> b")
	f.Add(fmt.Sprintf(merging, "", false, `, "normalizer": {"type": "NFKD"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
		{"type": "Split", "pattern": {"Regex": "\\p{N}{1,2}|x"}, "behavior": "Removed", "invert": true}, {"type": "ByteLevel"}]}`), "1234xe\u0301")
	files, err := Bytes().Files()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(files["tokenizer.json"]), "x<|endoftext|>")
	f.Fuzz(func(t *testing.T, file, text string) {
		tok, err := Parse([]byte(file))
		if err != nil {
			return
		}
		ids, starts, err := tok.EncodeOffsets(text, EncodeOptions{Begin: true, End: true})
		if err != nil {
			return
		}
		for i, id := range ids {
			if id < 0 || int(id) >= tok.VocabSize() || starts[i] < 0 || starts[i] > len(text) {
				t.Fatalf("id %d at %d, vocabulary %d, text %d", id, starts[i], tok.VocabSize(), len(text))
			}
		}
		if !utf8.ValidString(tok.Decode(ids, DecodeOptions{})) {
			t.Fatal("decoded to what is not UTF-8")
		}
	})
}

func FuzzChat(f *testing.F) {
	f.Add("{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}x{% endif %}", "q", "a")
	f.Add(bytesTemplate, "q", "a")
	f.Fuzz(func(t *testing.T, template, question, answer string) {
		tok := Bytes()
		tm, err := tok.ParseTemplate(template, today)
		if err != nil {
			return
		}
		ids, marks, err := tm.EncodeChat(Chat{Messages: dictsOf(question, answer)})
		if err == nil && len(ids) != len(marks) {
			t.Fatalf("%d ids, %d marks", len(ids), len(marks))
		}
	})
}
