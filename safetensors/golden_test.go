package safetensors_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/zerofleet/zerofleet/safetensors"
)

const mixed = "testdata/mixed.safetensors" // written by tools/golden/safetensors_files.py

func open(t *testing.T, path string) *safetensors.File {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func readAll(t *testing.T, f *safetensors.File, name string) []float32 {
	t.Helper()
	tensor, ok := f.Tensor(name)
	if !ok {
		t.Fatalf("%s: no tensor %q", f.Path(), name)
	}
	dst := make([]float32, tensor.Elems)
	if err := f.ReadF32(name, 0, tensor.Elems, dst); err != nil {
		t.Fatal(err)
	}
	return dst
}

// TestWriteEqualsReference writes the reference's tensors again and wants its very bytes.
func TestWriteEqualsReference(t *testing.T) {
	f := open(t, mixed)
	var infos []safetensors.TensorInfo
	for _, tensor := range f.Tensors() {
		infos = append(infos, safetensors.TensorInfo{Name: tensor.Name, DType: tensor.DType, Shape: tensor.Shape})
	}
	var got bytes.Buffer
	w, err := safetensors.NewWriter(&got, infos, f.Metadata())
	if err != nil {
		t.Fatal(err)
	}
	for _, tensor := range f.Tensors() {
		raw := make([]byte, tensor.Bytes())
		if err := f.ReadBytes(tensor.Name, 0, tensor.Elems, raw); err != nil {
			t.Fatal(err)
		}
		half := len(raw) / 2
		for _, part := range [][]byte{raw[:half], raw[half:]} {
			if err := w.WriteBytes(tensor.Name, part); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(mixed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got %d bytes, want %d, or other ones:\n%.400q\n%.400q", got.Len(), len(want), got.Bytes(), want)
	}
}

// TestRoundingEqualsTorch holds both directions of both 16-bit formats to torch's.
func TestRoundingEqualsTorch(t *testing.T) {
	f := open(t, mixed)
	values := readAll(t, f, "values")
	for name, dtype := range map[string]safetensors.DType{"values.f16": safetensors.F16, "values.bf16": safetensors.BF16} {
		got, want := readAll(t, f, name), readAll(t, f, name+".f32")
		for i := range want {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
				t.Errorf("%s[%d] of %g: widened to %g, want %g", name, i, values[i], got[i], want[i])
			}
		}
		var out bytes.Buffer
		w, err := safetensors.NewWriter(&out, []safetensors.TensorInfo{{Name: "x", DType: dtype, Shape: []int{len(values)}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		header := out.Len()
		if err := w.WriteF32("x", values); err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, 2*len(values))
		if err := f.ReadBytes(name, 0, len(values), raw); err != nil {
			t.Fatal(err)
		}
		rounded := out.Bytes()[header:]
		for i, v := range values {
			if !bytes.Equal(rounded[2*i:2*i+2], raw[2*i:2*i+2]) {
				t.Errorf("%s[%d]: %g rounds to %x, want %x", name, i, v, rounded[2*i:2*i+2], raw[2*i:2*i+2])
			}
		}
	}
}

func TestReadGolden(t *testing.T) {
	f := open(t, mixed)
	if got := readAll(t, f, "scalar"); len(got) != 1 || got[0] != 1.5 {
		t.Errorf("scalar: got %v, want [1.5]", got)
	}
	if got := readAll(t, f, "empty"); len(got) != 0 {
		t.Errorf("empty: got %v, want []", got)
	}
	if got := f.Metadata()["format"]; got != "pt" {
		t.Errorf("metadata: format is %q, want pt", got)
	}
	for name, want := range map[string]safetensors.DType{
		"name \"quoted\" <&> é \U0001f600": safetensors.I64, "bool": safetensors.Bool, "complex": safetensors.C64, "f8": safetensors.F8E4M3,
	} {
		if got, ok := f.Tensor(name); !ok || got.DType != want {
			t.Errorf("%q: got %v, %v, want dtype %s", name, got, ok, want)
		}
	}
}

func TestOpenShardedGolden(t *testing.T) {
	s, err := safetensors.OpenSharded("testdata/sharded")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tensors := s.Tensors()
	if len(tensors) != 5 {
		t.Fatalf("got %d tensors, want 5", len(tensors))
	}
	for i, name := range []string{"layer.0.weight", "layer.1.weight", "layer.2.weight", "layer.3.weight", "layer.4.weight"} {
		got := make([]float32, 8)
		if err := s.ReadF32(name, 16, 24, got); err != nil {
			t.Fatal(err)
		}
		for _, v := range got {
			if v != float32(i) {
				t.Fatalf("%s: got %v, want all %d", name, got, i)
			}
		}
	}
	files, err := filepath.Glob("testdata/sharded/*.safetensors")
	if err != nil || len(files) != 3 {
		t.Errorf("golden has files %v, %v: want 3", files, err)
	}
}
