package engine

import (
	"context"
	"slices"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/check"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels"
)

// AllGather is collective.Group's.
func (e *Engine) AllGather(ctx context.Context, name string, dst, shard collective.Buffer) *collective.Pending {
	desc, err := check.AllGather(e.size, name, dst, shard)
	if err != nil {
		return collective.Completed(err)
	}
	if e.levels != nil && len(shard.Bytes) >= levelBytes {
		return e.gatherByLevels(ctx, desc, dst.Bytes, shard.Bytes, shard.Len(), dst.Len())
	}
	return e.begin(ctx, e.gather(desc, collectiveOrder(frame.Collective), dst.Bytes, shard.Bytes, shard.Len(), dst.Len()))
}

// gather plans an all-gather of parts that may be of unequal length.
func (e *Engine) gather(desc collective.Op, at order, dst, own []byte, part, total int) *plan {
	p := &plan{op: op{Op: desc, src: own, dst: dst, part: part, total: total}, order: at}
	mine := p.share(dst, e.rank)
	if len(mine) > 0 && &mine[0] != &own[0] {
		p.finish = func() { copy(mine, own) }
	}
	p.to = func(int) []byte { return own }
	p.from = func(r int) ([]byte, bool) { return p.share(dst, r), true }
	return p
}

// ReduceScatter is collective.Group's.
func (e *Engine) ReduceScatter(ctx context.Context, name string, acc collective.Accumulator, src collective.Buffer, firstLeaf, contributors int) *collective.Pending {
	desc, err := check.ReduceScatter(e.rank, e.size, name, acc, src, firstLeaf, contributors)
	if err != nil {
		return collective.Completed(err)
	}
	if e.levels != nil && e.cfg.AnyOrder && e.cfg.Fold != nil && kernels.F32.Size(desc.Elems) >= levelBytes {
		return e.reduceByLevels(ctx, desc, acc, src.Bytes, contributors)
	}
	p := e.reduce(desc, acc, src.Bytes, desc.Elems, desc.Elems*e.size, contributors)
	p.anyOrder = e.cfg.AnyOrder
	return e.begin(ctx, p)
}

// reduce plans a reduce-scatter onto acc, of parts that may be of unequal length.
func (e *Engine) reduce(desc collective.Op, acc collective.Accumulator, src []byte, part, total, contributors int) *plan {
	p := &plan{op: op{Op: desc, src: src, acc: acc, part: part, total: total, folding: true}, order: collectiveOrder(frame.Collective)}
	p.fold.mine, p.fold.who = e.rank, ranksBelow(contributors)
	if e.rank < contributors {
		p.own = p.share(src, e.rank)
		p.to = func(r int) []byte { return p.share(src, r) }
	}
	p.from = func(r int) ([]byte, bool) { return nil, r < contributors }
	return p
}

func ranksBelow(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// AllReduce is collective.Group's.
func (e *Engine) AllReduce(ctx context.Context, name string, buf collective.Buffer) *collective.Pending {
	desc, err := check.AllReduce(name, buf)
	if err != nil {
		return collective.Completed(err)
	}
	if len(buf.Bytes) > eagerBytes {
		return e.longAllReduce(ctx, desc, buf)
	}
	own := slices.Clone(buf.Bytes)
	p := &plan{op: op{Op: desc, dst: buf.Bytes, small: make([][]byte, e.size)}, order: collectiveOrder(frame.Collective)}
	p.small[e.rank] = own
	p.eager = own
	p.to = func(int) []byte { return own }
	p.from = func(int) ([]byte, bool) { return nil, true }
	p.finish = func() { sumTerms(p.dst, p.small) }
	return e.begin(ctx, p)
}

// longAllReduce folds each rank's share of buf at that rank, then gathers the shares, under
// the same sequence number in the second space.
func (e *Engine) longAllReduce(ctx context.Context, desc collective.Op, buf collective.Buffer) *collective.Pending {
	part := (desc.Elems + e.size - 1) / e.size
	acc := &sum{last: e.size - 1, chunk: make([]float32, e.foldElems()), add: e.cfg.Fold}
	if acc.add == nil {
		acc.add = addF32
	}
	first := e.reduce(desc, acc, buf.Bytes, part, desc.Elems, e.size)
	acc.own = first.share(buf.Bytes, e.rank)
	pending, complete := collective.NewPending()

	e.mu.Lock()
	defer e.mu.Unlock()
	e.next[first.order]++
	first.Seq = e.next[first.order]
	ticket := e.recorder.Begin(first.Op)
	done := func(err error) {
		pending.Note(e.recorder.End(ticket, err))
		if err == nil {
			e.stats.Ops[desc.Kind]++
		}
		complete(err)
	}
	first.done = func(err error) {
		if err != nil {
			done(err)
		}
	}
	first.finish = func() {
		second := e.gather(first.Op, collectiveOrder(frame.Second), buf.Bytes, acc.own, part, desc.Elems)
		second.done = done
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.err != nil {
			return // first ends with it
		}
		e.beginLocked(ctx, second)
	}
	e.beginLocked(ctx, first)
	return pending
}

// Exchange is collective.Group's.
func (e *Engine) Exchange(ctx context.Context, record []byte) ([][]byte, error) {
	desc, err := check.Exchange(record)
	if err != nil {
		return nil, err
	}
	own := append(make([]byte, 0, len(record)), record...) // not nil when empty
	p := &plan{op: op{Op: desc, small: make([][]byte, e.size)}, order: collectiveOrder(frame.Collective), eager: own}
	p.small[e.rank] = own
	p.to = func(int) []byte { return own }
	p.from = func(int) ([]byte, bool) { return nil, true }
	pending := e.begin(ctx, p)
	<-pending.Done() // the operation watches ctx
	if err := pending.Wait(ctx); err != nil {
		return nil, err
	}
	return p.small, nil
}

// Send is collective.Group's.
func (e *Engine) Send(ctx context.Context, name string, to int, src collective.Buffer) *collective.Pending {
	desc, err := check.Transfer(collective.KindSend, e.rank, e.size, name, to, src)
	if err != nil {
		return collective.Completed(err)
	}
	p := &plan{op: op{Op: desc, src: src.Bytes}, order: pairOrder(e.rank, to)}
	p.to = func(int) []byte { return src.Bytes }
	return e.begin(ctx, p)
}

// Recv is collective.Group's.
func (e *Engine) Recv(ctx context.Context, name string, from int, dst collective.Buffer) *collective.Pending {
	desc, err := check.Transfer(collective.KindRecv, e.rank, e.size, name, from, dst)
	if err != nil {
		return collective.Completed(err)
	}
	p := &plan{op: op{Op: desc, dst: dst.Bytes}, order: pairOrder(from, e.rank)}
	p.from = func(int) ([]byte, bool) { return dst.Bytes, true }
	return e.begin(ctx, p)
}

// Broadcast is collective.Group's.
func (e *Engine) Broadcast(ctx context.Context, name string, root int, buf collective.Buffer) *collective.Pending {
	desc, err := check.Broadcast(e.size, name, root, buf)
	if err != nil {
		return collective.Completed(err)
	}
	p := &plan{op: op{Op: desc, src: buf.Bytes, dst: buf.Bytes}, order: collectiveOrder(frame.Collective)}
	if e.rank == root {
		p.to = func(int) []byte { return buf.Bytes }
	} else {
		p.from = func(r int) ([]byte, bool) { return buf.Bytes, r == root }
	}
	return e.begin(ctx, p)
}
