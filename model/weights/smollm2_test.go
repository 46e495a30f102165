package weights_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/model/weights"
	"github.com/zerofleet/zerofleet/test/fetch"
)

// TestSmolLM2 reads a real model and wants, tensor for tensor and bit for bit, the weights
// that transformers reads from the same file.
func TestSmolLM2(t *testing.T) {
	path := fetch.SmolLM2(t)
	b, err := os.ReadFile("testdata/smollm2.json") // written by tools/golden/smollm2_weights.py
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Tensors map[string]struct {
			Shape  []int  `json:"shape"`
			SHA256 string `json:"sha256"`
		} `json:"tensors"`
	}
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, weights.Options{})
	c := s.Config()
	if c.Vocab != 49152 || c.Layers != 30 || !c.Tied || c.NormEps != 1e-5 || c.RopeTheta != 100000 || c.Params() != 134515008 || c.Pad != 2 {
		t.Errorf("got config %+v", c)
	}
	tensors := everyTensor(c)
	if len(tensors) != len(golden.Tensors) {
		t.Errorf("got %d tensors, want %d", len(tensors), len(golden.Tensors))
	}
	for _, tensor := range tensors {
		want := golden.Tensors[tensor.Name]
		if !slices.Equal(want.Shape, tensor.Shape) {
			t.Errorf("%s: got shape %v, want %v", tensor.Name, tensor.Shape, want.Shape)
		}
		if got := hash(t, s, tensor); got != want.SHA256 {
			t.Errorf("%s: got other values than transformers (SHA-256 %s, want %s)", tensor.Name, got, want.SHA256)
		}
	}
}

// hash is the SHA-256 of a tensor's values as little-endian f32, read in uneven pieces.
func hash(t *testing.T, s weights.Source, tensor spec.Tensor) string {
	t.Helper()
	h := sha256.New()
	values, raw := make([]float32, 1_000_003), make([]byte, 0, 4*1_000_003)
	for lo := 0; lo < tensor.Elems; lo += len(values) {
		hi := min(tensor.Elems, lo+len(values))
		if err := s.ReadF32(t.Context(), tensor.Name, lo, hi, values[:hi-lo]); err != nil {
			t.Fatal(err)
		}
		raw = raw[:0]
		for _, v := range values[:hi-lo] {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
		}
		h.Write(raw)
	}
	return hex.EncodeToString(h.Sum(nil))
}
