package train_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/local"
	"github.com/zerofleet/zerofleet/data"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
	"github.com/zerofleet/zerofleet/model"
	"github.com/zerofleet/zerofleet/model/spec"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train"
)

// byteEncoder is the preset's tokenizer: bytes and end-of-text.
type byteEncoder struct{}

func (byteEncoder) Encode(r data.Record) (data.Document, error) {
	var d data.Document
	for _, b := range []byte(r.Text) {
		d.Tokens = append(d.Tokens, int32(b))
		d.Counts = append(d.Counts, true)
	}
	d.Tokens, d.Counts = append(d.Tokens, 256), append(d.Counts, true)
	return d, nil
}
func (byteEncoder) Vocab() int { return 257 }
func (byteEncoder) Pad() int32 { return 256 }

// seededWeights is a model's start: a function of the tensor's name and the element.
func seededWeights(_ context.Context, tensor string, lo, _ int, dst []float32) error {
	h := fnv.New64a()
	h.Write([]byte(tensor))
	for i := range dst {
		x := h.Sum64() + uint64(lo+i)*0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		dst[i] = (float32(x>>40)/(1<<24) - 0.5) * 0.07 // the deviation of 0.02's normal
		if strings.HasSuffix(tensor, "norm.weight") {
			dst[i] = 1
		}
	}
	return nil
}

// history is one job and where it runs. The first group of fields is the job: equal ones must give equal hashes.
type history struct {
	preset     string
	steps      int
	leaves     int
	micro      int
	compute    kernels.DType
	wireParams kernels.DType
	wireGrads  kernels.DType
	reduction  train.Reduction
	evalEvery  int64

	world     int
	stage     shard.Stage
	recompute bool
	threads   int
	wrap      func(kernels.Backend) kernels.Backend
	group     func(collective.Group) collective.Group
	stopAt    int64
	store     checkpoint.Store // what it writes to; nil makes one
	resume    *checkpoint.Manifest
	every     int64
	retry     time.Duration
	traced    func(rank int, step int64, spans []train.Span)
	// manual replaces Run.
	manual func(context.Context, *train.Trainer, *data.Dataset) error
}

func (h history) String() string {
	return fmt.Sprintf("%s leaves=%d %s/%s/%s reduction=%d world=%d stage=%d recompute=%v threads=%d",
		h.preset, h.leaves, h.compute, h.wireParams, h.wireGrads, h.reduction, h.world, h.stage, h.recompute, h.threads)
}

func tiny() history {
	return history{preset: "preset://tiny", steps: 3, leaves: 8, micro: 1, compute: kernels.F32, wireParams: kernels.F32,
		wireGrads: kernels.F32, world: 1, stage: shard.Parameters, threads: 1}
}

type result struct {
	hash    string
	losses  []float64
	reports []train.StepReport
	evals   []train.Evaluation
	store   checkpoint.Store
	final   *checkpoint.Manifest
	usage   []map[kernels.Use]int64
	stats   []collective.Stats
	out     train.Outcome
}

const testSequence = 24

// corpus is a file of documents of many lengths, some longer than a sequence.
func corpus(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "corpus.jsonl")
	var b strings.Builder
	for i := range 90 {
		fmt.Fprintf(&b, "{\"text\": %q}\n", strings.Repeat(fmt.Sprintf("document %d is here; ", i*i), 3)[:4+i*7%31])
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func (h history) options() train.Options {
	return train.Options{
		Stage: h.stage, Compute: h.compute, WireParameters: h.wireParams, WireGradients: h.wireGrads, Reduction: h.reduction,
		GlobalBatch: h.leaves * h.micro, MicroBatch: h.micro, SequenceLen: testSequence, Recompute: h.recompute,
		MaxGradNorm: 1, Optimizer: train.AdamW{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01},
		Schedule: train.LearningRate{Peak: 1e-3, Name: "cosine", WarmupSteps: 2, MinRatio: 0.1, TotalSteps: h.steps},
	}
}

// play runs a history with one goroutine a rank and returns what rank 0 saw.
func (h history) play(t testing.TB) result {
	t.Helper()
	r, err := h.try(t)
	if err != nil {
		t.Fatalf("%s: %v", h, err)
	}
	return r
}

func (h history) try(t testing.TB) (result, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if h.store == nil {
		h.store = checkpoint.Dir(t.TempDir())
	}
	files := corpus(t)
	groups := local.New(h.world)
	res := result{store: h.store, usage: make([]map[kernels.Use]int64, h.world), stats: make([]collective.Stats, h.world)}
	errs := make([]error, h.world)
	var wg sync.WaitGroup
	for rank := range groups {
		wg.Add(1)
		go func() {
			defer wg.Done()
			g := groups[rank]
			if h.group != nil {
				g = h.group(g)
			}
			errs[rank] = h.rank(ctx, files, g, &res)
			if errs[rank] != nil {
				cancel()
			}
			res.stats[rank] = g.Stats()
			g.Close()
		}()
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && ctx.Err() == nil || err != nil && !strings.Contains(err.Error(), "canceled") {
			return res, err
		}
	}
	if h.manual != nil {
		return res, nil
	}
	m, damaged, err := checkpoint.Newest(context.Background(), h.store)
	if err != nil || len(damaged) > 0 {
		return res, fmt.Errorf("newest checkpoint: %v, damaged: %v", err, damaged)
	}
	res.final = m
	rd := checkpoint.Open(h.store, m)
	defer rd.Close()
	res.hash, err = checkpoint.Hash(context.Background(), rd)
	return res, err
}

func (h history) rank(ctx context.Context, files string, g collective.Group, res *result) (err error) {
	var backend kernels.Backend
	base, err := cpu.Open(cpu.Options{Threads: h.threads})
	if err != nil {
		return err
	}
	backend = base
	if h.wrap != nil {
		backend = h.wrap(base)
	}
	defer backend.Close()
	cfg, err := spec.Preset(h.preset)
	if err != nil {
		return err
	}
	dec, err := model.New(cfg, h.compute)
	if err != nil {
		return err
	}
	t, err := train.New(ctx, h.options(), dec, train.Device{Backend: backend, Fold: cpu.Accumulate}, g)
	if err != nil {
		return err
	}
	defer func() { // the group first: what is under way uses the memory
		g.Close()
		t.Close()
	}()
	if h.resume != nil {
		rd := checkpoint.Open(h.store, h.resume)
		defer rd.Close()
		if err := t.Restore(ctx, rd); err != nil {
			return err
		}
	} else {
		if err := t.Init(ctx, seededWeights); err != nil {
			return err
		}
	}
	o := data.Options{Sources: []data.Source{{Path: files, Format: data.Text}}, SequenceLen: testSequence, Packing: true,
		Shuffle: true, Seed: 3, GlobalBatch: h.leaves * h.micro, MicroBatch: h.micro, Steps: h.steps, Workers: 1}
	ds, err := data.Open(ctx, o, byteEncoder{})
	if err != nil {
		return err
	}
	o.Shuffle, o.Steps, o.Epochs = false, 0, 1
	eval, err := data.Open(ctx, o, byteEncoder{})
	if err != nil {
		return err
	}
	if h.manual != nil {
		return h.manual(ctx, t, ds)
	}
	rank0 := g.Rank() == 0
	var traced func(int64, []train.Span)
	if h.traced != nil {
		traced = func(step int64, spans []train.Span) { h.traced(g.Rank(), step, spans) }
	}
	out, err := t.Run(ctx, train.Run{
		Data: ds, Eval: eval, EvalEvery: h.evalEvery, Store: h.store, CheckpointEvery: h.every, CheckpointRetry: h.retry, CheckpointOnStop: true, StopAt: h.stopAt,
		Manifest:    checkpoint.Manifest{Job: "test", Fingerprint: "none", Model: []byte("{}")},
		Instruction: func() train.Instruction { return train.Instruction{} },
		StopReason:  func() train.StopReason { return 0 },
		Commit: func(ctx context.Context, _ *checkpoint.Manifest, b []byte) error {
			_, err := checkpoint.PutManifest(ctx, h.store, b)
			return err
		},
		Troubled: func(int64, error, bool) {},
		Traced:   traced,
		Committed: func(r train.StepReport) {
			if rank0 {
				res.reports = append(res.reports, r)
				res.losses = append(res.losses, r.Loss)
			}
		},
		Evaluated: func(_ int64, e train.Evaluation) {
			if rank0 {
				res.evals = append(res.evals, e)
			}
		},
		Phase: func(string) {},
	})
	res.usage[g.Rank()] = t.Usage()
	if rank0 {
		res.out = out
	}
	return err
}
