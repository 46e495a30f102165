package engine

import (
	"context"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/collective/internal/frame"
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

// levelled is a gather by levels under way: its column, and a row for each host.
type levelled struct {
	open, rows int // operations that have begun and not ended; rows that have not
	err        error
	end        func(error)
}

// ended notes the end of one of the operations. The caller's memory is free when all have. The caller holds mu.
func (v *levelled) ended(row bool, err error) {
	v.open--
	if row {
		v.rows--
	}
	if v.err == nil {
		v.err = err
	}
	if v.open == 0 && (v.err != nil || v.rows == 0) {
		v.end(v.err)
	}
}

// gatherByLevels is AllGather where there are levels.
func (e *Engine) gatherByLevels(ctx context.Context, desc collective.Op, dst, own []byte, part, total int) *collective.Pending {
	l := e.levels
	pending, complete := collective.NewPending()
	e.mu.Lock()
	defer e.mu.Unlock()
	column := e.gather(desc, collectiveOrder(frame.Collective), dst, own, part, total)
	column.with = l.column
	e.next[column.order]++
	column.Seq = e.next[column.order]
	ticket := e.recorder.Begin(column.Op)
	column.arrive = func(rank int) { e.recorder.Arrive(ticket, rank) }
	v := &levelled{rows: len(l.ranks)}
	v.end = func(err error) {
		pending.Note(e.recorder.End(ticket, err))
		if err == nil {
			e.stats.Ops[desc.Kind]++
		}
		complete(err)
	}

	// All ranks begin the same gathers in the same order, so they number the rows alike.
	rows := collectiveOrder(frame.Row)
	first := e.next[rows] + 1
	e.next[rows] += uint64(len(l.ranks))
	row := func(h int) *plan {
		p := &plan{op: op{Op: column.Op, src: own, dst: dst, part: part, total: total}, order: rows, with: l.row}
		p.Seq = first + uint64(h)
		p.to = func(int) []byte {
			if h == l.host {
				return own
			}
			return p.share(dst, l.ranks[h][l.place[e.rank]])
		}
		p.from = func(r int) ([]byte, bool) { return p.share(dst, l.ranks[h][l.place[r]]), true }
		p.done = func(err error) { v.ended(true, err) }
		return p
	}
	column.done = func(err error) { v.ended(false, err) }
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
