package train

import (
	"context"
	"fmt"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/train/fault"
)

// Update applies a committed step, and publishes the parameters.
func (t *Trainer) Update(ctx context.Context, c Commit) (Metrics, error) {
	m, err := t.apply(c)
	if err != nil || !m.Updated {
		return m, err
	}
	return m, t.publish(ctx)
}

// apply writes a committed step into masters and moments, the ward's too: local, deterministic, without a wait that could
// be cut short, and the only place that does. A step without loss tokens counts as a step and changes nothing.
func (t *Trainer) apply(c Commit) (Metrics, error) {
	m := t.o.Metrics(c, t.optimizerStep+1)
	if c.NonFinite != 0 {
		return m, fmt.Errorf("step %d: gradient of %s is not finite (first seen by rank %d)",
			c.Step, t.tensorName(int(c.NonFinite)-1), c.NonFiniteRank)
	}
	if !c.LossSum.Finite() {
		return m, fmt.Errorf("step %d: loss is %v", c.Step, c.LossSum.Float64())
	}
	t.step++
	t.last, t.cursor = c.records, t.next
	if !m.Updated {
		return m, nil
	}
	scalars := t.o.scalars(c, t.optimizerStep+1)
	for i := range t.units {
		if i == len(t.units)/2 {
			fault.At(fault.InUpdate, t.step)
		}
		u := &t.units[i]
		for _, h := range t.shards(u) {
			if err := t.updateShard(u, h, scalars, m.LearningRate); err != nil {
				return m, fmt.Errorf("update %s: %w", u.Name, err)
			}
		}
	}
	t.optimizerStep++
	return m, t.flip()
}

// flip damages one bit of this rank's state where a test asks for it.
func (t *Trainer) flip() error {
	u := &t.units[len(t.units)/2]
	for p, s := range map[fault.Point]shardOf{fault.Shard: u.shard(), fault.Replica: u.replica} {
		if !fault.Flips(p, t.step) {
			continue
		}
		b := make([]byte, 4)
		if err := download(context.Background(), t.stream, b, s.master.Slice(0, 1)); err != nil {
			return err
		}
		b[1] ^= 1
		if err := t.stream.Upload(s.master.Slice(0, 1), b); err != nil {
			return err
		}
	}
	return nil
}

// updateShard updates one shard, tensor by tensor, since weight decay differs.
func (t *Trainer) updateShard(u *unit, h shardOf, scalars kernels.AdamWScalars, learningRate float64) error {
	for _, tensor := range u.Tensors {
		lo, hi := max(tensor.Offset, h.lo)-h.base, min(tensor.Offset+tensor.Elems, h.hi)-h.base
		if lo >= hi {
			continue
		}
		scalars.Decay = t.o.decay(len(tensor.Shape), learningRate)
		err := t.stream.Launch(kernels.AdamW{Param: h.master.Slice(lo, hi), M: h.m.Slice(lo, hi), V: h.v.Slice(lo, hi),
			Grad: h.acc.Slice(lo, hi), Scalars: scalars})
		if err != nil {
			return fmt.Errorf("%s: %w", tensor.Name, err)
		}
	}
	return nil
}

// tensorName names the tensor with a canonical index.
func (t *Trainer) tensorName(index int) string {
	for _, u := range t.units {
		if i := index - u.firstTensor; i >= 0 && i < len(u.Tensors) {
			return u.Tensors[i].Name
		}
	}
	return fmt.Sprintf("tensor %d", index)
}
