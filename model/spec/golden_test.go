package spec_test

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/zerofleet/zerofleet/model/spec"
)

// golden is testdata/golden.json, written by tools/golden/spec.py.
type golden struct {
	Cases []struct {
		Name        string          `json:"name"`
		Config      json.RawMessage `json:"config"`
		InvFreqBits []int32         `json:"inv_freq_bits"`
		Parameters  []struct {
			Name  string `json:"name"`
			Shape []int  `json:"shape"`
		} `json:"parameters"`
	} `json:"cases"`
}

func readGolden(t *testing.T) golden {
	t.Helper()
	b, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Cases) == 0 {
		t.Fatal("testdata/golden.json holds no case")
	}
	return g
}

// TestUnitsMatchTransformers checks names, shapes and order: the concatenation of the
// units' tensors is the list of a transformers model's parameters.
func TestUnitsMatchTransformers(t *testing.T) {
	for _, g := range readGolden(t).Cases {
		t.Run(g.Name, func(t *testing.T) {
			c, err := spec.ParseConfig(g.Config)
			if err != nil {
				t.Fatal(err)
			}
			var got []spec.Tensor
			for _, u := range c.Units() {
				end := 0
				for _, tensor := range u.Tensors {
					if tensor.Offset != end {
						t.Errorf("%s: offset %d, want %d", tensor.Name, tensor.Offset, end)
					}
					end = tensor.End()
				}
				if u.Elems != end {
					t.Errorf("unit %s: %d elements, want %d", u.Name, u.Elems, end)
				}
				got = append(got, u.Tensors...)
			}
			if len(got) != len(g.Parameters) {
				t.Fatalf("got %d tensors, want %d", len(got), len(g.Parameters))
			}
			for i, want := range g.Parameters {
				if got[i].Name != want.Name || !slices.Equal(got[i].Shape, want.Shape) {
					t.Errorf("tensor %d: got %s %v, want %s %v", i, got[i].Name, got[i].Shape, want.Name, want.Shape)
				}
			}
		})
	}
}

// TestInvFreqMatchesTransformers allows one unit in the last place: torch's vectorised
// power is not correctly rounded.
func TestInvFreqMatchesTransformers(t *testing.T) {
	for _, g := range readGolden(t).Cases {
		t.Run(g.Name, func(t *testing.T) {
			c, err := spec.ParseConfig(g.Config)
			if err != nil {
				t.Fatal(err)
			}
			got := c.InvFreq()
			if len(got) != len(g.InvFreqBits) {
				t.Fatalf("got %d frequencies, want %d", len(got), len(g.InvFreqBits))
			}
			differ := 0
			for i, want := range g.InvFreqBits {
				ulp := int32(math.Float32bits(got[i])) - want
				if ulp != 0 {
					differ++
				}
				if ulp < -1 || ulp > 1 {
					t.Errorf("frequency %d: got %g, want %g (%d units in the last place)", i, got[i], math.Float32frombits(uint32(want)), ulp)
				}
			}
			t.Logf("%d of %d frequencies differ in the last place", differ, len(got))
		})
	}
}

func TestUnitTensor(t *testing.T) {
	c, err := spec.Preset("preset://tiny")
	if err != nil {
		t.Fatal(err)
	}
	block := c.Units()[2]
	for suffix, want := range map[string]string{
		"q_proj.weight":                         "model.layers.1.self_attn.q_proj.weight",
		"self_attn.q_proj.weight":               "model.layers.1.self_attn.q_proj.weight",
		"post_attention_layernorm.weight":       "model.layers.1.post_attention_layernorm.weight",
		"model.layers.1.input_layernorm.weight": "model.layers.1.input_layernorm.weight",
		"layernorm.weight":                      "",
		"proj.weight":                           "",
	} {
		got, ok := block.Tensor(suffix)
		if got.Name != want || ok != (want != "") {
			t.Errorf("Tensor(%q): got %q, %v, want %q", suffix, got.Name, ok, want)
		}
	}
}
