package train

import (
	"context"
	"fmt"

	"github.com/zerofleet/zerofleet/kernels"
)

// Update applies a committed step: local, deterministic, and the only place that writes masters and moments. A step
// without loss tokens counts as a step and changes nothing.
func (t *Trainer) Update(ctx context.Context, c Commit) (Metrics, error) {
	m := t.o.Metrics(c, t.optimizerStep+1)
	if c.NonFinite != 0 {
		return m, fmt.Errorf("step %d: gradient of %s is not finite (first seen by rank %d)",
			c.Step, t.tensorName(int(c.NonFinite)-1), c.NonFiniteRank)
	}
	if !c.LossSum.Finite() {
		return m, fmt.Errorf("step %d: loss is %v", c.Step, c.LossSum.Float64())
	}
	t.step++
	if !m.Updated {
		return m, nil
	}
	scalars := t.o.scalars(c, t.optimizerStep+1)
	for i := range t.units {
		if err := t.updateUnit(&t.units[i], scalars, m.LearningRate); err != nil {
			return m, fmt.Errorf("update %s: %w", t.units[i].Name, err)
		}
	}
	t.optimizerStep++
	return m, t.publish(ctx)
}

// updateUnit updates what this rank holds, tensor by tensor, since weight decay differs.
func (t *Trainer) updateUnit(u *unit, scalars kernels.AdamWScalars, learningRate float64) error {
	for _, tensor := range u.Tensors {
		lo, hi := max(tensor.Offset, u.lo)-u.base, min(tensor.Offset+tensor.Elems, u.hi)-u.base
		if lo >= hi {
			continue
		}
		scalars.Decay = t.o.decay(len(tensor.Shape), learningRate)
		err := t.stream.Launch(kernels.AdamW{Param: u.master.Slice(lo, hi), M: u.m.Slice(lo, hi), V: u.v.Slice(lo, hi),
			Grad: u.acc.Slice(lo, hi), Scalars: scalars})
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
