package train

import (
	"context"
	"fmt"
	"time"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/shard"
	"github.com/zerofleet/zerofleet/train/fault"
)

// publish makes what the next forward computes with from the masters, rounded to wire.parameters: after an update, a
// start or a restore alike. At stages 0 to 2 it rebuilds the whole parameters; at stage 3 the parts that peers gather.
func (t *Trainer) publish(ctx context.Context) error {
	publishing := t.clock.mark()
	defer func() { t.clock.updated("publish", publishing, time.Now()) }()
	for i := range t.units {
		if i == len(t.units)/2 {
			fault.At(fault.InPublish, t.step)
		}
		if err := t.publishUnit(ctx, &t.units[i]); err != nil {
			return fmt.Errorf("publish parameters of %s: %w", t.units[i].Name, err)
		}
	}
	t.schedule.ParametersChanged()
	return t.stream.Sync(ctx)
}

func (t *Trainer) publishUnit(ctx context.Context, u *unit) error {
	unified := t.dev.Backend.Caps().Unified
	alias := t.o.mastersAreParameters(unified)
	switch t.o.Stage {
	case shard.Parameters:
		if alias {
			return nil
		}
		return t.convert(u.wirePart, u.master)
	case shard.Replicated:
		if alias {
			return nil
		}
		if t.staging.IsZero() {
			return t.convert(u.whole, u.master)
		}
		wire := t.staging.Slice(0, u.layout.PaddedElems())
		if err := t.convert(wire, u.master); err != nil {
			return err
		}
		return t.convert(u.whole, wire)
	}
	wire := u.whole
	if !t.staging.IsZero() {
		wire = t.staging.Slice(0, u.layout.PaddedElems())
	}
	lo, hi := u.layout.Part(t.rank)
	if !alias {
		if err := t.convert(wire.Slice(lo, hi), u.master); err != nil {
			return err
		}
	}
	dst, part, err := t.gatherViews(ctx, wire, wire.Slice(lo, hi))
	if err != nil {
		return err
	}
	if err := t.wait(ctx, t.group.AllGather(ctx, "update "+u.Name, dst, part)); err != nil {
		return err
	}
	if wire == u.whole {
		return nil
	}
	if err := t.convert(u.whole, wire); err != nil {
		return err
	}
	return t.stream.Sync(ctx) // staging is used again for the next unit
}

// convert copies src to dst, rounding when their types differ.
func (t *Trainer) convert(dst, src kernels.Buffer) error {
	if dst.Type() == src.Type() {
		return t.stream.Copy(dst, src)
	}
	return t.stream.Launch(kernels.Convert{Dst: dst, Src: src})
}

// hostView is b for a collective, after everything that was enqueued has run.
func (t *Trainer) hostView(ctx context.Context, b kernels.Buffer) (collective.Buffer, error) {
	if err := t.stream.Sync(ctx); err != nil {
		return collective.Buffer{}, err
	}
	bytes, err := b.Host()
	if err != nil {
		return collective.Buffer{}, err
	}
	return collective.Buffer{Bytes: bytes, Type: b.Type()}, nil
}

// gatherViews are a gather's destination and this rank's part of it, after everything that was enqueued has run.
func (t *Trainer) gatherViews(ctx context.Context, dst, part kernels.Buffer) (d, p collective.Buffer, err error) {
	if d, err = t.hostView(ctx, dst); err != nil {
		return d, p, err
	}
	bytes, err := part.Host()
	return d, collective.Buffer{Bytes: bytes, Type: part.Type()}, err
}
