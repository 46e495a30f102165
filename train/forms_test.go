package train_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/local"
	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/safetensors"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train"
)

// One global batch of the golden's documents, from the data pipeline to the optimizer's first moments, however the
// documents are cut into sequences, leaves and ranks: the loss is torch's mean over the batch's loss tokens, and every
// tensor's gradient is that mean's. The documents hold unlike numbers of loss tokens, so a mean of means would show.
func TestEveryFormIsTorchsTokenMean(t *testing.T) {
	for _, shape := range []string{"llama", "llama3-rope", "mistral", "tied"} {
		for _, f := range []form{
			{name: "packed", torch: "packed", packing: true, length: 24, global: 3, micro: 1},
			{name: "packed in pairs, a row of padding", torch: "packed", packing: true, length: 24, global: 3, micro: 2},
			{name: "padded, one leaf", torch: "padded", length: 21, global: 5, micro: 5},
			{name: "unpacked, a leaf a document", torch: "unpacked", length: 21, global: 5, micro: 1},
			{name: "unpacked, longer sequences", torch: "unpacked", length: 40, global: 5, micro: 2},
		} {
			for world := 1; world <= 2; world++ {
				t.Run(fmt.Sprintf("%s/%s/%d", shape, f.name, world), func(t *testing.T) {
					t.Parallel()
					f.compare(t, filepath.Join("../model/testdata/golden", shape), world)
				})
			}
		}
	}
}

// form is a way to feed documents to a job.
type form struct {
	name, torch           string // torch is the golden's form
	packing               bool
	length, global, micro int
}

// numbered encodes a record that is a document's number.
type numbered struct {
	docs  []data.Document
	vocab int
}

func (n numbered) Encode(r data.Record) (data.Document, error) {
	i, err := strconv.Atoi(r.Text)
	if err != nil {
		return data.Document{}, err
	}
	return n.docs[i], nil
}
func (n numbered) Vocab() int { return n.vocab }
func (n numbered) Pad() int32 { return 0 }

// documents are the golden's, and a file of their numbers.
func documents(t *testing.T, golden *safetensors.File, lengths []int, vocab int) (docs numbered, path string) {
	tokens, _ := ints(t, golden, "unpacked.tokens")
	labels, _ := ints(t, golden, "unpacked.labels")
	docs.vocab = vocab
	var lines strings.Builder
	at := 0
	for i, n := range lengths {
		d := data.Document{Tokens: tokens[at : at+n], Counts: make([]bool, n)}
		for j := 1; j < n; j++ {
			d.Counts[j] = labels[at+j-1] >= 0
		}
		docs.docs = append(docs.docs, d)
		fmt.Fprintf(&lines, "{\"text\": \"%d\"}\n", i)
		at += n
	}
	path = filepath.Join(t.TempDir(), "documents.jsonl")
	if err := os.WriteFile(path, []byte(lines.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return docs, path
}

type formRecord struct {
	LossTokens      int                `json:"loss_tokens"`
	Losses          map[string]float64 `json:"losses"`
	DocumentLengths []int              `json:"document_lengths"`
}

func (f form) compare(t *testing.T, dir string, world int) {
	var rec formRecord
	readJSON(t, filepath.Join(dir, "golden.json"), &rec)
	golden := open(t, filepath.Join(dir, "golden.safetensors"))
	report, saved := f.train(t, dir, golden, rec.DocumentLengths, world)
	if int(report.LossTokens) != rec.LossTokens {
		t.Errorf("%d loss tokens, want %d", report.LossTokens, rec.LossTokens)
	}
	t.Logf("loss %v, torch %v", report.Loss, rec.Losses[f.torch])
	if want := rec.Losses[f.torch]; !(math.Abs(report.Loss-want) <= 1e-4*want) {
		t.Errorf("loss %v, want %v", report.Loss, want)
	}
	want := map[string]bool{}
	for _, tensor := range golden.Tensors() {
		if name, ok := strings.CutPrefix(tensor.Name, "grad."); ok {
			want[name] = true
		}
	}
	for _, u := range saved.Manifest().Units {
		for _, tensor := range u.Tensors {
			delete(want, tensor.Name)
			n := tensor.Elems()
			moment, grad := make([]float32, n), make([]float32, n)
			if err := saved.Read(t.Context(), u.Name, checkpoint.M, tensor.Offset, tensor.Offset+n, moment); err != nil {
				t.Fatal(err)
			}
			if err := golden.ReadF32("grad."+tensor.Name, 0, n, grad); err != nil {
				t.Fatal(err)
			}
			var diff, ref float64
			for i, g := range grad {
				d := float64(moment[i])/(1-formBeta1) - float64(g)
				diff += d * d
				ref += float64(g) * float64(g)
			}
			e := math.Sqrt(diff / ref)
			t.Logf("gradient of %s: relative error %.3g", tensor.Name, e)
			if !(e <= 1e-4) {
				t.Errorf("gradient of %s: relative error %.3g, want at most 1e-4", tensor.Name, e)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("no gradient of %v", want)
	}
}

// formBeta1 puts half of a first gradient into the first moment: an exact f32.
const formBeta1 = 0.5

// train trains one step, without clipping, and returns its report and its checkpoint.
func (f form) train(t *testing.T, dir string, golden *safetensors.File, lengths []int, world int) (train.StepReport, *checkpoint.Reader) {
	configJSON, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := spec.ParseConfig(configJSON)
	if err != nil {
		t.Fatal(err)
	}
	docs, path := documents(t, golden, lengths, cfg.Vocab)
	base := open(t, filepath.Join(dir, "model.safetensors"))
	job := train.Options{Stage: shard.Parameters, Compute: kernels.F32, WireParameters: kernels.F32, WireGradients: kernels.F32,
		GlobalBatch: f.global, MicroBatch: f.micro, SequenceLen: f.length, Optimizer: train.AdamW{Beta1: formBeta1, Beta2: 0.999, Eps: 1e-8},
		Schedule: train.LearningRate{Peak: 1e-3, Name: "constant", TotalSteps: 1}}
	store := checkpoint.Dir(t.TempDir())
	reports := make([]train.StepReport, world)
	rank := func(g collective.Group) error {
		backend, err := cpu.Open(cpu.Options{Threads: 1})
		if err != nil {
			return err
		}
		defer backend.Close()
		dec, err := model.New(cfg, kernels.F32)
		if err != nil {
			return err
		}
		tr, err := train.New(t.Context(), job, dec, train.Device{Backend: backend, Fold: cpu.Accumulate}, g)
		if err != nil {
			return err
		}
		defer tr.Close()
		err = tr.Init(t.Context(), func(_ context.Context, name string, lo, hi int, dst []float32) error {
			return base.ReadF32(name, lo, hi, dst)
		})
		if err != nil {
			return err
		}
		ds, err := data.Open(t.Context(), data.Options{Sources: []data.Source{{Path: path, Format: data.Text}}, SequenceLen: f.length,
			Packing: f.packing, Overlong: data.Refuse, GlobalBatch: f.global, MicroBatch: f.micro, Epochs: 1, Workers: 1}, docs)
		if err != nil {
			return err
		}
		if ds.Steps() != 1 {
			return fmt.Errorf("%d steps, want all documents in one", ds.Steps())
		}
		_, err = tr.Run(t.Context(), train.Run{Data: ds, Store: store,
			Manifest:    checkpoint.Manifest{Job: "test", Fingerprint: "none", Model: []byte("{}")},
			Instruction: func() train.Instruction { return train.Instruction{} },
			StopReason:  func() train.StopReason { return 0 },
			Commit: func(ctx context.Context, _ *checkpoint.Manifest, b []byte) error {
				_, err := checkpoint.PutManifest(ctx, store, b)
				return err
			},
			Committed: func(r train.StepReport) { reports[g.Rank()] = r },
			Evaluated: func(int64, train.Evaluation) {},
			Phase:     func(string) {},
		})
		return err
	}
	errs := make([]error, world)
	var wg sync.WaitGroup
	for r, g := range local.New(world) {
		wg.Go(func() {
			defer g.Close()
			errs[r] = rank(g)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	m, _, err := checkpoint.Newest(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	saved := checkpoint.Open(store, m)
	t.Cleanup(func() {
		if err := saved.Close(); err != nil {
			t.Error(err)
		}
	})
	return reports[0], saved
}
