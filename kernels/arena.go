package kernels

import (
	"fmt"
	"sort"
)

// Use says what bytes are for. A plan and the allocator count by it.
type Use string

// The uses that zerofleet tells apart.
const (
	Parameters  Use = "parameters"
	Gradients   Use = "gradients"
	Optimizer   Use = "optimizer"
	Activations Use = "activations"
	Gathered    Use = "gathered parameters"
	LeafGrads   Use = "leaf gradients"
	Workspace   Use = "workspace"
	Staging     Use = "staging"
	Replica     Use = "replica" // another rank's state and gradient
)

const arenaAlign = 256 // bytes; a cache line, an AVX-512 store and a CUDA allocation all divide it

// Arena hands out buffers and counts them by use. Memory is planned before it
// is taken: build everything once on the zero Arena, which only counts and
// whose buffers have no memory, then once on the result of Allocate, which takes each
// kind of memory in one allocation. The second build must ask for the same
// buffers as the first. An Arena is used by one goroutine.
type Arena struct {
	taken   map[Use]int64
	next    map[Kind]int64
	backing map[Kind]Memory // nil while measuring
}

// Allocate takes the memory that was measured on a from b. The caller frees the
// returned Arena.
func (a *Arena) Allocate(b Backend) (*Arena, error) {
	r := &Arena{backing: map[Kind]Memory{}}
	for _, kind := range []Kind{Device, Host} {
		bytes := a.next[kind]
		if bytes == 0 {
			continue
		}
		m, err := b.Alloc(kind, bytes)
		if err != nil {
			return nil, fmt.Errorf("allocate %d bytes of %s memory: %w", bytes, kind, joinErr(err, r.Free()))
		}
		r.backing[kind] = m
	}
	return r, nil
}

func joinErr(err, more error) error {
	if more == nil {
		return err
	}
	return fmt.Errorf("%w; then: %w", err, more)
}

// Take hands out n elements of type t.
func (a *Arena) Take(use Use, kind Kind, t DType, n int) (Buffer, error) {
	if n < 0 || t.Bytes() == 0 || n%t.Block() != 0 {
		return Buffer{}, fmt.Errorf("take %s: %d elements of %s", use, n, t)
	}
	if a.taken == nil {
		a.taken, a.next = map[Use]int64{}, map[Kind]int64{}
	}
	bytes := int64(t.Size(n))
	off := a.next[kind]
	a.next[kind] = off + (bytes+arenaAlign-1)/arenaAlign*arenaAlign
	a.taken[use] += bytes
	if a.backing == nil {
		return Buffer{n: n, kind: t, off: off}, nil
	}
	m := a.backing[kind]
	if m == nil || off+bytes > m.Bytes() {
		return Buffer{}, fmt.Errorf("take %s: %d bytes of %s memory at %d were not planned", use, bytes, kind, off)
	}
	return NewBuffer(m, off, n, t)
}

// Measuring reports whether a only counts.
func (a *Arena) Measuring() bool { return a.backing == nil }

// Usage is the bytes taken by use, without alignment.
func (a *Arena) Usage() map[Use]int64 {
	u := make(map[Use]int64, len(a.taken))
	for k, v := range a.taken {
		u[k] = v
	}
	return u
}

// Bytes is all that was taken, alignment included.
func (a *Arena) Bytes() int64 { return a.next[Device] + a.next[Host] }

// Uses lists the uses that took something, in a fixed order.
func (a *Arena) Uses() []Use {
	u := make([]Use, 0, len(a.taken))
	for k := range a.taken {
		u = append(u, k)
	}
	sort.Slice(u, func(i, j int) bool { return u[i] < u[j] })
	return u
}

// Shared calls share with the Host memory, where other processes can be given it to read.
func (a *Arena) Shared(share func(b []byte, fd int) error) error {
	m, ok := a.backing[Host].(Shareable)
	if !ok {
		return nil
	}
	fd, ok := m.File()
	if !ok {
		return nil
	}
	b, err := m.Host()
	if err != nil {
		return err
	}
	return share(b, fd)
}

// Free gives all memory back.
func (a *Arena) Free() error {
	var first error
	for kind, m := range a.backing {
		if err := m.Free(); err != nil && first == nil {
			first = fmt.Errorf("free %s memory: %w", kind, err)
		}
		delete(a.backing, kind)
	}
	return first
}
