package gguf_test

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/zerofleet/zerofleet/gguf"
)

const tiny = "testdata/tiny.gguf" // written by tools/golden/gguf_files.py, like values.json

func open(t *testing.T, path string) *gguf.File {
	t.Helper()
	f, err := gguf.Open(path)
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

type goldenTensor struct {
	Shape []int    `json:"shape"`
	Bits  []uint32 `json:"bits"`
}

func goldenTensors(t *testing.T) map[string]goldenTensor {
	t.Helper()
	b, err := os.ReadFile("testdata/values.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Tensors map[string]goldenTensor `json:"tensors"`
	}
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Tensors) != 9 {
		t.Fatalf("values.json holds %d tensors, want 9", len(golden.Tensors))
	}
	return golden.Tensors
}

func TestTensorsEqualReference(t *testing.T) {
	f := open(t, tiny)
	golden := goldenTensors(t)
	if got := len(f.Tensors()); got != len(golden) {
		t.Errorf("got %d tensors, want %d", got, len(golden))
	}
	for name, want := range golden {
		tensor, ok := f.Tensor(name)
		if !ok || !slices.Equal(tensor.Shape, want.Shape) {
			t.Errorf("%s: got shape %v, %v, want %v", name, tensor.Shape, ok, want.Shape)
			continue
		}
		got := make([]float32, tensor.Elems)
		if err := f.ReadF32(name, 0, tensor.Elems, got); err != nil {
			t.Error(err)
			continue
		}
		for i := range got {
			if math.Float32bits(got[i]) != want.Bits[i] {
				t.Errorf("%s[%d]: got %g, want %g", name, i, got[i], math.Float32frombits(want.Bits[i]))
				break
			}
		}
	}
}

// TestAnyRange: a range holds what the whole tensor holds there, wherever it cuts blocks.
func TestAnyRange(t *testing.T) {
	f := open(t, tiny)
	golden := goldenTensors(t)
	names := make([]string, 0, len(golden))
	for name := range golden {
		names = append(names, name)
	}
	slices.Sort(names)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(names).Draw(t, "name")
		want := golden[name].Bits
		lo := rapid.IntRange(0, len(want)).Draw(t, "lo")
		hi := rapid.IntRange(lo, len(want)).Draw(t, "hi")
		got := make([]float32, hi-lo)
		if err := f.ReadF32(name, lo, hi, got); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if math.Float32bits(got[i]) != want[lo+i] {
				t.Fatalf("%s[%d] of [%d, %d): got %g, want %g", name, lo+i, lo, hi, got[i], math.Float32frombits(want[lo+i]))
			}
		}
	})
}

func TestMetadataEqualsReference(t *testing.T) {
	m := open(t, tiny).Metadata()
	for key, want := range map[string]int{
		"test.uint8": 200, "test.int8": -100, "test.uint16": 60000, "test.int16": -30000,
		"test.uint32": math.MaxUint32, "test.int32": math.MinInt32, "test.uint64": math.MaxInt64, "test.int64": math.MinInt64,
		"general.alignment": 64,
	} {
		if got, err := m.Int(key); err != nil || got != want {
			t.Errorf("Int(%s): got %d, %v, want %d", key, got, err, want)
		}
	}
	for key, want := range map[string]float64{"test.float32": float64(float32(0.1)), "test.float64": 0.1} {
		if got, err := m.Float(key); err != nil || got != want {
			t.Errorf("Float(%s): got %v, %v, want %v", key, got, err, want)
		}
	}
	for key, want := range map[string]string{"test.string": "héllo", "general.architecture": "llama"} {
		if got, err := m.Text(key); err != nil || got != want {
			t.Errorf("Text(%s): got %q, %v, want %q", key, got, err, want)
		}
	}
	if got, err := m.Bool("test.bool"); err != nil || !got {
		t.Errorf("Bool: got %v, %v", got, err)
	}
	if got, err := m.Texts("test.texts"); err != nil || !reflect.DeepEqual(got, []string{"", "a", "Ġthe"}) {
		t.Errorf("Texts: got %q, %v", got, err)
	}
	if got, err := m.Ints("test.ints"); err != nil || !reflect.DeepEqual(got, []int{1, -2, 3}) {
		t.Errorf("Ints: got %v, %v", got, err)
	}
	if got, err := m.Floats("test.floats"); err != nil || !reflect.DeepEqual(got, []float32{0.5, -1.5}) {
		t.Errorf("Floats: got %v, %v", got, err)
	}
	if _, err := m.Int("test.none"); !errors.Is(err, gguf.ErrNoKey) {
		t.Errorf("a key that is not there: got %v, want ErrNoKey", err)
	}
	for name, err := range map[string]error{
		"Int of a float":    errOf(m.Int("test.float32")),
		"Float of an int":   errOf(m.Float("test.uint8")),
		"Text of a bool":    errOf(m.Text("test.bool")),
		"Texts of numbers":  errOf(m.Texts("test.ints")),
		"Ints of strings":   errOf(m.Ints("test.texts")),
		"Floats of strings": errOf(m.Floats("test.texts")),
		"Bool of a string":  errOf(m.Bool("test.string")),
	} {
		if err == nil || errors.Is(err, gguf.ErrNoKey) {
			t.Errorf("%s: got %v, want an error of type", name, err)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

// TestVersion2: the two versions differ in the number alone.
func TestVersion2(t *testing.T) {
	b, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	b[4] = 2
	path := filepath.Join(t.TempDir(), "v2.gguf")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	if f.Version() != 2 || len(f.Tensors()) != 9 {
		t.Errorf("got version %d, %d tensors, want 2, 9", f.Version(), len(f.Tensors()))
	}
}
