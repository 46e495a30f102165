package weights_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/model/weights"
)

// only wants dir's parent to hold nothing but dir: no temporary folder is left.
func only(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside %s: %v, %v, want nothing", dir, entries, err)
	}
}

func TestSaveRoundTrip(t *testing.T) {
	from := open(t, "testdata/tiny.gguf", weights.Options{})
	for _, tt := range []struct {
		name, dtype string
		shardBytes  int64
		files       int
	}{
		{"f32", "f32", 1 << 40, 1}, {"bf16", "bf16", 1 << 40, 1}, {"f16", "f16", 1 << 40, 1}, {"shards", "f32", 8000, 4}, {"one tensor each", "bf16", 1, 21},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "model")
			extra := []weights.Extra{{Name: "tokenizer.json", Data: []byte("{}")}, {Name: "tokenizer_config.json", Path: "testdata/hf/config.json"}}
			if err := weights.SaveInShards(t.Context(), dir, from.Config(), tt.dtype, from.ReadF32, extra, tt.shardBytes); err != nil {
				t.Fatal(err)
			}
			only(t, dir)
			if files, err := filepath.Glob(filepath.Join(dir, "*.safetensors")); err != nil || len(files) != tt.files {
				t.Errorf("got %d files of weights, want %d: %v", len(files), tt.files, files)
			}
			got := open(t, dir, weights.Options{})
			if !reflect.DeepEqual(got.Config(), from.Config()) {
				t.Errorf("got config %+v, want %+v", got.Config(), from.Config())
			}
			for _, tensor := range everyTensor(from.Config()) {
				want := readAll(t, from, tensor)
				for i, v := range readAll(t, got, tensor) {
					tolerance := map[string]float32{"f32": 0, "bf16": 1.0 / 256, "f16": 1.0 / 2048}[tt.dtype]
					if diff := v - want[i]; max(diff, -diff) > tolerance*max(want[i], -want[i])+tolerance*1e-4 {
						t.Fatalf("%s[%d]: got %v, want %v", tensor.Name, i, v, want[i])
					}
				}
			}
			companions, err := weights.Companions(dir)
			if err != nil || len(companions) != 3 {
				t.Errorf("companions: got %v, %v, want generation_config.json, tokenizer.json, tokenizer_config.json", companions, err)
			}
		})
	}
}

// TestSaveReplaces: a model's folder is replaced; any other is left as it is.
func TestSaveReplaces(t *testing.T) {
	s := open(t, "preset://tiny", weights.Options{Seed: 1})
	other := open(t, "preset://tiny", weights.Options{Seed: 2})
	dir := filepath.Join(t.TempDir(), "model")
	if err := weights.SaveInShards(t.Context(), dir, s.Config(), "f32", s.ReadF32, nil, 100000); err != nil {
		t.Fatal(err)
	}
	if err := weights.Save(t.Context(), dir, s.Config(), "f32", other.ReadF32, nil); err != nil {
		t.Fatal(err)
	}
	only(t, dir)
	if left, _ := filepath.Glob(filepath.Join(dir, "model-*")); len(left) > 0 {
		t.Errorf("left of the earlier model: %v", left)
	}
	embed := s.Config().Units()[0].Tensors[0]
	if !equal(readAll(t, open(t, dir, weights.Options{}), embed), readAll(t, other, embed)) {
		t.Error("the second model is not there")
	}

	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("dear"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := weights.Save(t.Context(), dir, s.Config(), "f32", s.ReadF32, nil)
	if err == nil || !strings.Contains(err.Error(), "holds thesis.txt, which is not a model's") {
		t.Errorf("over another folder: got %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "thesis.txt")); err != nil || string(b) != "dear" {
		t.Errorf("the other file: %q, %v", b, err)
	}
	only(t, dir)
}

// TestSaveFails: after any fault nothing is there that was not before.
func TestSaveFails(t *testing.T) {
	s := open(t, "preset://tiny", weights.Options{})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	within, cancel := context.WithCancel(t.Context())
	fault := errors.New("planted")
	reads := 0
	failing := func(ctx context.Context, name string, lo, hi int, dst []float32) error {
		if reads++; reads == 7 {
			return fault
		}
		return s.ReadF32(ctx, name, lo, hi, dst)
	}
	cancelling := func(ctx context.Context, name string, lo, hi int, dst []float32) error {
		if name == "model.layers.2.mlp.up_proj.weight" {
			cancel()
		}
		return s.ReadF32(t.Context(), name, lo, hi, dst)
	}
	for _, tt := range []struct {
		name  string
		ctx   context.Context
		dtype string
		read  weights.ReadFunc
		extra []weights.Extra
		want  string
	}{
		{"reader", t.Context(), "f32", failing, nil, "planted"},
		{"cancelled within", within, "f32", cancelling, nil, "context canceled"},
		{"cancelled before", cancelled, "f32", s.ReadF32, nil, "context canceled"},
		{"dtype", t.Context(), "int8", s.ReadF32, nil, `dtype "int8": want one of f32, bf16, f16`},
		{"missing extra", t.Context(), "f32", s.ReadF32, []weights.Extra{{Name: "tokenizer.json", Path: "none"}}, "copy tokenizer.json: open none: no such file"},
		{"extra leads out", t.Context(), "f32", s.ReadF32, []weights.Extra{{Name: "../tokenizer.json"}}, `extra file "../tokenizer.json"`},
		{"extra twice", t.Context(), "f32", s.ReadF32, []weights.Extra{{Name: "vocab.json"}, {Name: "vocab.json"}}, `extra file "vocab.json"`},
		{"extra in place of weights", t.Context(), "f32", s.ReadF32, []weights.Extra{{Name: "model.safetensors"}}, `extra file "model.safetensors"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			err := weights.Save(tt.ctx, filepath.Join(parent, "model"), s.Config(), tt.dtype, tt.read, tt.extra)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if entries, err := os.ReadDir(parent); err != nil || len(entries) > 0 {
				t.Errorf("left %v, %v", entries, err)
			}
		})
	}
	if err := weights.Save(t.Context(), filepath.Join(t.TempDir(), "none", "model"), s.Config(), "f32", s.ReadF32, nil); err == nil {
		t.Error("in a missing folder: no error")
	}
}
