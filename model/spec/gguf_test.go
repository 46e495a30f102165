package spec_test

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/zerofleet/zerofleet/gguf"
	"github.com/zerofleet/zerofleet/model/spec"
)

// pair is one metadata entry; value is a uint32, float32, bool or string.
type pair struct {
	key   string
	value any
}

// vector is a tensor of f32; dims innermost first.
type vector struct {
	name string
	dims []int
	data []float32
}

// writeGGUF writes a version 3 file.
func writeGGUF(t *testing.T, pairs []pair, tensors []vector) *gguf.File {
	t.Helper()
	le := binary.LittleEndian
	b := append([]byte("GGUF"), 3, 0, 0, 0)
	b = le.AppendUint64(le.AppendUint64(b, uint64(len(tensors))), uint64(len(pairs)))
	text := func(s string) { b = append(le.AppendUint64(b, uint64(len(s))), s...) }
	for _, p := range pairs {
		text(p.key)
		switch v := p.value.(type) {
		case uint32:
			b = le.AppendUint32(le.AppendUint32(b, 4), v)
		case float32:
			b = le.AppendUint32(le.AppendUint32(b, 6), math.Float32bits(v))
		case string:
			b = le.AppendUint32(b, 8)
			text(v)
		default:
			t.Fatalf("%s: %T", p.key, v)
		}
	}
	offset := 0
	for _, v := range tensors {
		text(v.name)
		b = le.AppendUint32(b, uint32(len(v.dims)))
		for _, d := range v.dims {
			b = le.AppendUint64(b, uint64(d))
		}
		b = le.AppendUint64(le.AppendUint32(b, uint32(gguf.F32)), uint64(offset))
		offset += (len(v.data)*4 + 31) / 32 * 32
	}
	for _, v := range tensors {
		b = append(b, make([]byte, (32-len(b)%32)%32)...)
		for _, x := range v.data {
			b = le.AppendUint32(b, math.Float32bits(x))
		}
	}
	path := filepath.Join(t.TempDir(), "x.gguf")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var llamaPairs = []pair{
	{"general.architecture", "llama"}, {"llama.embedding_length", uint32(32)}, {"llama.block_count", uint32(2)},
	{"llama.attention.head_count", uint32(4)}, {"llama.attention.head_count_kv", uint32(2)}, {"llama.feed_forward_length", uint32(20)},
	{"llama.context_length", uint32(4096)}, {"llama.attention.layer_norm_rms_epsilon", float32(1e-5)}, {"llama.rope.freq_base", float32(500000)},
	{"tokenizer.ggml.bos_token_id", uint32(1)}, {"tokenizer.ggml.eos_token_id", uint32(2)}, {"tokenizer.ggml.eot_token_id", uint32(3)},
}

var embedding = vector{"token_embd.weight", []int{32, 5}, make([]float32, 160)}

// set returns llamaPairs with a key set to another value, or removed by nil.
func set(key string, value any) []pair {
	pairs := slices.DeleteFunc(slices.Clone(llamaPairs), func(p pair) bool { return p.key == key })
	if value != nil {
		pairs = append(pairs, pair{key, value})
	}
	return pairs
}

func TestFromGGUF(t *testing.T) {
	base := spec.Config{
		Architecture: spec.Llama, Vocab: 5, Width: 32, Layers: 2, Heads: 4, KVHeads: 2, HeadWidth: 8, FeedForward: 20,
		NormEps: 1e-5, RopeTheta: 500000, Tied: true, MaxPositions: 4096, BOS: 1, EOS: []int{2, 3}, Pad: -1,
	}
	scaled := base
	scaled.RopeScaling = &spec.RopeScaling{Type: spec.RopeLlama3, Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositions: 8192}
	plain, slow := base.InvFreq(), scaled.InvFreq()
	factors := vector{"rope_freqs.weight", []int{4}, make([]float32, 4)}
	for i := range factors.data {
		factors.data[i] = plain[i] / slow[i]
	}
	ones := vector{"rope_freqs.weight", []int{4}, []float32{1, 1, 1, 1}}
	for _, tt := range []struct {
		name    string
		pairs   []pair
		tensors []vector
		change  func(*spec.Config)
	}{
		{"plain", llamaPairs, []vector{embedding}, func(*spec.Config) {}},
		{"untied", llamaPairs, []vector{embedding, {"output.weight", []int{32, 5}, make([]float32, 160)}}, func(c *spec.Config) { c.Tied = false }},
		{"all heads have keys", set("llama.attention.head_count_kv", nil), []vector{embedding}, func(c *spec.Config) { c.KVHeads = 4 }},
		{"default base", set("llama.rope.freq_base", nil), []vector{embedding}, func(c *spec.Config) { c.RopeTheta = 10000 }},
		{"head width", set("llama.attention.key_length", uint32(16)), []vector{embedding}, func(c *spec.Config) { c.HeadWidth = 16 }},
		{"linear", append(set("llama.rope.scaling.type", "linear"), pair{"llama.rope.scaling.factor", float32(2)}), []vector{embedding}, func(c *spec.Config) {
			c.RopeScaling = &spec.RopeScaling{Type: spec.RopeLinear, Factor: 2}
		}},
		{"llama 3", llamaPairs, []vector{embedding, factors}, func(c *spec.Config) { c.RopeScaling = scaled.RopeScaling }},
		{"factors of one", llamaPairs, []vector{embedding, ones}, func(*spec.Config) {}},
		{"one part of one", set("split.count", uint32(1)), []vector{embedding}, func(*spec.Config) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := base
			tt.change(&want)
			got, err := spec.FromGGUF(writeGGUF(t, tt.pairs, tt.tensors))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestFromGGUFRefuses(t *testing.T) {
	const unsupported = true
	for _, tt := range []struct {
		name        string
		pairs       []pair
		tensors     []vector
		want        string
		unsupported bool
	}{
		{"architecture", set("general.architecture", "gpt2"), []vector{embedding}, `GGUF architecture "gpt2": want llama`, unsupported},
		{"experts", set("llama.expert_count", uint32(8)), []vector{embedding}, "metadata llama.expert_count: 8: want 0", unsupported},
		{"partial rotary", set("llama.rope.dimension_count", uint32(4)), []vector{embedding}, "metadata llama.rope.dimension_count: 4: want 8", unsupported},
		{"value width", set("llama.attention.value_length", uint32(4)), []vector{embedding}, "metadata llama.attention.value_length: 4: want 8", unsupported},
		{"scale", set("llama.attention.scale", float32(1)), []vector{embedding}, "metadata llama.attention.scale: want none", unsupported},
		{"yarn", set("llama.rope.scaling.type", "yarn"), []vector{embedding}, `metadata llama.rope.scaling.type: "yarn": want one of none, linear`, unsupported},
		{"parts", set("split.count", uint32(3)), []vector{embedding}, "metadata split.count: 3: want 1", unsupported},
		{"other factors", llamaPairs, []vector{embedding, {"rope_freqs.weight", []int{4}, []float32{1, 2, 3, 8}}}, `tensor "rope_freqs.weight": entry`, unsupported},
		{"factors' shape", llamaPairs, []vector{embedding, {"rope_freqs.weight", []int{3}, []float32{1, 2, 8}}}, `tensor "rope_freqs.weight": [3]: want [4]`, false},
		{"no width", set("llama.embedding_length", nil), []vector{embedding}, "metadata llama.embedding_length: no such key", false},
		{"width is text", set("llama.embedding_length", "wide"), []vector{embedding}, "metadata llama.embedding_length: got string, want a whole number", false},
		{"kv heads are text", set("llama.attention.head_count_kv", "two"), []vector{embedding}, "metadata llama.attention.head_count_kv: got string", false},
		{"no heads", set("llama.attention.head_count", uint32(0)), []vector{embedding}, "metadata llama.attention.head_count: 0: want at least 1", false},
		{"no embedding", llamaPairs, nil, `tensor "token_embd.weight": missing, or not a matrix`, false},
		{"id outside", set("tokenizer.ggml.eos_token_id", uint32(5)), []vector{embedding}, "eos_token_id: 5: not in the vocabulary of 5", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := writeGGUF(t, tt.pairs, tt.tensors)
			_, err := spec.FromGGUF(f)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), f.Path()) {
				t.Fatalf("got %v, want the path and %q", err, tt.want)
			}
			if got := errors.Is(err, spec.ErrUnsupported); got != tt.unsupported {
				t.Errorf("%v: ErrUnsupported is %v, want %v", err, got, tt.unsupported)
			}
		})
	}
}

// TestGGUFNames: every tensor has its own place in the file, and Row is a permutation that
// puts the halves of each rotary pair side by side.
func TestGGUFNames(t *testing.T) {
	c, err := spec.Preset("preset://tiny-untied")
	if err != nil {
		t.Fatal(err)
	}
	places := map[string]string{}
	for _, u := range c.Units() {
		for _, tensor := range u.Tensors {
			g, ok := c.GGUF(tensor.Name)
			if !ok || places[g.Name] != "" {
				t.Errorf("%s: got place %q, %v, taken by %q", tensor.Name, g.Name, ok, places[g.Name])
			}
			places[g.Name] = tensor.Name
			rows := map[int]bool{}
			for n := range tensor.Shape[0] {
				rows[g.Row(n)] = true
			}
			if len(rows) != tensor.Shape[0] || slices.Max(slices.Collect(maps.Keys(rows))) != tensor.Shape[0]-1 {
				t.Errorf("%s: Row is not a permutation", tensor.Name)
			}
			qk := strings.Contains(tensor.Name, "q_proj") || strings.Contains(tensor.Name, "k_proj")
			if g.Permuted() != qk {
				t.Errorf("%s: permuted is %v, want %v", tensor.Name, g.Permuted(), qk)
			}
		}
	}
	if g, _ := c.GGUF("model.layers.1.self_attn.k_proj.weight"); g.Name != "blk.1.attn_k.weight" || g.Row(16) != 16 || g.Row(17) != 18 || g.Row(24) != 17 {
		t.Errorf("k_proj: %s, rows 16, 17, 24 at %d, %d, %d, want 16, 18, 17 (heads of 16 rows)", g.Name, g.Row(16), g.Row(17), g.Row(24))
	}
	for _, name := range []string{"", "x", "model.layers.4.mlp.up_proj.weight", "model.layers.01.mlp.up_proj.weight", "model.layers.0.x", "0.mlp.up_proj.weight", "model.layers.-1.mlp.up_proj.weight"} {
		if g, ok := c.GGUF(name); ok {
			t.Errorf("GGUF(%q): got %q, want none", name, g.Name)
		}
	}
}
