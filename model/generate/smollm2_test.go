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

// SmolLM2-135M-Instruct from its GGUF: logits, loss and 64 greedy tokens are transformers' on the same weights.
// The golden is made by tools/golden/smollm2.py.
func TestSmolLM2LikeTransformers(t *testing.T) {
	path := fetch.SmolLM2(t)
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "smollm2.json"))
	must(t, err)
	var golden struct {
		Tokens []int32 `json:"tokens"`
		Loss   float64 `json:"loss"`
		Rows   []struct {
			Row       int       `json:"row"`
			Norm      float64   `json:"norm"`
			TopIDs    []int32   `json:"top_ids"`
			TopLogits []float64 `json:"top_logits"`
		} `json:"rows"`
		Greedy []int32 `json:"greedy"`
	}
	must(t, json.Unmarshal(raw, &golden))
	from, err := weights.Open(path, weights.Options{})
	must(t, err)
	defer from.Close()
	r := newTestRunner(t, from.Config(), from, len(golden.Tokens)+len(golden.Greedy))

	// Token by token: each row's logits, and the loss of the prompt.
	var loss float64
	rows := golden.Rows
	for i, token := range golden.Tokens {
		logits, err := r.Extend(t.Context(), []int32{token})
		must(t, err)
		if i+1 < len(golden.Tokens) {
			loss += logSumExp(logits) - float64(logits[golden.Tokens[i+1]])
		}
		if len(rows) > 0 && rows[0].Row == i {
			want := rows[0]
			if got := norm(logits); math.Abs(got-want.Norm) > 1e-4*want.Norm {
				t.Errorf("row %d: norm of the logits %v, want %v", i, got, want.Norm)
			}
			for k, id := range want.TopIDs {
				if got := float64(logits[id]); math.Abs(got-want.TopLogits[k]) > 1e-3 {
					t.Errorf("row %d: logit of token %d is %v, want %v", i, id, got, want.TopLogits[k])
				}
			}
			rows = rows[1:]
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

func norm(x []float32) float64 {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum)
}
