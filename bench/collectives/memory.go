package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"github.com/zerofleet/zerofleet/kernels"
	"github.com/zerofleet/zerofleet/kernels/cpu"
)

// mapped is anonymous memory, as kernels/cpu's: none of Go's, zeroed, in huge pages where it is long.
type mapped struct{ bytes []byte }

const hugeFrom = 4 << 20

func mapMemory(bytes int64) (*mapped, error) {
	b, err := syscall.Mmap(-1, 0, int(bytes), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", bytes, err)
	}
	if bytes >= hugeFrom {
		_ = syscall.Madvise(b, syscall.MADV_HUGEPAGE) // a wish
	}
	return &mapped{b}, nil
}

func (m *mapped) Bytes() []byte { return m.bytes }

func (m *mapped) Free() error { return syscall.Munmap(m.bytes) }

// floats sees memory as f32.
func floats(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// threads is the limit of ranks on one host: as many threads of one process do with plain memory what the operations are
// for. It implements session.
type threads struct{ ranks int }

func (t threads) close() error { return nil }

func (t threads) measure(ctx context.Context, o order) (float64, error) {
	var free []*mapped
	defer func() {
		for _, m := range free {
			_ = m.Free()
		}
	}()
	get := func(bytes int64) ([]byte, error) {
		m, err := mapMemory(bytes)
		if err != nil {
			return nil, err
		}
		free = append(free, m)
		clear(m.bytes) // its pages are there
		return m.bytes, nil
	}
	full, sums := make([][]byte, t.ranks), make([][]byte, t.ranks)
	for r := range t.ranks {
		var err, e error
		full[r], err = get(o.bytes * int64(t.ranks))
		sums[r], e = get(o.bytes)
		if err := errors.Join(err, e); err != nil {
			return 0, err
		}
	}
	b := newBarrier(t.ranks)
	part := func(of, r int) []byte { return full[of][int64(r)*o.bytes:][:o.bytes] }
	gather := func(r int) error {
		for i := 1; i < t.ranks; i++ {
			from := (r + i) % t.ranks
			move(part(r, from), part(from, from))
		}
		return nil
	}
	reduce := func(r int) error {
		for from := range t.ranks {
			if err := cpu.Accumulate(floats(sums[r]), part(from, r), kernels.F32); err != nil {
				return err
			}
		}
		return nil
	}
	operate := map[string]func(r int) error{
		opAllGather:     gather,
		opReduceScatter: reduce,
		opAllReduce: func(r int) error {
			clear(sums[r])
			if err := reduce(r); err != nil {
				return err
			}
			b.wait() // others still read what is overwritten now
			move(part(r, r), sums[r])
			b.wait()
			return gather(r)
		},
	}[o.operation]
	seconds, errs := make([]float64, t.ranks), make([]error, t.ranks)
	var wg sync.WaitGroup
	for r := range t.ranks {
		wg.Go(func() {
			one := func() error {
				err := operate(r)
				b.wait()
				return err
			}
			errs[r] = one()
			s, err := timed(o, one)
			seconds[r], errs[r] = s, errors.Join(errs[r], err)
		})
	}
	wg.Wait()
	slowest := 0.0
	for _, s := range seconds {
		slowest = max(slowest, s)
	}
	return slowest, errors.Join(errors.Join(errs...), context.Cause(ctx))
}

// barrier lets threads go on when all of them have come.
type barrier struct {
	mu      sync.Mutex
	all     sync.Cond
	n, come int
	round   int
}

func newBarrier(n int) *barrier {
	b := &barrier{n: n}
	b.all.L = &b.mu
	return b
}

func (b *barrier) wait() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.come++; b.come == b.n {
		b.come = 0
		b.round++
		b.all.Broadcast()
		return
	}
	for round := b.round; round == b.round; {
		b.all.Wait()
	}
}

// move copies in pieces: from 1 MiB on Go copies with stores that pass by the caches, at little more than half the rate.
func move(to, from []byte) {
	const most = 256 << 10
	for len(from) > most {
		copy(to, from[:most])
		to, from = to[most:], from[most:]
	}
	copy(to, from)
}
