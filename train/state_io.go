package train

import (
	"context"
	"fmt"

	"github.com/zerofleet/zerofleet/checkpoint"
	"github.com/zerofleet/zerofleet/kernels"
)

// fields are the buffers that a checkpoint and a handover carry.
func (h shardOf) fields() [checkpoint.Fields]kernels.Buffer {
	return [checkpoint.Fields]kernels.Buffer{checkpoint.Master: h.master, checkpoint.M: h.m, checkpoint.V: h.v}
}

// chunkElems is how much of a unit is staged at once when state is read: 4 MiB.
const chunkElems = 1 << 20

// ReadWeights reads elements [lo, hi) of a base model's tensor, by its canonical name.
type ReadWeights func(ctx context.Context, tensor string, lo, hi int, dst []float32) error

// Init sets the masters to the base model's weights, the moments to zero, and publishes the parameters. The rank
// reads only what it holds.
func (t *Trainer) Init(ctx context.Context, read ReadWeights) error {
	for i := range t.units {
		u := &t.units[i]
		for _, h := range t.shards(u) {
			for _, tensor := range u.Tensors {
				lo, hi := max(tensor.Offset, h.lo), min(tensor.Offset+tensor.Elems, h.hi)
				err := t.fill(ctx, h.master, lo-h.base, hi-h.base, func(at, end int, dst []float32) error {
					from := h.base - tensor.Offset
					return read(ctx, tensor.Name, from+at, from+end, dst)
				})
				if err != nil {
					return fmt.Errorf("read %s: %w", tensor.Name, err)
				}
			}
			for _, moment := range []kernels.Buffer{h.m, h.v} {
				if err := t.stream.Launch(kernels.Fill{Dst: moment}); err != nil {
					return err
				}
			}
		}
	}
	t.step, t.optimizerStep, t.cursor = 0, 0, checkpoint.Cursor{}
	return t.publish(ctx)
}

// Restore sets the state to a checkpoint's, written at any world size and stage, and publishes the parameters. The rank
// reads only what it holds.
func (t *Trainer) Restore(ctx context.Context, c *checkpoint.Reader) error {
	for i := range t.units {
		u := &t.units[i]
		for _, h := range t.shards(u) {
			for f, buf := range h.fields() {
				err := t.fill(ctx, buf, h.lo-h.base, h.hi-h.base, func(at, end int, dst []float32) error {
					return c.Read(ctx, u.Name, checkpoint.Field(f), h.base+at, h.base+end, dst)
				})
				if err != nil {
					return fmt.Errorf("restore %s of %s: %w", checkpoint.Field(f), u.Name, err)
				}
			}
		}
	}
	m := c.Manifest()
	t.step, t.optimizerStep, t.cursor = m.Step, m.OptimizerStep, m.Cursor
	return t.publish(ctx)
}

// fill uploads elements [lo, hi) of buf, in chunks that read delivers. The range may be empty.
func (t *Trainer) fill(ctx context.Context, buf kernels.Buffer, lo, hi int, read func(at, end int, dst []float32) error) error {
	if lo >= hi {
		return nil
	}
	chunk := make([]float32, min(chunkElems, hi-lo))
	for at := lo; at < hi; at += len(chunk) {
		end := min(at+len(chunk), hi)
		if err := read(at, end, chunk[:end-at]); err != nil {
			return err
		}
		if err := t.stream.Upload(buf.Slice(at, end), rawBytes(chunk[:end-at])); err != nil {
			return err
		}
	}
	return t.stream.Sync(ctx)
}

// Snapshot copies the state that this rank owns to ordinary memory: 12 bytes a parameter over W. into, a former snapshot
// that is no longer in use, gives its memory; nil allocates.
func (t *Trainer) Snapshot(ctx context.Context, into []checkpoint.Range) ([]checkpoint.Range, error) {
	if into == nil {
		into = t.newSnapshot()
	}
	_, _, err := t.copyState(ctx, t.stream, into)
	return into, err
}

// units as a manifest lists them.
func (t *Trainer) manifestUnits() []checkpoint.Unit {
	list := make([]checkpoint.Unit, len(t.units))
	for i, u := range t.units {
		list[i] = checkpoint.Unit{Name: u.Name, Elems: u.Elems}
		for _, tensor := range u.Tensors {
			list[i].Tensors = append(list[i].Tensors, checkpoint.Tensor{Name: tensor.Name, Shape: tensor.Shape, Offset: tensor.Offset})
		}
	}
	return list
}
