package engine

import (
	"context"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
	"github.com/zerofleet/zerofleet/kernels"
)

// levelBytes is the least part that a gather takes by levels: below, one hop counts for more than bytes between hosts.
const levelBytes = 64 << 10

// levels are where the ranks are when several share each of several hosts, as many on each. A gather by levels sends each part
// once to each host instead of once to each rank: first to the rank in the same place of every other host (the column), then,
// host by host, to the ranks of the own one (the row). What is within a host costs memory's rate at most, what is between hosts
// the network's.
//
// Source: the hierarchical collectives of Thakur, Rabenseifner, Gropp 2005, Int. J. High Perf. Comp. App. 19(1), section 4.1,
// without a leader: each rank of a host brings in its share.
type levels struct {
	ranks       [][]int // by host, by place
	place       []int   // by rank
	column, row map[int]bool
	host        int // this rank's
}

// newLevels is nil where a direct exchange is as good: one host, one rank a host, or unequal hosts. hosts[r] names rank r's.
func newLevels(hosts []string, rank int) *levels {
	l := &levels{place: make([]int, len(hosts)), column: map[int]bool{}, row: map[int]bool{}}
	index := map[string]int{}
	for r, name := range hosts {
		h, known := index[name]
		if !known {
			h = len(l.ranks)
			index[name], l.ranks = h, append(l.ranks, nil)
		}
		l.place[r] = len(l.ranks[h])
		l.ranks[h] = append(l.ranks[h], r)
	}
	for _, all := range l.ranks {
		if len(all) < 2 || len(all) != len(l.ranks[0]) || len(l.ranks) < 2 {
			return nil
		}
	}
	l.host = index[hosts[rank]]
	for h, all := range l.ranks {
		l.column[all[l.place[rank]]] = true
		for _, r := range all {
			l.row[r] = l.row[r] || h == l.host
		}
	}
	return l
}

// levelled is an operation by levels under way: a column, and a row for each host.
type levelled struct {
	open, left int // operations that have begun and not ended; all that have not
	err        error
	end        func(error)
}

// ended notes the end of one of the operations. The caller's memory is free when all have. The caller holds mu.
func (v *levelled) ended(err error) {
	v.open--
	v.left--
	if v.err == nil {
		v.err = err
	}
	if v.open == 0 && (v.err != nil || v.left == 0) {
		v.end(v.err)
	}
}

// beginLevels begins an operation of so many parts, for its caller. The caller holds mu.
func (e *Engine) beginLevels(desc collective.Op, parts int) (v *levelled, ticket uint64, pending *collective.Pending) {
	pending, complete := collective.NewPending()
	ticket = e.recorder.Begin(desc)
	v = &levelled{left: parts}
	v.end = func(err error) {
		pending.Note(e.recorder.End(ticket, err))
		if err == nil {
			e.stats.Ops[desc.Kind]++
		}
		complete(err)
	}
	return v, ticket, pending
}

// rowsOf numbers an operation's rows, one a host: all ranks begin the same operations in the same order, so they number alike.
func (e *Engine) rowsOf(l *levels) (first uint64) {
	rows := collectiveOrder(frame.Row)
	first = e.next[rows] + 1
	e.next[rows] += uint64(len(l.ranks))
	return first
}

// gatherByLevels is AllGather where there are levels.
func (e *Engine) gatherByLevels(ctx context.Context, desc collective.Op, dst, own []byte, part, total int) *collective.Pending {
	l := e.levels
	e.mu.Lock()
	defer e.mu.Unlock()
	column := e.gather(desc, collectiveOrder(frame.Collective), dst, own, part, total)
	column.with = l.column
	e.next[column.order]++
	column.Seq = e.next[column.order]
	v, ticket, pending := e.beginLevels(column.Op, 1+len(l.ranks))
	column.arrive = func(rank int) { e.recorder.Arrive(ticket, rank) }
	column.done = v.ended
	first := e.rowsOf(l)
	row := func(h int) *plan {
		p := &plan{op: op{Op: column.Op, src: own, dst: dst, part: part, total: total}, order: collectiveOrder(frame.Row), with: l.row}
		p.Seq = first + uint64(h)
		p.to = func(int) []byte {
			if h == l.host {
				return own
			}
			return p.share(dst, l.ranks[h][l.place[e.rank]])
		}
		p.from = func(r int) ([]byte, bool) { return p.share(dst, l.ranks[h][l.place[r]]), true }
		p.done = v.ended
		return p
	}
	inPlace := column.finish // copies this rank's own part
	column.finish = func() {
		if inPlace != nil {
			inPlace()
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		for h := range l.ranks {
			if e.err == nil && h != l.host {
				v.open++
				e.beginLocked(ctx, row(h))
			}
		}
	}
	v.open = 2
	e.beginLocked(ctx, column)
	e.beginLocked(ctx, row(l.host))
	return pending
}

// partial is the sum of one host's terms of a slice, in f32, on its way to the slice's owner.
type partial struct {
	sum []byte
	add func(acc []float32, src []byte, t kernels.DType) error
}

func (p *partial) Len() int { return len(p.sum) / 4 }

func (p *partial) Fold(_, off int, src []byte, t kernels.DType) error {
	sum, _ := floats(p.sum) // memory of Go's, which is aligned
	return p.add(sum[off:off+t.Len(len(src))], src, t)
}

// reduceByLevels is ReduceScatter where there are levels and no order: the terms of a host are summed in it, slice by slice, and
// its sums sent to their owners, once for all its ranks. An owner's accumulator is given a sum for each host that has terms.
func (e *Engine) reduceByLevels(ctx context.Context, desc collective.Op, acc collective.Accumulator, src []byte, contributors int) *collective.Pending {
	l := e.levels
	terms := func(h int) (who []int) { // who has one
		for _, r := range l.ranks[h] {
			if r < contributors {
				who = append(who, r)
			}
		}
		return who
	}
	part, total := desc.Elems, desc.Elems*e.size
	e.mu.Lock()
	defer e.mu.Unlock()
	at := collectiveOrder(frame.Collective)
	e.next[at]++
	desc.Seq = e.next[at]
	rows := len(l.ranks)
	if len(terms(l.host)) == 0 {
		rows = 0 // this host has nothing to sum
	}
	v, ticket, pending := e.beginLevels(desc, 1+rows)
	first := e.rowsOf(l)
	sums := make([]*partial, len(l.ranks))

	// The sums are f32, whatever the terms are; the column has a number in the space of second phases.
	column := &plan{op: op{Op: desc, acc: acc, part: part, total: total, folding: true, anyOrder: true}, order: collectiveOrder(frame.Second), with: l.column}
	column.Type = kernels.F32
	column.arrive = func(rank int) { e.recorder.Arrive(ticket, rank) }
	column.done = v.ended
	column.fold.mine = e.rank
	host := map[int]int{} // of the column's ranks
	for h, all := range l.ranks {
		r := all[l.place[e.rank]]
		host[r] = h
		if len(terms(h)) > 0 {
			column.fold.who = append(column.fold.who, r)
		}
	}
	if rows > 0 {
		column.to = func(r int) []byte { return sums[host[r]].sum }
	}
	column.from = func(r int) ([]byte, bool) { return nil, len(terms(host[r])) > 0 }

	waits := rows // for the column
	begin := func() {
		if rows > 0 {
			column.own = sums[l.host].sum
		}
		v.open++
		e.beginLocked(ctx, column)
	}
	v.open = 1 // none ends the operation before all have begun
	for h := range rows {
		sums[h] = &partial{sum: make([]byte, 4*part), add: e.cfg.Fold}
		mine := l.ranks[h][l.place[e.rank]]
		p := &plan{op: op{Op: desc, src: src, acc: sums[h], part: part, total: total, folding: true, anyOrder: true}, order: collectiveOrder(frame.Row), with: l.row}
		p.Seq = first + uint64(h)
		p.fold.mine, p.fold.who = mine, terms(l.host)
		if e.rank < contributors {
			p.own = p.share(src, mine)
			p.to = func(r int) []byte { return p.share(src, l.ranks[h][l.place[r]]) }
		}
		p.from = func(r int) ([]byte, bool) { return nil, r < contributors }
		p.finish = func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if waits--; waits == 0 && e.err == nil {
				begin()
			}
		}
		p.done = v.ended
		v.open++
		e.beginLocked(ctx, p)
	}
	if rows == 0 {
		begin()
	}
	v.open--
	if v.open == 0 && v.err != nil {
		v.end(v.err)
	}
	return pending
}
