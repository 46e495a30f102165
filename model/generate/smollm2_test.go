package generate

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zerofleet/zerofleet/model/weights"
	"github.com/zerofleet/zerofleet/test/fetch"
)

// noText is a Text that ignores tokens.
type noText struct{}

func (noText) Push(int32) string { return "" }
func (noText) Flush() string     { return "" }

// SmolLM2-135M-Instruct from its GGUF: logits, loss and 64 greedy tokens are transformers' on the same weights; their
// text is compared in worker/text. The golden is made by tools/golden/smollm2.py.
func TestSmolLM2LikeTransformers(t *testing.T) {
	path := fetch.SmolLM2(t)
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "smollm2.json"))
	must(t, err)
	var golden struct {
		Tokens  []int32 `json:"tokens"`
		Loss    float64 `json:"loss"`
		Rows    []int   `json:"rows"`
		Columns int     `json:"columns"`
		Greedy  []int32 `json:"greedy"`
	}
	must(t, json.Unmarshal(raw, &golden))
	answers := open(t, filepath.Join("..", "testdata", "smollm2.safetensors"))
	from, err := weights.Open(path, weights.Options{})
	must(t, err)
	defer from.Close()
	r := newTestRunner(t, from.Config(), from, len(golden.Tokens)+len(golden.Greedy))

	// Token by token: all logits of some rows, some logits of all rows, and the loss of the prompt.
	var loss float64
	var rows, columns []float32
	for i, token := range golden.Tokens {
		logits, err := r.Extend(t.Context(), []int32{token})
		must(t, err)
		if i+1 < len(golden.Tokens) {
			loss += logSumExp(logits) - float64(logits[golden.Tokens[i+1]])
		}
		if slices.Contains(golden.Rows, i) {
			rows = append(rows, logits...)
		}
		for v := 0; v < len(logits); v += golden.Columns {
			columns = append(columns, logits[v])
		}
	}
	for name, got := range map[string][]float32{"logits": rows, "logits.columns": columns} {
		want := make([]float32, len(got))
		must(t, answers.ReadF32(name, 0, len(want), want))
		e := distance(got, want)
		t.Logf("%s: relative error %.3g", name, e)
		if !(e <= 1e-4) {
			t.Errorf("%s: relative error %.3g, want at most 1e-4", name, e)
		}
	}
	if loss /= float64(len(golden.Tokens) - 1); math.Abs(loss-golden.Loss) > 1e-4*golden.Loss {
		t.Errorf("loss %v, want %v", loss, golden.Loss)
	}

	must(t, r.Reset())
	got, err := Run(t.Context(), r, noText{}, golden.Tokens, Options{MaxTokens: len(golden.Greedy)}, func(string) error { return nil })
	must(t, err)
	if !slices.Equal(got.Tokens, golden.Greedy) {
		t.Errorf("greedy tokens %v, want %v", got.Tokens, golden.Greedy)
	}
}

func logSumExp(x []float32) float64 {
	most := float64(slices.Max(x))
	var sum float64
	for _, v := range x {
		sum += math.Exp(float64(v) - most)
	}
	return most + math.Log(sum)
}
