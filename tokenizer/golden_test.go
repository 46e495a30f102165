package tokenizer

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"reflect"
	"strconv"
	"testing"
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
func real(t *testing.T, name string) *Tokenizer {
	tok, err := Load("../.cache/tokenizers/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}
