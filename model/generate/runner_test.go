package generate

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/safetensors"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// file is a safetensors file as Weights.
type file struct{ *safetensors.File }

func (f file) ReadF32(_ context.Context, name string, lo, hi int, dst []float32) error {
	return f.File.ReadF32(name, lo, hi, dst)
}

func open(t *testing.T, path string) *safetensors.File {
	t.Helper()
	f, err := safetensors.Open(path)
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	return f
}

func newTestRunner(t *testing.T, cfg spec.Config, from Weights, maxTokens int) *Runner {
	t.Helper()
	d, err := model.New(cfg, kernels.F32)
	must(t, err)
	b, err := cpu.Open(cpu.Options{Threads: 2})
	must(t, err)
	r, err := NewRunner(t.Context(), b, d, from, maxTokens)
	must(t, err)
	t.Cleanup(func() {
		must(t, r.Close())
		must(t, b.Close())
	})
	return r
}

// distance is the norm of a-b over that of b.
func distance(a, b []float32) float64 {
	var diff, ref float64
	for i := range b {
		diff += (float64(a[i]) - float64(b[i])) * (float64(a[i]) - float64(b[i]))
		ref += float64(b[i]) * float64(b[i])
	}
	return math.Sqrt(diff / ref)
}

// A Runner's logits after a document are transformers', and again after a Reset.
func TestRunnerLikeTransformers(t *testing.T) {
	for _, shape := range []string{"llama", "llama3-rope", "mistral", "tied"} {
		t.Run(shape, func(t *testing.T) {
			dir := filepath.Join("..", "testdata", "golden", shape)
			config, err := os.ReadFile(filepath.Join(dir, "config.json"))
			must(t, err)
			cfg, err := spec.ParseConfig(config)
			must(t, err)
			answers := open(t, filepath.Join(dir, "golden.safetensors"))
			ids := func(name string, n int) []int32 {
				raw := make([]byte, 4*n)
				must(t, answers.ReadBytes(name, 0, n, raw))
				out := make([]int32, n)
				for i := range out {
					out[i] = int32(binary.LittleEndian.Uint32(raw[4*i:]))
				}
				return out
			}
			// The first document has 13 tokens; its last but one is the last whose label counts.
			const last = 12
			tokens, labels := ids("unpacked.tokens", last), ids("unpacked.labels", last)
			row := -1
			for _, l := range labels {
				if l >= 0 {
					row++
				}
			}
			want := make([]float32, cfg.Vocab)
			must(t, answers.ReadF32("unpacked.logits", row*cfg.Vocab, (row+1)*cfg.Vocab, want))

			r := newTestRunner(t, cfg, file{open(t, filepath.Join(dir, "model.safetensors"))}, 16)
			for range 2 {
				got, err := r.Extend(t.Context(), tokens)
				must(t, err)
				if e := distance(got, want); !(e <= 1e-4) {
					t.Errorf("logits: relative error %.3g, want at most 1e-4", e)
				}
				if r.Room() != 16-last {
					t.Errorf("room for %d tokens, want %d", r.Room(), 16-last)
				}
				must(t, r.Reset())
			}
		})
	}
}
