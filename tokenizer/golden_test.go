package tokenizer

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/gguf"
	"github.com/zerofleet/zerofleet/test/fetch"
	"github.com/zerofleet/zerofleet/tokenizer/jinja"
)

type golden struct {
	Versions map[string]string
	Strings  []string
	IDs      map[string][][]int32 `json:"ids"`
	Decoded  map[string]map[string]string
}

func readGolden(t *testing.T, path string, into any) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// The ids are those of the tokenizers library (tools/golden/tokenizer.py).
func TestIDsEqualTokenizers(t *testing.T) {
	var g golden
	readGolden(t, "testdata/ids.json.gz", &g)
	if len(g.Strings) != 2000 {
		t.Fatalf("%d strings, want 2000", len(g.Strings))
	}
	for _, name := range []string{"smollm2", "llama3", "qwen3"} {
		t.Run(name, func(t *testing.T) {
			tok := real(t, name)
			wrong := 0
			for i, s := range g.Strings {
				ids, err := tok.Encode(s, EncodeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				want := g.IDs[name][i]
				if len(ids)+len(want) > 0 && !reflect.DeepEqual(ids, want) {
					if wrong++; wrong < 10 {
						t.Errorf("%q:\n got %v\nwant %v", s, ids, want)
					}
				}
				decoded, ok := g.Decoded[name][strconv.Itoa(i)]
				if !ok {
					decoded = s
				}
				if got := tok.Decode(want, DecodeOptions{}); got != decoded {
					t.Errorf("decode %v:\n got %q\nwant %q", want, got, decoded)
				}
			}
			if wrong > 0 {
				t.Errorf("%d of %d strings differ", wrong, len(g.Strings))
			}
		})
	}
}

// real is one of the tokenizers that the goldens were made with.
func real(t testing.TB, name string) *Tokenizer {
	t.Helper()
	var tok *Tokenizer
	var err error
	if name == "smollm2" {
		f, openErr := gguf.Open(fetch.SmolLM2(t))
		if openErr != nil {
			t.Fatal(openErr)
		}
		defer f.Close()
		tok, err = FromGGUF(f.Metadata())
	} else {
		tok, err = Load(fetch.Tokenizer(t, name))
	}
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// What Files writes reads back as the same tokenizer: for SmolLM2 that is a
// tokenizer.json made of a GGUF vocabulary.
func TestFilesReadBack(t *testing.T) {
	for name, tok := range map[string]*Tokenizer{"bytes": Bytes(), "smollm2": real(t, "smollm2")} {
		files, err := tok.Files()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseFiles(files)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(again.Special(), tok.Special()) || again.ChatTemplate() != tok.ChatTemplate() || again.VocabSize() != tok.VocabSize() {
			t.Errorf("%s: special tokens, template or size differ: %+v and %+v", name, again.Special(), tok.Special())
		}
		const text = "func main() { x := 12345 } <|im_start|>user\n naïve  你好 \x04<|endoftext|>"
		want, err := tok.Encode(text, EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := again.Encode(text, EncodeOptions{}); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v %v, want %v", name, got, err, want)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	tok := real(b, "smollm2")
	text, err := os.ReadFile("golden_test.go")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := tok.Encode(string(text), EncodeOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeChat(b *testing.B) {
	tok := real(b, "smollm2")
	tm, err := tok.Template("", time.Time{})
	if err != nil {
		b.Fatal(err)
	}
	chat := Chat{Messages: []*jinja.Dict{
		Message("user", "What does strings.Cut do?"),
		Message("assistant", "Cut slices s around the first instance of sep, returning the text before and after sep."),
	}}
	for b.Loop() {
		if _, _, err := tm.EncodeChat(chat); err != nil {
			b.Fatal(err)
		}
	}
}
