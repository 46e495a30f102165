package deferred

import (
	"fmt"
	"hash/maphash"

	"github.com/zerofleet/zerofleet/kernels"
)

// An access is one unfinished operation's use of bytes [lo, hi) of a memory.
type access struct {
	t      *task
	m      *memory
	name   string // the argument
	lo, hi int64
	mode   kernels.Access
	seen   []snapshot // what the host had written to the parts that the operation reads
}

// A snapshot is the hash of a part of the host's view when an operation that reads it was enqueued.
type snapshot struct {
	lo, hi int64
	sum    uint64
}

func (a *access) overlaps(lo, hi int64) bool { return a.lo < hi && lo < a.hi }
func (a *access) writes() bool               { return a.mode&kernels.Write != 0 }
func (a *access) reads() bool                { return a.mode&kernels.Read != 0 }

func verb(mode kernels.Access) string {
	switch mode {
	case kernels.Read:
		return "reads"
	case kernels.Write:
		return "writes"
	}
	return "updates"
}

// newAccess finds the memory of an argument.
func (t *task) newAccess(name string, buf kernels.Buffer, mode kernels.Access) (*access, error) {
	m, err := t.s.b.memoryOf(name, buf)
	if err != nil {
		return nil, err
	}
	return &access{t: t, m: m, name: name, lo: buf.Offset(), hi: buf.Offset() + buf.Bytes(), mode: mode}, nil
}

// ordered fails when an unfinished operation of another stream, one that nothing orders before a, conflicts with it.
func (a *access) ordered() error {
	for _, p := range a.m.pending {
		if p.t.s == a.t.s || !p.overlaps(a.lo, a.hi) || !p.writes() && !a.writes() || a.t.s.clock[p.t.s] >= p.t.n {
			continue
		}
		return fmt.Errorf("%s %s %s, which %s %s as %s with nothing to order them: missing Record and Wait",
			a.t, verb(a.mode), a.name, p.t, verb(p.mode), p.name)
	}
	return nil
}

// begin takes what the host has written into the operation's own memory, hides what
// the operation will write from the host, and makes the access pending.
func (a *access) begin() error {
	if a.m.kind == kernels.Host && a.lo < a.hi {
		if err := a.exchange(); err != nil {
			return err
		}
	}
	a.m.pending = append(a.m.pending, a)
	return nil
}

func (a *access) exchange() error {
	m := a.m
	if a.reads() {
		if err := m.protect(open); err != nil {
			return err
		}
		for _, part := range a.fromHost() {
			copy(m.data[part.lo:part.hi], m.view[part.lo:part.hi])
			part.sum = m.sum(part)
			a.seen = append(a.seen, part)
		}
		if err := m.protect(closed); err != nil {
			return err
		}
	}
	if !a.writes() {
		return nil
	}
	for _, p := range m.pending {
		if p.overlaps(a.lo, a.hi) {
			if err := p.unchanged(); err != nil {
				return err
			}
			p.seen = nil // its part of the view is not the host's from here on
		}
	}
	a.seen = nil
	fill(m.view[a.lo:a.hi])
	return nil
}

// fromHost is what the access reads and no unfinished operation writes: those bytes are the host's, now.
func (a *access) fromHost() []snapshot {
	parts := []snapshot{{lo: a.lo, hi: a.hi}}
	for _, p := range a.m.pending {
		if !p.writes() {
			continue
		}
		var rest []snapshot
		for _, s := range parts {
			if !p.overlaps(s.lo, s.hi) {
				rest = append(rest, s)
				continue
			}
			if s.lo < p.lo {
				rest = append(rest, snapshot{lo: s.lo, hi: p.lo})
			}
			if p.hi < s.hi {
				rest = append(rest, snapshot{lo: p.hi, hi: s.hi})
			}
		}
		parts = rest
	}
	return parts
}

// unchanged fails when the host has written to what the queued operation reads.
func (a *access) unchanged() error {
	for _, s := range a.seen {
		if a.m.sum(s) != s.sum {
			return fmt.Errorf("the host wrote to bytes [%d, %d) while %s, which reads them as %s, was queued: missing Sync",
				s.lo, s.hi, a.t, a.name)
		}
	}
	return nil
}

// end shows the host what was written, and makes the access finished.
func (a *access) end(ran bool) {
	if ran && a.m.kind == kernels.Host && a.writes() {
		copy(a.m.view[a.lo:a.hi], a.m.data[a.lo:a.hi])
	}
	for i, p := range a.m.pending {
		if p == a {
			a.m.pending = append(a.m.pending[:i], a.m.pending[i+1:]...)
			return
		}
	}
}

var seed = maphash.MakeSeed()

func (m *memory) sum(s snapshot) uint64 { return maphash.Bytes(seed, m.view[s.lo:s.hi]) }

//go:norace
func fill(b []byte) {
	for i := range b {
		b[i] = poison
	}
}
