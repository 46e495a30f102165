package generate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/model"
)

// Weights reads elements [lo, hi) of a tensor, by its Hugging Face name, as f32 into dst, [hi-lo].
type Weights interface {
	ReadF32(ctx context.Context, name string, lo, hi int, dst []float32) error
}

// prefill is how many prompt tokens are computed at a time. Products are near their full rate
// from about 64 rows on, and the memory for a chunk is small beside the weights.
const prefill = 128

// pieceElems is how many elements of a weight are read and rounded at a time: 4 MiB of f32.
const pieceElems = 1 << 20

// Runner is a Model on a device: all weights, one sequence, one stream.
type Runner struct {
	d       *model.Decoder
	arena   *kernels.Arena
	stream  kernels.Stream
	weights []kernels.Buffer // by unit, in the decoder's type
	staging kernels.Buffer   // [pieceElems] f32
	session *model.Session
	max     int
}

// NewRunner takes memory for the weights and a sequence of up to maxTokens on b, and reads the
// weights, a unit at a time. The caller closes the Runner, and then b.
func NewRunner(ctx context.Context, b kernels.Backend, d *model.Decoder, from Weights, maxTokens int) (*Runner, error) {
	measured := &kernels.Arena{}
	if _, err := newRunner(d, measured, maxTokens); err != nil {
		return nil, err
	}
	arena, err := measured.Allocate(b)
	if err != nil {
		return nil, fmt.Errorf("memory for generation: %w", err)
	}
	r, err := newRunner(d, arena, maxTokens)
	if err != nil {
		return nil, errors.Join(err, arena.Free())
	}
	if r.stream, err = b.NewStream("generate"); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if err := r.load(ctx, from); err != nil {
		return nil, errors.Join(fmt.Errorf("load weights: %w", err), r.Close())
	}
	return r, nil
}

func newRunner(d *model.Decoder, a *kernels.Arena, maxTokens int) (*Runner, error) {
	r := &Runner{d: d, arena: a, max: maxTokens}
	var err error
	if r.weights, err = d.Weights(a); err != nil {
		return nil, err
	}
	if r.session, err = d.NewSession(a, model.SessionOptions{MaxTokens: maxTokens, Chunk: prefill}); err != nil {
		return nil, err
	}
	r.staging, err = a.Take(kernels.Staging, kernels.Device, kernels.F32, pieceElems)
	return r, err
}

// load reads the weights piece by piece and rounds them to the decoder's type.
func (r *Runner) load(ctx context.Context, from Weights) error {
	values, raw := make([]float32, pieceElems), make([]byte, 4*pieceElems)
	for i, u := range r.d.Units() {
		for _, t := range u.Tensors {
			for lo := 0; lo < t.Elems; lo += pieceElems {
				hi := min(lo+pieceElems, t.Elems)
				piece := values[:hi-lo]
				if err := from.ReadF32(ctx, t.Name, lo, hi, piece); err != nil {
					return err
				}
				for i, v := range piece {
					binary.NativeEndian.PutUint32(raw[4*i:], math.Float32bits(v))
				}
				staged := r.staging.Slice(0, hi-lo)
				if err := r.stream.Upload(staged, raw[:4*(hi-lo)]); err != nil {
					return fmt.Errorf("%s: %w", t.Name, err)
				}
				dst := r.weights[i].Slice(t.Offset+lo, t.Offset+hi)
				if err := r.stream.Launch(kernels.Convert{Dst: dst, Src: staged}); err != nil {
					return fmt.Errorf("%s: %w", t.Name, err)
				}
			}
		}
	}
	if err := r.session.Init(r.stream); err != nil {
		return err
	}
	return r.stream.Sync(ctx)
}

// Vocab is the number of logits.
func (r *Runner) Vocab() int { return r.d.Config().Vocab }

// Room is how many more tokens the sequence can take.
func (r *Runner) Room() int { return r.max - r.session.Tokens() }

// Extend appends tokens and returns the logits that follow the last, [Vocab].
func (r *Runner) Extend(ctx context.Context, tokens []int32) ([]float32, error) {
	return r.session.Extend(ctx, r.stream, r.weights, tokens)
}

// Reset forgets the sequence, for another prompt.
func (r *Runner) Reset() error { return r.session.Truncate(0) }

// Close frees the stream and the memory.
func (r *Runner) Close() error {
	var err error
	if r.stream != nil {
		err = r.stream.Close()
	}
	return errors.Join(err, r.arena.Free())
}
