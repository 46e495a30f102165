package weights_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/model/weights"
	"github.com/zerofleet/zerofleet/safetensors"
)

// The folders and files below testdata are written by tools/golden/weights_files.py.

func open(t testing.TB, ref string, o weights.Options) weights.Source {
	t.Helper()
	s, err := weights.Open(ref, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func readAll(t testing.TB, s weights.Source, tensor spec.Tensor) []float32 {
	t.Helper()
	dst := make([]float32, tensor.Elems)
	if err := s.ReadF32(t.Context(), tensor.Name, 0, tensor.Elems, dst); err != nil {
		t.Fatal(err)
	}
	return dst
}

func everyTensor(c spec.Config) []spec.Tensor {
	var all []spec.Tensor
	for _, u := range c.Units() {
		all = append(all, u.Tensors...)
	}
	return all
}

func equal(a, b []float32) bool {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

// TestFormsAgree: one model as a folder, as a sharded folder in bf16 and as a GGUF file with
// permuted rows has one configuration and the same weights.
func TestFormsAgree(t *testing.T) {
	hf := open(t, "testdata/hf", weights.Options{})
	sharded := open(t, "testdata/sharded", weights.Options{})
	file := open(t, "testdata/tiny.gguf", weights.Options{})
	for name, s := range map[string]weights.Source{"sharded": sharded, "gguf": file} {
		if !reflect.DeepEqual(s.Config(), hf.Config()) {
			t.Errorf("%s: got config %+v, want %+v", name, s.Config(), hf.Config())
		}
	}
	for _, tensor := range everyTensor(hf.Config()) {
		want := readAll(t, hf, tensor)
		if !equal(readAll(t, file, tensor), want) {
			t.Errorf("gguf: %s differs from the folder's", tensor.Name)
		}
		for i, got := range readAll(t, sharded, tensor) {
			if diff := math.Abs(float64(got - want[i])); diff > math.Abs(float64(want[i]))/256 {
				t.Errorf("sharded: %s[%d]: got %v, want %v rounded to bf16", tensor.Name, i, got, want[i])
				break
			}
		}
	}
}

// TestAnyRange: a range holds what the whole tensor holds there, whatever the form.
func TestAnyRange(t *testing.T) {
	sources := []weights.Source{
		open(t, "testdata/hf", weights.Options{}), open(t, "testdata/sharded", weights.Options{}),
		open(t, "testdata/tiny.gguf", weights.Options{}), open(t, "preset://tiny", weights.Options{Seed: 5}),
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := rapid.SampledFrom(sources).Draw(rt, "source")
		tensor := rapid.SampledFrom(everyTensor(s.Config())).Draw(rt, "tensor")
		lo := rapid.IntRange(0, tensor.Elems).Draw(rt, "lo")
		hi := rapid.IntRange(lo, tensor.Elems).Draw(rt, "hi")
		got := make([]float32, hi-lo)
		if err := s.ReadF32(t.Context(), tensor.Name, lo, hi, got); err != nil {
			rt.Fatal(err)
		}
		if !equal(got, readAll(t, s, tensor)[lo:hi]) {
			rt.Fatalf("%s[%d:%d] differs from the whole tensor there", tensor.Name, lo, hi)
		}
	})
}

func TestReadRefuses(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ref := range []string{"testdata/hf", "testdata/tiny.gguf", "preset://tiny"} {
		s := open(t, ref, weights.Options{})
		dst := make([]float32, 4)
		for _, tt := range []struct {
			name   string
			lo, hi int
			want   string
		}{
			{"none", 0, 4, `no tensor "none"`},
			{spec.EmbedName, -1, 3, "elements [-1, 3)"},
			{spec.EmbedName, 1 << 30, 1<<30 + 4, "want a range within"},
			{spec.EmbedName, 4, 0, "elements [4, 0)"},
			{spec.EmbedName, 0, 5, "room for 4"},
		} {
			if err := s.ReadF32(t.Context(), tt.name, tt.lo, tt.hi, dst); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: ReadF32(%q, %d, %d): got %v, want %q", ref, tt.name, tt.lo, tt.hi, err, tt.want)
			}
		}
		if err := s.ReadF32(cancelled, spec.EmbedName, 0, 4, dst); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want Canceled", ref, err)
		}
	}
}

// change copies testdata/hf with another config or with changed tensors.
func change(t *testing.T, config func(string) string, tensors func([]safetensors.TensorInfo) []safetensors.TensorInfo) string {
	t.Helper()
	dir := t.TempDir()
	b, err := os.ReadFile("testdata/hf/config.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config(string(b))), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open("testdata/hf/model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var infos []safetensors.TensorInfo
	for _, tensor := range f.Tensors() {
		infos = append(infos, safetensors.TensorInfo{Name: tensor.Name, DType: tensor.DType, Shape: tensor.Shape})
	}
	infos = tensors(infos)
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), infos, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		elems := 1
		for _, d := range info.Shape {
			elems *= d
		}
		if err := w.WriteBytes(info.Name, make([]byte, elems*info.DType.Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func same[T any](v T) T { return v }

func TestOpenRefuses(t *testing.T) {
	type infos = []safetensors.TensorInfo
	index := func(list infos, name string) int {
		for i := range list {
			if list[i].Name == name {
				return i
			}
		}
		t.Fatalf("no tensor %s", name)
		return 0
	}
	f32 := func(name string, shape ...int) safetensors.TensorInfo {
		return safetensors.TensorInfo{Name: name, DType: safetensors.F32, Shape: shape}
	}
	const q = "model.layers.1.self_attn.q_proj.weight"
	for _, tt := range []struct {
		name    string
		config  func(string) string
		tensors func(infos) infos
		want    string
	}{
		{"missing", same[string], func(l infos) infos { i := index(l, q); return append(l[:i], l[i+1:]...) }, "1 missing tensors: " + q},
		{"shape", same[string], func(l infos) infos { l[index(l, q)].Shape = []int{16, 32}; return l }, "1 wrong tensors: " + q + ": shape [16 32], want [32 16]"},
		{"dtype", same[string], func(l infos) infos { l[index(l, q)].DType = safetensors.I32; return l }, q + ": dtype I32, want one of F32, F16, BF16"},
		{"extra", same[string], func(l infos) infos { return append(l, f32("model.layers.1.self_attn.q_proj.bias", 32)) }, "1 unexpected tensors: model.layers.1.self_attn.q_proj.bias"},
		{"more layers", func(s string) string {
			return strings.Replace(s, `"num_hidden_layers": 2`, `"num_hidden_layers": 3`, 1)
		}, same[infos], "9 missing tensors: model.layers.2.self_attn.q_proj.weight, model.layers.2.self_attn.k_proj.weight, model.layers.2.self_attn.v_proj.weight, model.layers.2.self_attn.o_proj.weight and 5 more"},
		{"fewer layers and another width", func(s string) string {
			s = strings.Replace(s, `"num_hidden_layers": 2`, `"num_hidden_layers": 1`, 1)
			return strings.Replace(s, `"intermediate_size": 20`, `"intermediate_size": 21`, 1)
		}, same[infos], "3 wrong tensors: model.layers.0.mlp.gate_proj.weight: shape [20 16], want [21 16], model.layers.0.mlp.up_proj.weight"},
		{"architecture", func(s string) string { return strings.Replace(s, "LlamaForCausalLM", "GPT2LMHeadModel", 1) }, same[infos], `architecture "GPT2LMHeadModel": want one of`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := change(t, tt.config, tt.tensors)
			s, err := weights.Open(dir, weights.Options{})
			if err == nil {
				s.Close()
				t.Fatalf("opened; want an error with %q", tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "model "+dir) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line with the folder and %q", err, tt.want)
			}
		})
	}

	// A tied model may bring a copy of its embedding, and old ones bring rotary tables.
	dir := change(t, func(s string) string {
		return strings.Replace(s, `"vocab_size"`, `"tie_word_embeddings": true, "vocab_size"`, 1)
	}, func(l infos) infos { return append(l, f32("model.layers.0.self_attn.rotary_emb.inv_freq", 4)) })
	if !open(t, dir, weights.Options{}).Config().Tied {
		t.Error("the tied model is not tied")
	}
}

func TestOpenRefusesReferences(t *testing.T) {
	empty := t.TempDir()
	noWeights := t.TempDir()
	config, err := os.ReadFile("testdata/hf/config.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(noWeights, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"testdata/none":        "model testdata/none: file does not exist",
		"testdata/normal.json": "want a Hugging Face folder or a .gguf file",
		"hf://org/name":        "want a local folder",
		"preset://huge":        "unknown preset",
		empty:                  "config.json: no such file",
		noWeights:              "neither model.safetensors nor model.safetensors.index.json",
	} {
		if _, err := weights.Open(ref, weights.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%s): got %v, want %q", ref, err, want)
		}
	}
	if _, err := weights.Config(empty); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Config: got %v, want ErrNotExist", err)
	}
}

// TestConfig: the configuration alone is what Open finds.
func TestConfig(t *testing.T) {
	for _, ref := range []string{"testdata/hf", "testdata/sharded", "testdata/tiny.gguf", "preset://tiny-untied"} {
		got, err := weights.Config(ref)
		if want := open(t, ref, weights.Options{}).Config(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", ref, got, err, want)
		}
	}
}

// TestPresetEqualsPython holds the generator to another implementation of its definition.
func TestPresetEqualsPython(t *testing.T) {
	b, err := os.ReadFile("testdata/normal.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Draws []struct {
			Seed uint64 `json:"seed"`
			Name string `json:"name"`
			At   uint64 `json:"at"`
			Bits uint32 `json:"f32_bits"`
		} `json:"draws"`
	}
	if err := json.Unmarshal(b, &golden); err != nil || len(golden.Draws) != 186 {
		t.Fatalf("normal.json: %d draws, %v", len(golden.Draws), err)
	}
	for _, d := range golden.Draws {
		got := float32(0.02 * weights.Normal(d.Seed, d.Name, d.At))
		if math.Float32bits(got) != d.Bits {
			t.Errorf("draw %d of (%d, %s): got %g, want %g", d.At, d.Seed, d.Name, got, math.Float32frombits(d.Bits))
		}
	}
	s := open(t, "preset://tiny-untied", weights.Options{Seed: golden.Draws[0].Seed})
	first := make([]float32, 60)
	if err := s.ReadF32(t.Context(), golden.Draws[0].Name, 0, 60, first); err != nil {
		t.Fatal(err)
	}
	for i, v := range first {
		if math.Float32bits(v) != golden.Draws[i].Bits {
			t.Errorf("%s[%d]: got %g, want %g", golden.Draws[0].Name, i, v, math.Float32frombits(golden.Draws[i].Bits))
		}
	}
}

// TestPresetDistribution: matrices are normal with standard deviation 0.02, norms are 1, and
// seeds and names give streams of their own.
func TestPresetDistribution(t *testing.T) {
	s := open(t, "preset://tiny-untied", weights.Options{Seed: 1})
	var all []float64
	for _, tensor := range everyTensor(s.Config()) {
		values := readAll(t, s, tensor)
		for _, v := range values {
			if len(tensor.Shape) == 1 {
				if v != 1 {
					t.Fatalf("%s: got %v, want 1", tensor.Name, v)
				}
				continue
			}
			all = append(all, float64(v)/0.02)
		}
	}
	// The k-th moment's standard error is sqrt(E[x^2k]/n): below 5 of them.
	n := float64(len(all))
	for _, m := range []struct {
		power      float64
		want, even float64 // E[x^p] and E[x^2p] of the standard normal
	}{{1, 0, 1}, {2, 1, 3}, {3, 0, 15}, {4, 3, 105}} {
		var sum float64
		for _, v := range all {
			sum += math.Pow(v, m.power)
		}
		if got := sum / n; math.Abs(got-m.want) > 5*math.Sqrt(m.even/n) {
			t.Errorf("moment %v of %v draws: got %v, want %v", m.power, n, got, m.want)
		}
	}
	embed, head := s.Config().Units()[0].Tensors[0], everyTensor(s.Config())
	other := open(t, "preset://tiny-untied", weights.Options{Seed: 2})
	if equal(readAll(t, s, embed), readAll(t, other, embed)) {
		t.Error("two seeds give the same embedding")
	}
	if equal(readAll(t, s, embed), readAll(t, s, head[len(head)-1])) {
		t.Error("the embedding and the head are equal")
	}
}
